"""Operations: the list, and one of them from its frozen set to the result of each item."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from bpa.control.operation_terms import DONE, Act, Became, State
from bpa.control.rest.operation_schemas import Operation, OperationItem
from bpa.ui.views.runs import Tab
from bpa.ui.views.status import Badge
from bpa.ui.words import count
from bpa.words import segment, span

FAILURES = tuple(result for result in Became if result not in DONE)
_VERBS = {Act.CANCEL: "Cancel", Act.RETRY: "Retry", Act.REPLAY: "Replay"}
_THINGS = {Act.CANCEL: "run", Act.RETRY: "run", Act.REPLAY: "dead letter"}
_STATES = {
    State.HELD: Badge("held, not started", "pause", "wait"),
    State.RUNNING: Badge("at work", "work", "work"),
    State.STOPPED: Badge("stopped", "dead", "bad"),
    State.DONE: Badge("done", "done", "good"),
}
_NOT_YET = {Became.CANCELLING: "wait", Became.SENT: "wait", Became.BUSY: "wait"}
_ICONS = {"good": "done", "wait": "wait", "bad": "dead"}
_EFFECTS = {
    Act.CANCEL: "A cancelled run goes to the dead letters; what it has sent stays sent.",
    Act.RETRY: "A retry replays a dead letter, or ends a backoff.",
    Act.REPLAY: "Each is sent to its queue again, under the key and with the journal of its run.",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A run or dead letter of an operation."""

    item: OperationItem
    badge: Badge
    path: str
    run_path: str
    """The page of the run that came of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """An operation in the list."""

    operation: Operation
    title: str
    badge: Badge
    path: str
    chosen: str
    progress: str
    share: float
    tone: str


@dataclass(frozen=True, slots=True)
class Operations:
    """The list."""

    lines: Sequence[Line]
    older_path: str

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        working = sum(line.operation.state is State.RUNNING for line in self.lines)
        return f"{working} operations at work"


@dataclass(frozen=True, slots=True)
class Page:
    """One operation."""

    line: Line
    tallies: Sequence[Badge]
    """Finished items by result."""
    left: str
    """How long it will take at its rate."""
    effect: str
    items: Sequence[Item]
    tabs: Sequence[Tab]
    older_path: str
    commands: Sequence[str]

    @property
    def is_held(self) -> bool:
        """Nothing is done until somebody starts it."""
        return self.line.operation.state is State.HELD

    @property
    def is_running(self) -> bool:
        """It is at work."""
        return self.line.operation.state is State.RUNNING

    @property
    def said(self) -> str:
        """What changed, in a sentence for who listens to the page."""
        return f"{self.line.title}: {self.line.badge.text}, {self.line.progress}"


def operations(rows: Sequence[Operation], following: str | None) -> Operations:
    """Return what the list shows."""
    older = f"/ui/operations?{urlencode({'cursor': following})}" if following else ""
    return Operations([line(row) for row in rows], older)


def line(operation: Operation) -> Line:
    """Return an operation as a list shows it."""
    things = _THINGS[operation.action] + ("" if operation.items == 1 else "s")
    failed = operation.finished - operation.succeeded
    tone = "bad" if failed else "good" if operation.state is State.DONE else "work"
    badge = _STATES[operation.state]
    if operation.state is State.DONE and failed:
        badge = Badge(f"done, {count(failed)} failed", "dead", "bad")
    if operation.state is State.RUNNING and operation.trouble:
        badge = Badge("waits", "wait", "wait")
    return Line(
        operation=operation,
        title=f"{_VERBS[operation.action]} {count(operation.items)} {things}",
        badge=badge,
        path=path_of(operation.id),
        chosen=chosen_of(operation),
        progress=f"{count(operation.finished)} of {count(operation.items)}",
        share=operation.finished / max(1, operation.items),
        tone=tone,
    )


def page(
    operation: Operation,
    items: Sequence[OperationItem],
    *,
    shows_all: bool,
    following: str | None,
) -> Page:
    """Return what the page of one operation shows.

    Args:
        operation: The operation.
        items: Of one that is held the first, with what would become of them; otherwise a page of
            those that were not done, or of all.
        shows_all: Whether these are all.
        following: Where the next page of them begins.
    """
    shown = line(operation)
    rate = operation.rate_per_s
    is_paced = operation.state is State.RUNNING and rate and operation.remaining
    failed = operation.finished - operation.succeeded
    show = {"show": "all"} if shows_all else {}
    older = f"{shown.path}?{urlencode({**show, 'cursor': following})}" if following else ""
    return Page(
        line=shown,
        tallies=[
            Badge(f"{count(number)} {result}", *_look(result))
            for result, number in operation.counts.items()
        ],
        left=f"{span(operation.remaining / rate)} left at its rate" if is_paced and rate else "",
        effect=_EFFECTS[operation.action],
        items=[_item(operation.action, item) for item in items],
        tabs=[
            Tab("failed", count(failed), shown.path, not shows_all),
            Tab("all", count(operation.items), f"{shown.path}?show=all", shows_all),
        ],
        older_path=older,
        commands=_commands(operation),
    )


def path_of(operation_id: str) -> str:
    """Return where an operation's page is."""
    return f"/ui/operations/{segment(operation_id)}"


def chosen_of(operation: Operation) -> str:
    """Say by what its set was chosen."""
    chosen = operation.chosen
    if chosen.ids is not None:
        return "marked by hand" if chosen.ids > 1 else "named by its id"
    limit = f"the oldest {count(chosen.limit)} of " if chosen.limit else ""
    if chosen.q is not None:
        return f"{limit}{chosen.q or 'all runs'}"
    group = chosen.cause or f"group {chosen.group}" if chosen.group else ""
    words = ": ".join(word for word in (chosen.reason, group) if word) or "all letters"
    return f"{limit}{words}" + (f" in {chosen.queue}" if chosen.queue else "")


def _commands(operation: Operation) -> list[str]:
    """Return what does the same in a shell, and what watches and stops it."""
    chosen = operation.chosen
    more = [f"--rate {operation.rate_per_s:g}"] if operation.rate_per_s else []
    more += [f"--limit {chosen.limit}"] if chosen.limit else []
    same: list[str] = []
    if chosen.q is not None:
        same = [f"bpa runs {operation.action} --where {shlex.quote(chosen.q)}", *more]
    elif chosen.ids is None:
        reason = None if chosen.group else chosen.reason
        given = {"reason": reason, "group": chosen.group, "queue": chosen.queue}
        named = [f"--{name} {shlex.quote(value)}" for name, value in given.items() if value]
        same = ["bpa dlq replay", *named, *more]
    at = {State.RUNNING: ("watch", "stop"), State.HELD: ("stop",)}
    verbs = at.get(operation.state, ("show",))
    own = [f"bpa operations {verb} {operation.id}" for verb in verbs]
    return [*([" ".join(same)] if same else []), *own]


def _item(action: Act, item: OperationItem) -> Item:
    at = "dead-letters" if action is Act.REPLAY else "runs"
    badge = Badge("waits", "wait", "calm")
    if item.result is not None:
        badge = Badge(str(item.result), *_look(Became(item.result)))
    return Item(
        item=item,
        badge=badge,
        path=f"/ui/{at}/{segment(item.subject)}",
        run_path=f"/ui/runs/{segment(item.run_id)}" if item.run_id else "",
    )


def _look(result: Became) -> tuple[str, str]:
    """Return the icon and the tone of a result."""
    tone = _NOT_YET.get(result, "good" if result in DONE else "bad")
    return _ICONS[tone], tone

"""Facts of a run and where they lead: what it is, its message and replays, commands, outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from bpa.control.replay_plan import LetterId
from bpa.control.rest.run_schemas import MessageView, ReplayLink, Run, executions_of
from bpa.domain.runs import TERMINAL, RunStatus
from bpa.ui.views import status
from bpa.ui.words import count, exact
from bpa.words import segment, usd


@dataclass(frozen=True, slots=True)
class Outside:
    """Addresses of what others keep of runs, an id to be put in each; empty where none is set."""

    trace: str = ""
    """With ``{trace_id}``."""
    logs: str = ""
    """With ``{run_id}`` or ``{trace_id}``."""


@dataclass(frozen=True, slots=True)
class Link:
    """A fact that leads somewhere, or none."""

    name: str
    text: str
    path: str = ""
    copy: bool = False
    title: str = ""
    outside: str = ""
    """An address of somebody else's, which the settings name."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One of the runs that a message came to be."""

    name: str
    path: str
    badge: status.Badge | None
    """None where its message has not arrived yet."""
    about: str
    at: datetime | None
    is_here: bool


def address(template: str, run: Run) -> str:
    """Return where others keep something of a run; empty where no setting says."""
    ids = {"{trace_id}": run.trace_id, "{run_id}": run.run_id}
    for name, value in ids.items():
        template = template.replace(name, segment(value))
    return template


def about(run: Run, outside: Outside) -> Iterator[Link]:
    """Say what a run is, and what it has used."""
    if run.vendor:
        yield Link("vendor", run.vendor)
    if run.invoice_id:
        yield Link("invoice", run.invoice_id, copy=True)
    yield Link("deployment", run.deployment_id, f"/ui/deployments/{segment(run.deployment_id)}")
    if run.revision is not None:
        yield Link("received under", f"revision {run.revision}")
    yield Link("agent", f"{run.agent_id} {run.version}")
    if run.node_id:
        yield Link("node", run.node_id, f"/ui/fleet/{segment(run.node_id)}")
    if run.executions:
        yield Link("executions", executions_of(run))
    if run.steps:
        yield Link("tokens", count(run.tokens_used))
        yield Link("cost", f"{usd(run.cost_usd)} USD", title=f"exactly {run.cost_usd} USD")
    if run.unknown_calls:
        yield Link("unknown calls", f"{run.unknown_calls}, not in the cost")
    if run.replay_of:
        yield Link("replay of", run.replay_of, f"/ui/runs/{segment(run.replay_of)}")
    if run.replayed_as:
        yield Link("replayed as", run.replayed_as, f"/ui/runs/{segment(run.replayed_as)}")
    yield Link("trace", run.trace_id, copy=True, outside=address(outside.trace, run))
    yield Link("effect key", run.effect_key, copy=True)


def message(run: Run) -> Iterator[Link]:
    """Say what a run's message is, as it was received."""
    source = run.input_ref
    yield _to_copy("message id", source.get("message_id"))
    yield Link("queue", f"{source.get('queue')}, number {source.get('sequence_number')}")
    yield Link("enqueued", exact(run.enqueued_at))
    if run.deliveries:
        yield Link("delivered", _times(1 + max(one.delivery_count for one in run.deliveries)))
    if run.message is not None:
        yield Link("content type", run.message.content_type or "none said")
        yield _to_copy("correlation id", run.message.correlation_id)
    yield Link("dialect", str(source.get("dialect") or "none was recognised"))
    yield Link("size", f"{count(source.get('bytes', 0))} bytes")
    if excerpt := source.get("excerpt"):
        yield Link("excerpt", str(excerpt))


def _to_copy(name: str, value: str | None) -> Link:
    return Link(name, value or "none", copy=bool(value))


def properties(kept: MessageView | None) -> Sequence[tuple[str, str]]:
    """Return a message's application properties."""
    if kept is None:
        return []
    more = kept.properties_left_out
    return [*kept.properties.items(), *([("…", f"{count(more)} more were not kept")] * bool(more))]


def replays(run: Run) -> list[Replay]:
    """Return all runs that the message came to be, from the original on."""
    return [_replay(link, link.run_id == run.run_id) for link in run.replays]


def _replay(link: ReplayLink, is_here: bool) -> Replay:  # noqa: FBT001 - one caller, above
    edited = ", with another body" if link.edited else ""
    return Replay(
        name=f"replay {link.replay_number}" if link.replay_number else "the original",
        path="" if is_here else f"/ui/runs/{segment(link.run_id)}",
        badge=status.of_status(link.status) if link.status else None,
        about=f"asked for by {link.requested_by}{edited}" if link.requested_by else "",
        at=link.requested_at,
        is_here=is_here,
    )


def letters(run: Run) -> list[tuple[str, str]]:
    """Return the dead letters of a run and their pages; a message that was sent twice has two."""
    if run.status != RunStatus.DEAD_LETTERED or run.replayed_as is not None:
        return []
    queue = str(run.input_ref.get("queue", ""))
    numbers = {run.input_ref.get("sequence_number")}
    numbers |= {one.sequence_number for one in run.deliveries if one.disposition == "dead_letter"}
    ids = [str(LetterId(queue, number)) for number in sorted(filter(None, numbers))]
    return [(one, f"/ui/dead-letters/{segment(one)}") for one in ids]


def commands(run: Run) -> Iterator[str]:
    """Return what does the same in a shell."""
    yield f"bpa runs show {run.run_id}"
    yield f"bpa runs logs {run.run_id}"
    if run.status not in TERMINAL:
        yield f"bpa runs cancel {run.run_id} --detail '…'"
    if run.status in (RunStatus.QUEUED, RunStatus.DEAD_LETTERED) and run.replayed_as is None:
        yield f"bpa runs retry {run.run_id}"
    for letter, _ in letters(run):
        yield f"bpa dlq show {letter}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{count(number)} times"

"""What commands that act on many do: freeze, ask, start, watch, tell.

The work is control's: a command that is interrupted has only stopped watching.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.live import Live
from rich.text import Text

from bpa.cli.api import Api, open_api
from bpa.cli.context import print_json, whoami
from bpa.cli.news import News
from bpa.cli.tables import cut, messages, output, table, whole
from bpa.control.operation_terms import DONE, Act, Became, State
from bpa.control.rest.operation_schemas import (
    Operation,
    OperationItem,
    OperationItemPage,
    OperationPreview,
)
from bpa.control.rest.schemas import Document
from bpa.errors import NotFound, Unavailable
from bpa.words import span

FAILURES_AT_MOST = 500
"""Items that were not done, in one report; `operations show --items` has all."""
_CONTROL_AWAY_S = 60.0
_FREEZE_S = 60.0
_NOT_FOUND, _CONFLICT, _UNAVAILABLE, _PARTLY = 3, 5, 6, 7
_NOT_DONE = [result for result in Became if result not in DONE]
_PAST = {Act.CANCEL: "cancelled", Act.RETRY: "retried", Act.REPLAY: "replayed"}


class OperationReport(Document, frozen=True):
    """What ``--json`` prints once an operation has ended."""

    operation: Operation
    failures: list[OperationItem]
    """Items whose result was not wanted, the first 500 of them."""


def operate(
    context: click.Context,
    asked: Mapping[str, Any],
    *,
    question: Callable[[int], str],
    may_ask: bool,
    dry_run: bool,
    yes: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Do what is asked for as an operation, and leave with the exit code that says how it went.

    Args:
        context: The command's.
        asked: The body of ``POST /v1/operations``, without who asks.
        question: What to ask, given how many there are, unless ``yes`` answers it.
        may_ask: Somebody sits there who can be asked.
        dry_run: Only say what would become of it.
        yes: Do not ask.
        detach: Leave once it is started.
        as_json: Print a document.

    Raises:
        NotFound: Nothing matches.
        Abort: Whoever was asked said no.
    """
    body = {**asked, "requestedBy": whoami()}
    if dry_run:
        _print_preview(asyncio.run(_preview(context, body)), as_json=as_json)
        return
    asks = may_ask and not yes
    operation = asyncio.run(_post(context, "/v1/operations", {**body, "hold": asks}))
    if not operation.looked_at_all:
        click.echo("there was no time to look at all dead letters: more may match", err=True)
    if asks:
        operation = _confirmed(context, operation, question)
    if detach:
        _print_detached(operation, as_json=as_json)
        return
    follow(context, operation, as_json=as_json)


def follow(context: click.Context, operation: Operation, *, as_json: bool) -> None:
    """Watch an operation to its end, tell what became of it, and leave with its exit code."""
    try:
        operation, failures = asyncio.run(_watch(context, operation))
    except KeyboardInterrupt:
        click.echo(
            f"\nthe operation goes on: `bpa operations watch {operation.id}` watches it again, "
            f"`bpa operations stop {operation.id}` stops it",
            err=True,
        )
        raise
    if as_json:
        print_json(OperationReport(operation=operation, failures=failures))
    else:
        print_items(failures)
    click.echo(headline(operation), err=True)
    context.exit(exit_code_of(operation))


def exit_code_of(operation: Operation) -> int:
    """Return 0 when all is done, 7 for a part of it, else a code for what stood in the way."""
    if operation.succeeded == operation.items:
        return 0
    found = {Became(result) for result in operation.counts}
    if operation.succeeded or operation.remaining or Became.SENT in found:
        return _PARTLY
    if found == {Became.GONE}:
        return _NOT_FOUND
    return _UNAVAILABLE if Became.FAILED in found else _CONFLICT


def headline(operation: Operation) -> str:
    """Say in a line how far an operation is."""
    done = f"{operation.finished:,} of {operation.items:,}"
    counts = ", ".join(f"{number:,} {result}" for result, number in operation.counts.items())
    parts = [f"{operation.action} {done}" + (f": {counts}" if counts else "")]
    if operation.state is State.STOPPED:
        parts.append(f"stopped by {operation.stopped_by}")
    if operation.state is State.HELD:
        parts.append("held until somebody starts it")
    if operation.state is State.RUNNING:
        parts += [f"it waits: {operation.trouble}"] if operation.trouble else []
        if operation.rate_per_s and operation.remaining:
            parts.append(f"{span(operation.remaining / operation.rate_per_s)} left at its rate")
    return "; ".join(parts)


def chosen_by(operation: Operation) -> str:
    """Say by what its set was chosen."""
    chosen = operation.chosen
    if chosen.ids is not None:
        return f"{chosen.ids:,} named"
    if chosen.q is not None:
        return chosen.q or "all"
    parts = {"queue": chosen.queue, "reason": chosen.reason, "group": chosen.group}
    words = [f"{name}:{value}" for name, value in parts.items() if value]
    return " ".join([*words, chosen.cause or ""]).strip() or "all"


def print_items(items: Sequence[OperationItem], result: str = "result") -> None:
    """Print items as a table, if there are any; ``result`` heads what became of them."""
    if not items:
        return
    name = "run" if ":" not in items[0].subject else "dead letter"
    rows = table(name, result, "why", cut="why")
    for item in items:
        became = f"as run {item.run_id}; " if item.run_id else ""
        rows.add_row(item.subject, item.result or "waits", cut(f"{became}{item.why}"))
    output().print(whole(rows, name))


async def items_of(
    api: Api, operation_id: str, results: Sequence[str], most: int
) -> list[OperationItem]:
    """Return an operation's items, all or those with one of these results."""
    path = f"/v1/operations/{operation_id}/items"
    path += "?" + "&".join(f"result={result}" for result in results) if results else ""
    found: list[OperationItem] = []
    cursor: str | None = None
    while True:
        limit = min(500, most - len(found))
        page = await api.get(path, OperationItemPage, limit=limit, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None or len(found) >= most:
            return found


def _confirmed(
    context: click.Context, operation: Operation, question: Callable[[int], str]
) -> Operation:
    """Start what is held if whoever is asked agrees; let go of it otherwise."""
    path = f"/v1/operations/{operation.id}"
    who = {"requestedBy": whoami()}
    try:
        click.confirm(question(operation.items), abort=True, err=True)
    except click.Abort:
        asyncio.run(_post(context, f"{path}:stop", who))
        raise
    return asyncio.run(_post(context, f"{path}:start", who))


async def _preview(context: click.Context, body: Mapping[str, Any]) -> OperationPreview:
    async with open_api(context) as api:
        path = "/v1/operations:preview"
        return await api.post(path, body, OperationPreview, timeout_s=_FREEZE_S)


async def _post(context: click.Context, path: str, body: Mapping[str, Any]) -> Operation:
    async with open_api(context) as api:
        return await api.post(path, body, Operation, timeout_s=_FREEZE_S)


async def _watch(
    context: click.Context, operation: Operation
) -> tuple[Operation, list[OperationItem]]:
    async with open_api(context) as api:
        news = news_of(api, operation)
        async with news.heard():
            operation = await until_ended(api, operation, news)
        failures: list[OperationItem] = []
        if operation.finished > operation.succeeded:
            failures = await items_of(api, operation.id, _NOT_DONE, FAILURES_AT_MOST)
        return operation, failures


def news_of(api: Api, operation: Operation) -> News:
    """Return what tells when to look at an operation again."""
    return News(api, "operation", lambda data: operation.id in data)


async def until_ended(api: Api, operation: Operation, news: News) -> Operation:
    """Tell how far an operation is until it has ended, and return it.

    Raises:
        Unavailable: Control has been away for a minute.
    """
    console, told = messages(), 0
    path, heard_s = f"/v1/operations/{operation.id}", time.monotonic()
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while operation.state not in (State.DONE, State.STOPPED):
            if console.is_terminal:
                live.update(Text(headline(operation)), refresh=True)
            elif operation.finished - told > operation.items // 20:
                click.echo(f"{operation.finished} of {operation.items}", err=True)
                told = operation.finished
            await news.due()
            try:
                operation = await api.get(path, Operation)
                heard_s = time.monotonic()
            except Unavailable as error:
                if time.monotonic() - heard_s > _CONTROL_AWAY_S:
                    again = f"`bpa operations watch {operation.id}`"
                    raise Unavailable(
                        f"{error}; it goes on once control is back: {again}"
                    ) from error
    return operation


def _print_preview(preview: OperationPreview, *, as_json: bool) -> None:
    if not preview.count:
        raise NotFound(f"there is nothing to {preview.action} among what was asked for")
    if as_json:
        print_json(preview)
    else:
        print_items(preview.sample, "would be")
    more = preview.count - len(preview.sample)
    rest = f", {more:,} of them not shown" if more else ""
    least = "" if preview.looked_at_all else " or more: there was no time to look at all"
    click.echo(f"would be {_PAST[preview.action]}: {preview.count:,}{least}{rest}", err=True)


def _print_detached(operation: Operation, *, as_json: bool) -> None:
    if as_json:
        print_json(operation)
    else:
        click.echo(operation.id)
    click.echo(
        f"{operation.items:,} to {operation.action}; `bpa operations watch {operation.id}` "
        "watches it",
        err=True,
    )

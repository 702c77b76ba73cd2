"""``bpa operations``: what acts on many runs or dead letters, and how far it is."""

from __future__ import annotations

import asyncio

import click

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.operating import chosen_by, follow, headline, items_of, print_items
from bpa.cli.tables import ROOMY_CHARS, ago, cut, facts, output, table, whole
from bpa.control.operation_terms import ITEMS_AT_MOST, Became
from bpa.control.rest.operation_schemas import Operation, OperationItem, OperationPage
from bpa.control.rest.schemas import Document
from bpa.words import segment

_PAGE = 500


class Operations(Document, frozen=True):
    """What ``operations list --json`` prints."""

    operations: list[Operation]
    more: bool
    """There are more than ``--limit`` let through."""


class OperationShown(Document, frozen=True):
    """What ``operations show --json`` prints."""

    operation: Operation
    items: list[OperationItem]
    """Those that were asked for with ``--items`` or ``--result``."""


@click.group("operations")
def command() -> None:
    """Look at operations: one act on many runs or dead letters, on a set that was frozen.

    `bpa runs cancel --where`, `bpa runs retry --where`, `bpa dlq replay` and the pages start them;
    control works them off, also while nobody watches. They are removed 30 days after their end.
    """


_operation_id = click.argument(
    "operation_id", metavar="ID", shell_complete=completing.operation_ids
)


@command.command("list", short_help="List operations, newest first.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="So many at most."
)
@json_option
@click.pass_context
def list_operations(context: click.Context, *, limit: int, as_json: bool) -> None:
    """List operations, newest first, with how far each is.

    \b
    Examples:
      bpa operations list
      bpa operations list --json | jq -r '.operations[] | select(.state=="running").id'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    found, more = asyncio.run(_list(context, limit))
    if as_json:
        print_json(Operations(operations=found, more=more))
        return
    if not found:
        click.echo("no operations", err=True)
        return
    console = output()
    roomy = ("by", "age") if console.width >= ROOMY_CHARS else ()
    rows = table("id", "action", "state", "done", *roomy, "of what", right=("done",), cut="of what")
    for one in found:
        done = f"{one.finished:,}/{one.items:,}"
        extra = (one.requested_by, ago(one.created_at))[: len(roomy)]
        rows.add_row(one.id, one.action, one.state, done, *extra, cut(chosen_by(one)))
    console.print(whole(rows, "id"))
    if more:
        click.echo(f"more than {limit}; --limit shows more", err=True)


@command.command("show", short_help="Show one operation.")
@_operation_id
@click.option("--items", "wants_items", is_flag=True, help="And each of its items.")
@click.option(
    "--result",
    "results",
    multiple=True,
    type=click.Choice([one.value for one in Became]),
    help="And its items with this result; may be repeated.",
)
@json_option
@click.pass_context
def show_operation(
    context: click.Context,
    *,
    operation_id: str,
    wants_items: bool,
    results: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show one operation: what it does to how many, who asked, and what became of them.

    Exits with 3 when there is no such operation.

    \b
    Examples:
      bpa operations show 5f6a8a52-8c0e-4f0a-9a38-0c9a2f1d9a2c
      bpa operations show 5f6a8a52-8c0e-4f0a-9a38-0c9a2f1d9a2c --result refused --result busy
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    one = asyncio.run(_get(context, operation_id))
    items: list[OperationItem] = []
    if wants_items or results:
        items = asyncio.run(_items(context, one.id, results))
    if as_json:
        print_json(OperationShown(operation=one, items=items))
        return
    output().print(
        facts(
            [
                ("operation", one.id),
                ("state", headline(one)),
                ("of what", chosen_by(one)),
                ("all looked at", "" if one.looked_at_all else "no: more may have matched"),
                ("why", one.detail),
                ("asked by", f"{one.requested_by}, {ago(one.created_at)} ago"),
                ("rate", f"{one.rate_per_s:g} a second" if one.rate_per_s else ""),
                ("started", one.started_at and f"{one.started_at:%F %T} UTC"),
                ("ended", one.ended_at and f"{one.ended_at:%F %T} UTC"),
            ]
        )
    )
    if items:
        click.echo()
        print_items(items)


@command.command("watch", short_help="Watch an operation to its end.")
@_operation_id
@json_option
@click.pass_context
def watch_operation(context: click.Context, *, operation_id: str, as_json: bool) -> None:
    """Watch an operation until it has ended; progress goes to standard error.

    Exits with 0 when each item was done, 7 when only a part was, with 3, 5 or 6 when none was since
    all were gone, refused or failed, and with 3 when there is no such operation. Ctrl-C (130) ends
    the watch; the operation goes on.

    \b
    Examples:
      bpa operations watch 5f6a8a52-8c0e-4f0a-9a38-0c9a2f1d9a2c
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    follow(context, asyncio.run(_get(context, operation_id)), as_json=as_json)


@command.command("stop", short_help="Stop an operation.")
@_operation_id
@json_option
@click.pass_context
def stop_operation(context: click.Context, *, operation_id: str, as_json: bool) -> None:
    """Stop an operation: what was done stays done, and what is left is left alone.

    The few items that control is at are finished. Stopping it again changes nothing.

    Exits with 3 when there is no such operation, and with 5 when there is nothing left to stop.

    \b
    Examples:
      bpa operations stop 5f6a8a52-8c0e-4f0a-9a38-0c9a2f1d9a2c
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    one = asyncio.run(_stop(context, operation_id))
    if as_json:
        print_json(one)
    else:
        click.echo(f"{headline(one)}; {one.remaining:,} left alone")


async def _list(context: click.Context, limit: int) -> tuple[list[Operation], bool]:
    found: list[Operation] = []
    cursor: str | None = None
    async with open_api(context) as api:
        while True:
            most = min(_PAGE, limit - len(found))
            page = await api.get("/v1/operations", OperationPage, limit=most, cursor=cursor)
            found += page.operations
            cursor = page.next_cursor
            if cursor is None or len(found) >= limit:
                return found, cursor is not None


async def _get(context: click.Context, operation_id: str) -> Operation:
    async with open_api(context) as api:
        return await api.get(f"/v1/operations/{segment(operation_id)}", Operation)


async def _items(
    context: click.Context, operation_id: str, results: tuple[str, ...]
) -> list[OperationItem]:
    async with open_api(context) as api:
        return await items_of(api, operation_id, results, ITEMS_AT_MOST)


async def _stop(context: click.Context, operation_id: str) -> Operation:
    async with open_api(context) as api:
        path = f"/v1/operations/{segment(operation_id)}:stop"
        return await api.post(path, {"requestedBy": whoami()}, Operation)

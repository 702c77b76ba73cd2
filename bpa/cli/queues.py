"""``bpa queues``: what waits in the queues that deployments feed from."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import click
from rich.table import Table
from rich.text import Text

from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.tables import ROOMY_CHARS, cut, output, table
from bpa.control.rest.queue_schemas import Queue
from bpa.control.rest.schemas import Document
from bpa.words import span

_STALE_AFTER_S = 90.0
"""A reading that is older than three of the longest pauses between two is no news any more."""
_NOTES = {
    "queue_not_found": "does not exist",
    "unreadable": "cannot be read",
    "administration_refused": "estimated",
    "administration_unreachable": "estimated",
    "administration_not_set": "estimated",
    "age_unknown": "age not known",
}


class Queues(Document, frozen=True):
    """What ``--json`` prints."""

    queues: list[Queue]


@click.command("queues")
@json_option
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """Show how much waits in each queue that a deployment feeds from, and how old the oldest is.

    waiting counts what is not settled yet, messages in the hands of runs included; dead the dead
    letters (`bpa dlq list`); later, in a wide terminal, what is scheduled. The numbers are those of
    the last reading, which control makes every 20 s: read says how long ago that was, oldest how
    old the oldest message was then.

    Numbers behind a ~ are an estimate: control lacks the Manage right, or does not reach the
    administration of the namespace, and looked at the first 1,000 messages instead; 1000+ says that
    there may be more. What is wrong is said below the table, with what to do.

    Exits with 0 whatever waits, with 6 when control does not answer.

    \b
    Examples:
      bpa queues
      bpa queues --json | jq '.queues[] | {queue, active, oldestAgeS}'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    queues = asyncio.run(_queues(context))
    if as_json:
        print_json(Queues(queues=queues))
        return
    if not queues:
        click.echo("no deployment feeds from a queue; make one with `bpa apply FILE`", err=True)
        return
    console = output()
    console.print(table_of(queues, console.width))
    for said in (said for queue in queues for said in explained(queue)):
        click.echo(said, err=True)


def table_of(queues: Sequence[Queue], width: int) -> Table:
    """Return queues with what waits in them, in so many characters."""
    is_roomy = width >= ROOMY_CHARS
    more = ("deployment", "later") if is_roomy else ()
    rows = table("queue", *more, "waiting", "oldest", "dead", "read", "note",
                 right=("later", "waiting", "oldest", "dead", "read"), cut="note")  # fmt: skip
    for queue in queues:
        rows.add_row(
            queue.queue,
            *([queue.deployment_id, _count(queue, queue.scheduled)] if is_roomy else []),
            _count(queue, queue.active, at_least=queue.active_at_least),
            _oldest(queue),
            _count(queue, queue.dead_letters, at_least=queue.dead_letters_at_least),
            _read(queue),
            cut(", ".join(_notes(queue))),
        )
    return rows


def explained(queue: Queue) -> Iterator[str]:
    """Say in whole sentences what the notes name."""
    if queue.trouble is not None:
        yield f"{queue.queue}: {queue.detail}"
    if queue.max_delivery_count_low:
        yield (
            f"{queue.queue}: MaxDeliveryCount is {queue.max_delivery_count}: set it to 10 or more, "
            "or the broker dead-letters messages before the platform can say why"
        )


async def _queues(context: click.Context) -> list[Queue]:
    async with open_api(context) as api:
        return await api.get("/v1/queues", list[Queue])


def _count(queue: Queue, count: int | None, *, at_least: bool = False) -> str:
    if count is None:
        return "?"
    return f"{'~' if queue.estimated else ''}{count}{'+' if at_least else ''}"


def _oldest(queue: Queue) -> str:
    if queue.oldest_age_s is not None:
        return span(queue.oldest_age_s)
    return "" if queue.active == 0 else "?"


def _read(queue: Queue) -> Text:
    if queue.measured_at is None or queue.reading_age_s is None:
        return Text("not yet" if queue.trouble is None else "never")
    style = "red" if queue.reading_age_s > _STALE_AFTER_S else ""
    return Text(f"{span(queue.reading_age_s)} ago", style=style)


def _notes(queue: Queue) -> Iterator[str]:
    if queue.trouble is not None:
        yield _NOTES.get(queue.trouble, queue.trouble)
    if queue.max_delivery_count_low:
        yield f"MaxDeliveryCount {queue.max_delivery_count}"

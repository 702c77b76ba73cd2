"""``bpa dlq``: what was dead-lettered, and its replay."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import click
from rich.console import Console

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.dlq_chosen import (
    counted,
    group_option,
    letters_of,
    queue_option,
    reason_option,
    spelled,
)
from bpa.cli.dlq_replay import replay
from bpa.cli.tables import ROOMY_CHARS, ago, cut, facts, messages, output, table, whole
from bpa.control.rest.dead_letter_schemas import (
    DeadLetter,
    DeadLetterGroup,
    DeadLetterSummary,
    DeadLetterTotal,
)
from bpa.control.rest.schemas import Document
from bpa.words import segment


class DeadLetters(Document, frozen=True):
    """What ``dlq list --json`` prints."""

    dead_letters: list[DeadLetterSummary]
    more: bool
    """There are more than ``--limit`` let through."""
    totals: list[DeadLetterTotal]


class DeadLetterGroups(Document, frozen=True):
    """What ``dlq groups --json`` prints."""

    groups: list[DeadLetterGroup]


@click.group("dlq")
def command() -> None:
    """Look at dead letters: messages whose runs ended without success, and replay them."""


command.add_command(replay)


@command.command("list", short_help="List dead letters with their runs.")
@reason_option
@queue_option
@group_option
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="So many at most."
)
@json_option
@click.pass_context
def list_letters(
    context: click.Context,
    *,
    reason: str | None,
    queue: str | None,
    group: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List dead letters, oldest first, each with its run, and count them by reason.

    They are looked at without a lock: nothing changes, nobody is kept from them. Exits with 3 when
    the reason is none that is known and no dead letter has it.

    \b
    Examples:
      bpa dlq list
      bpa dlq list --reason RetriesExhausted --limit 500
      bpa dlq list --json | jq -r '.deadLetters[].id'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    reason = spelled(context, reason, queue)
    letters, more, totals = asyncio.run(_list(context, reason, queue, group, limit))
    if as_json:
        print_json(DeadLetters(dead_letters=letters, more=more, totals=totals))
        return
    if not letters:
        others = f" with the reason {reason}; there are {counted(totals)}" if reason else ""
        click.echo(f"no dead letters{others}", err=True)
        return
    _print_letters(output(), letters)
    counts = counted(total for total in totals if reason in (None, total.reason))
    words = messages()  # of however many reasons: wrapped where somebody reads it
    said = f"in all: {counts}{'; --limit shows more' if more else ''}"
    words.print(said, soft_wrap=not words.is_terminal)


@command.command("groups", short_help="Count dead letters by reason and cause.")
@queue_option
@json_option
@click.pass_context
def list_groups(context: click.Context, *, queue: str | None, as_json: bool) -> None:
    """Count dead letters by queue, reason and cause, the largest group first.

    The cause is what their details have in common: numbers, ids and quoted values are left out. A
    group's name is what --group of `dlq list` and `dlq replay` takes; it stays the same. Ages are
    those of the oldest and the newest message. A number with a + is of the oldest 5,000 of a queue
    that has more.

    Exits with 3 when no deployment feeds from the queue.

    \b
    Examples:
      bpa dlq groups
      bpa dlq list --group 5be1a0c2d3f4
      bpa dlq replay --group 5be1a0c2d3f4 --rate 5
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    groups = asyncio.run(_groups(context, queue))
    if as_json:
        print_json(DeadLetterGroups(groups=groups))
        return
    if not groups:
        click.echo("no dead letters", err=True)
        return
    console = output()
    more = ("queue",) if console.width >= ROOMY_CHARS else ()
    figures = ("count", "oldest", "newest")
    rows = table("group", "reason", *figures, *more, "cause", right=figures, cut="cause")
    for one in groups:
        number = f"{one.count:,}{'' if one.complete else '+'}"
        ages = (ago(one.first_enqueued_at), ago(one.last_enqueued_at))
        extra = (one.queue,)[: len(more)]
        rows.add_row(one.id, one.reason, number, *ages, *extra, cut(one.cause))
    console.print(whole(rows, "group"))


@command.command("show", short_help="Show all of one dead letter.")
@click.argument("dead_letter_id", metavar="ID", shell_complete=completing.dead_letter_ids)
@click.option(
    "--body", "wants_body", is_flag=True, help="Write the body, byte for byte, and nothing else."
)
@json_option
@click.pass_context
def show_letter(
    context: click.Context, *, dead_letter_id: str, wants_body: bool, as_json: bool
) -> None:
    """Show one dead letter: why, whose, what was sent to the target, what a replay would do.

    Values of properties whose names suggest a secret are withheld. The body is a stranger's: look
    at it in a file rather than on a terminal, which obeys what it may hold.

    Exits with 3 when there is no such dead letter.

    \b
    Examples:
      bpa dlq show invoices:17
      bpa dlq show invoices:17 --body >letter.json
      bpa dlq replay --id invoices:17 --edit letter.json
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    if wants_body and as_json:
        raise click.UsageError("--body is bytes, --json a document: give one of them")
    if wants_body:
        sys.stdout.buffer.write(asyncio.run(_body(context, dead_letter_id)))
        sys.stdout.buffer.flush()
        return
    letter = asyncio.run(_get(context, dead_letter_id))
    if as_json:
        print_json(letter)
        return
    properties = ", ".join(f"{name}={value}" for name, value in letter.properties.items())
    output().print(
        facts(
            [
                ("dead letter", letter.id),
                ("reason", letter.reason),
                ("description", letter.description),
                ("message", f"{letter.message_id}, {letter.bytes:,} bytes, {letter.content_type}"),
                ("excerpt", letter.excerpt),
                ("undecodable", letter.undecodable),
                ("properties", properties),
                ("enqueued", f"{letter.enqueued_at:%Y-%m-%d %H:%M:%S} UTC"),
                (
                    "dead-lettered",
                    letter.dead_lettered_at and f"{letter.dead_lettered_at:%F %T} UTC",
                ),
                ("deliveries", letter.delivery_count or ""),
                ("run", f"{letter.run_id} ({letter.run_status or 'never became one'})"),
                ("replays", letter.replay_count),
                ("original run", letter.original_run_id if letter.replay_count else ""),
                ("half replayed as", letter.half_replayed_as),
                ("effect key", letter.effect_key),
                ("effects", _effects(letter)),
                ("a replay", f"{letter.replay.action}: {letter.replay.why}"),
            ]
        )
    )


async def _list(
    context: click.Context, reason: str | None, queue: str | None, group: str | None, limit: int
) -> tuple[list[DeadLetterSummary], bool, list[DeadLetterTotal]]:
    async with open_api(context) as api:
        letters, more = await letters_of(api, reason, queue, group, limit)
        return (
            letters,
            more,
            await api.get("/v1/dead-letters/totals", list[DeadLetterTotal], queue=queue),
        )


async def _groups(context: click.Context, queue: str | None) -> list[DeadLetterGroup]:
    async with open_api(context) as api:
        return await api.get("/v1/dead-letters/groups", list[DeadLetterGroup], queue=queue)


async def _get(context: click.Context, dead_letter_id: str) -> DeadLetter:
    async with open_api(context) as api:
        return await api.get(f"/v1/dead-letters/{segment(dead_letter_id)}", DeadLetter)


async def _body(context: click.Context, dead_letter_id: str) -> bytes:
    async with open_api(context) as api:
        return await api.get_bytes(f"/v1/dead-letters/{segment(dead_letter_id)}/body")


def _print_letters(console: Console, letters: Sequence[DeadLetterSummary]) -> None:
    more = ("replays", "run") if console.width >= ROOMY_CHARS else ()
    rows = table("id", "reason", "age", *more, "why", right=("age", "replays"), cut="why")
    for one in letters:
        shown = (str(one.replay_count), one.run_id)[: len(more)]
        age = ago(one.dead_lettered_at or one.enqueued_at)
        rows.add_row(one.id, one.reason, age, *shown, cut(_why(one)))
    console.print(whole(rows, "id", "reason"))


def _why(letter: DeadLetterSummary) -> str:
    half = f"half replayed as {letter.half_replayed_as}; " if letter.half_replayed_as else ""
    applied = "the target has applied it; " if letter.effects_applied else ""
    return f"{half}{applied}{letter.description}"


def _effects(letter: DeadLetter) -> str:
    return ", ".join(
        f"{effect.effect_key} "
        + (f"applied {effect.applied_at:%F %T} UTC" if effect.applied_at else "without an answer")
        for effect in letter.sent
    )

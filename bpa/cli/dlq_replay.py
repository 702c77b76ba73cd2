"""``bpa dlq replay``: send dead letters to their queues again."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.dlq_chosen import letters_of, queue_option, reason_option, spelled
from bpa.control.replay_plan import Result
from bpa.control.rest.dead_letter_schemas import Replayed, Replays
from bpa.control.rest.schemas import Document
from bpa.errors import BpaError, NotFound

_AT_ONCE = 25
"""Dead letters of one request; fewer where a rate is kept."""
REPLAY_S = 120.0
"""How long a request that replays may take."""
_DONE = (Result.REPLAYED, Result.SETTLED)
_NOT_FOUND, _CONFLICT, _UNAVAILABLE, _PARTLY = 3, 5, 6, 7


class ReplayReport(Document, frozen=True):
    """What ``--json`` prints."""

    dry_run: bool
    matched: int
    results: list[Replayed]
    untried: list[str]
    """Ids that were not come to: it was stopped, or control went away."""


@click.command("replay", short_help="Send dead letters to their queue again.")
@click.option(
    "--id",
    "ids",
    multiple=True,
    metavar="ID",
    help="This one; may be repeated.",
    shell_complete=completing.dead_letter_ids,
)
@reason_option
@queue_option
@click.option("--limit", type=click.IntRange(min=1), help="So many at most, the oldest.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="So many a second.")
@click.option(
    "--edit",
    "edit",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Send this file in place of the body of the one dead letter.",
)
@click.option("--content-type", help="Of that file; left out, the dead letter's stays.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask, also not whether to post twice.")
@click.option(
    "--no-input", is_flag=True, help="Never ask; all of them are then replayed only with --yes."
)
@json_option
@click.pass_context
def replay(
    context: click.Context,
    /,
    *,
    ids: tuple[str, ...],
    edit: Path | None,
    content_type: str | None,
    dry_run: bool,
    yes: bool,
    no_input: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Replay dead letters: send each to its queue again, then remove it.

    Those given with --id, or those of a reason or queue, or all. Which ones is settled at the
    start; what arrives later is left alone. On a terminal it asks first and says how many they are,
    except for those given with --id; elsewhere all of them need --yes.

    The new run has the same key and goes on from what the old one has recorded: no answer is paid
    for twice, and what the target has applied is not sent again. With --edit the run starts afresh
    under a key of its own; where the target has, or may have, what the old run sent, it asks first,
    and elsewhere than on a terminal needs --yes. A replay that was cut off is finished by repeating
    it.

    Exits with 0 when all is done, with 2 when it was not told what to replay or needs --yes, with 3
    when nothing matches, with 5 when all were refused, with 6 when control or the broker is away,
    and with 7 when only a part was replayed: the rest is listed with the reason. Progress goes to
    standard error. After Ctrl-C (130) what is done is done; the same command again goes on.

    \b
    Examples:
      bpa dlq replay --reason RetriesExhausted --dry-run      what it would do
      bpa dlq replay --reason RetriesExhausted --rate 5       five a second
      bpa dlq replay --id invoices:17 --edit mended.json      with another body
      bpa dlq replay --yes --json                             all of them, for scripts
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    if ids and (chosen["reason"] or chosen["queue"]):
        raise click.UsageError("give --id, or --reason and --queue, not both")
    if content_type and not edit:
        raise click.UsageError("--content-type is that of a file; give --edit as well")
    may_ask = sys.stdin.isatty() and not no_input
    if not (ids or chosen["reason"] or chosen["queue"] or dry_run or yes or may_ask):
        raise click.UsageError(
            "this would replay every dead letter: give --yes, or choose with --reason, --queue or "
            "--id; --dry-run says what would be done"
        )
    chosen["reason"] = spelled(context, chosen["reason"], chosen["queue"])
    wanted = list(ids)[: chosen["limit"]] or asyncio.run(_matching(context, **chosen))
    if not wanted:
        raise NotFound("no dead letter matches; `bpa dlq list` shows what there is")
    if edit and len(wanted) > 1:
        raise click.UsageError(f"--edit replaces one body, and {len(wanted)} match; give one --id")
    if may_ask and not (dry_run or yes or ids):
        click.confirm(_question(len(wanted), chosen), abort=True, err=True)
    asked = {
        "body": edit.read_bytes() if edit else None,
        "contentType": content_type,
        "dryRun": dry_run,
        "requestedBy": whoami(),
    }
    asked["mayRepeatEffect"] = edit is not None and (
        yes or (not dry_run and _may_repeat(context, wanted, asked, may_ask=may_ask))
    )
    results: list[Replayed] = []
    failure: BpaError | None = None
    try:
        failure = asyncio.run(_replay(context, wanted, asked, chosen["rate"], results))
    finally:  # also after Ctrl-C
        if results:
            left = wanted[len(results) :]
            if as_json:
                print_json(
                    ReplayReport(
                        dry_run=dry_run, matched=len(wanted), results=results, untried=left
                    )
                )
            else:
                _print_results(results, len(left), dry_run=dry_run)
    if failure is not None:
        click.echo(f"bpa: {failure}", err=True)
    context.exit(exit_code(results, failure))


def _may_repeat(
    context: click.Context, wanted: Sequence[str], asked: Mapping[str, Any], *, may_ask: bool
) -> bool:
    """Ask whether to post another body beside what the target may have; False if it has none.

    Raises:
        UsageError: It cannot be asked.
        Abort: It shall not be.
    """
    foreseen: list[Replayed] = []
    would = {**asked, "dryRun": True, "mayRepeatEffect": True}
    asyncio.run(_replay(context, wanted, would, None, foreseen))
    repeating = [one for one in foreseen if one.repeats_effect]
    for one in repeating:
        if not may_ask:
            raise click.UsageError(f"{one.id}: {one.why}; give --yes to replay it all the same")
        click.confirm(f"{one.id}: {one.why}; replay it all the same?", abort=True, err=True)
    return bool(repeating)


def print_replayed(one: Replayed, *, dry_run: bool = False) -> None:
    """Print what became of one dead letter."""
    words = f"would be {one.result}" if dry_run else str(one.result)
    run = f" as run {one.run_id}" if one.run_id else ""
    details = [one.why]
    if one.result is Result.REPLAYED:
        details.append(f"key {one.effect_key or 'of its own'}")
        if one.inherited_steps:
            details.append(f"{one.inherited_steps} recorded steps")
        if one.effects_applied and not one.edited:
            details.append("the target has applied it")
    click.echo(f"{one.id}  {words}{run}: {', '.join(details)}")


async def _matching(
    context: click.Context,
    reason: str | None,
    queue: str | None,
    limit: int | None,
    rate: float | None,
) -> list[str]:
    async with open_api(context) as api:
        found, _ = await letters_of(api, reason, queue, limit)
        return [letter.id for letter in found]


async def _replay(
    context: click.Context,
    wanted: Sequence[str],
    asked: dict[str, Any],
    rate: float | None,
    results: list[Replayed],
) -> BpaError | None:
    """Replay in parts into ``results``; return what stopped it after the first of them."""
    size = _AT_ONCE if rate is None else max(1, min(_AT_ONCE, int(rate)))
    clock = asyncio.get_running_loop().time
    started_s = clock()
    async with open_api(context) as api:
        while len(results) < len(wanted):
            part = wanted[len(results) : len(results) + size]
            try:
                answer = await api.post(
                    "/v1/dead-letters:replay", {"ids": part, **asked}, Replays, timeout_s=REPLAY_S
                )
            except BpaError as error:
                if not results:
                    raise
                return error
            results += answer.results
            if len(wanted) > size:
                click.echo(f"{len(results)} of {len(wanted)}", err=True)
            if rate is not None and len(results) < len(wanted):
                await asyncio.sleep(max(0.0, started_s + len(results) / rate - clock()))
    return None


def _question(count: int, chosen: Mapping[str, Any]) -> str:
    reason, queue = chosen["reason"], chosen["queue"]
    which = "" if reason or queue or chosen["limit"] else "all "
    letters = "dead letter" if count == 1 else "dead letters"
    words = [f" with {reason}" if reason else "", f" of queue {queue}" if queue else ""]
    return f"replay {which}{count} {letters}{''.join(words)}?"


def _print_results(results: Sequence[Replayed], untried: int, *, dry_run: bool) -> None:
    for one in results:
        print_replayed(one, dry_run=dry_run)
    counts = Counter(one.result.value for one in results)
    if untried:
        counts["not tried"] = untried
    told = ", ".join(f"{count} {result}" for result, count in counts.items())
    click.echo(f"{'would be: ' if dry_run else ''}{told}", err=True)


def exit_code(results: Sequence[Replayed], failure: BpaError | None = None) -> int:
    """Return 0 when all is done, 7 for a part of it, else a code for what stood in the way."""
    found = {one.result for one in results}
    done = found & set(_DONE)
    if found <= set(_DONE) and failure is None:
        return 0
    if done or Result.SENT in found:
        return _PARTLY
    if found == {Result.GONE}:
        return _NOT_FOUND
    return _UNAVAILABLE if Result.FAILED in found else _CONFLICT

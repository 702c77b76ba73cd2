"""``bpa dlq replay``: send dead letters to their queues again."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.dlq_chosen import group_option, queue_option, reason_option, spelled
from bpa.cli.operating import operate
from bpa.control.operation_terms import ITEMS_AT_MOST, RATE_AT_MOST, Act
from bpa.control.replay_plan import IDS_AT_MOST, Result
from bpa.control.rest.dead_letter_schemas import Replayed, Replays
from bpa.control.rest.schemas import Document

REPLAY_S = 120.0
"""How long a request that replays may take."""
_DONE = (Result.REPLAYED, Result.SETTLED)
_NOT_FOUND, _CONFLICT, _UNAVAILABLE, _PARTLY = 3, 5, 6, 7


class ReplayReport(Document, frozen=True):
    """What ``--id`` with ``--json`` prints; an operation prints its own report."""

    dry_run: bool
    results: list[Replayed]


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
@group_option
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=ITEMS_AT_MOST),
    help="So many at most, the oldest.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, max=RATE_AT_MOST, min_open=True),
    help="So many a second.",
)
@click.option("--detach", is_flag=True, help="Start it, and do not wait for its end.")
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

    Those given with --id, 100 at most, or those of a reason, queue or group, or all. These are an
    operation of control's, which goes on when this command is left. Which ones is settled at the
    start; what arrives later is left alone. On a terminal it asks first and says how many they are,
    except for those given with --id; elsewhere all of them need --yes.

    The new run has the same key and goes on from what the old one has recorded: no answer is paid
    for twice, and what the target has applied is not sent again. With --edit the run starts afresh
    under a key of its own; where the target has, or may have, what the old run sent, it asks first,
    and elsewhere than on a terminal needs --yes. A replay that was cut off is finished by repeating
    it; an operation does so by itself.

    Exits with 0 when all is done, with 2 when it was not told what to replay or needs --yes, with 3
    when nothing matches, with 5 when all were refused, with 6 when control or the broker is away,
    and with 7 when only a part was replayed: the rest is listed with the reason. Progress goes to
    standard error. After Ctrl-C (130) the operation goes on; it says how to stop it.

    \b
    Examples:
      bpa dlq replay --group 5be1a0c2d3f4 --dry-run           what it would do
      bpa dlq replay --reason RetriesExhausted --rate 5       five a second
      bpa dlq replay --id invoices:17 --edit mended.json      with another body
      bpa dlq replay --yes --json                             all of them, for scripts
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    may_ask = sys.stdin.isatty() and not no_input
    filtered = any(chosen[name] for name in ("reason", "queue", "group"))
    _check(ids, chosen, edit, content_type, filtered=filtered)
    if not (ids or filtered or dry_run or yes or may_ask):
        raise click.UsageError(
            "this would replay every dead letter: give --yes, or choose with --reason, --queue, "
            "--group or --id; --dry-run says what would be done"
        )
    if ids:
        asked = {
            "ids": list(dict.fromkeys(ids)),
            "body": edit.read_bytes() if edit else None,
            "contentType": content_type,
            "dryRun": dry_run,
            "requestedBy": whoami(),
        }
        repeats = edit is not None and (
            yes or (not dry_run and _may_repeat(context, asked, may_ask=may_ask))
        )
        _replay_named(context, {**asked, "mayRepeatEffect": repeats}, as_json=as_json)
    reason = spelled(context, chosen["reason"], chosen["queue"])
    wanted = {"queue": chosen["queue"], "reason": reason, "group": chosen["group"]}
    more = {"limit": chosen["limit"], "ratePerS": chosen["rate"]}
    operate(
        context,
        {"action": Act.REPLAY, "deadLetters": _given(wanted), **_given(more)},
        question=lambda count: _question(count, {**wanted, "limit": chosen["limit"]}),
        may_ask=may_ask,
        dry_run=dry_run,
        yes=yes,
        detach=chosen["detach"],
        as_json=as_json,
    )


def _check(
    ids: tuple[str, ...],
    chosen: Mapping[str, Any],
    edit: Path | None,
    content_type: str | None,
    *,
    filtered: bool,
) -> None:
    """Refuse options that make no sense together; raises ``UsageError``."""
    if ids and filtered:
        raise click.UsageError("give --id, or --reason, --queue and --group, not both")
    if ids and (chosen["limit"] or chosen["rate"] or chosen["detach"]):
        raise click.UsageError("--limit, --rate and --detach are for what a filter matches")
    if len(ids) > IDS_AT_MOST:
        raise click.UsageError(f"at most {IDS_AT_MOST} with --id; choose more with --group")
    if content_type and not edit:
        raise click.UsageError("--content-type is that of a file; give --edit as well")
    if edit and len(ids) != 1:
        raise click.UsageError("--edit replaces one body; give one --id")


def _replay_named(context: click.Context, asked: Mapping[str, Any], *, as_json: bool) -> NoReturn:
    answer = asyncio.run(_replay(context, asked))
    if as_json:
        print_json(ReplayReport(dry_run=answer.dry_run, results=answer.results))
    else:
        for one in answer.results:
            print_replayed(one, dry_run=answer.dry_run)
        counts = Counter(one.result.value for one in answer.results)
        told = ", ".join(f"{count} {result}" for result, count in counts.items())
        click.echo(f"{'would be: ' if answer.dry_run else ''}{told}", err=True)
    context.exit(exit_code(answer.results))


def _may_repeat(context: click.Context, asked: Mapping[str, Any], *, may_ask: bool) -> bool:
    """Ask whether to post another body beside what the target may have; False if it has none.

    Raises:
        UsageError: It cannot be asked.
        Abort: It shall not be.
    """
    foreseen = asyncio.run(_replay(context, {**asked, "dryRun": True, "mayRepeatEffect": True}))
    repeating = [one for one in foreseen.results if one.repeats_effect]
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


async def _replay(context: click.Context, asked: Mapping[str, Any]) -> Replays:
    async with open_api(context) as api:
        path = "/v1/dead-letters:replay"
        return await api.post(path, asked, Replays, timeout_s=REPLAY_S)


def _question(count: int, chosen: Mapping[str, Any]) -> str:
    which = "" if any(chosen.values()) else "all "
    letters = "dead letter" if count == 1 else "dead letters"
    said = {"reason": "with", "queue": "of queue", "group": "of group"}
    words = [f" {words} {chosen[name]}" for name, words in said.items() if chosen[name]]
    return f"replay {which}{count:,} {letters}{''.join(words)}?"


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def exit_code(results: Sequence[Replayed]) -> int:
    """Return 0 when all is done, 7 for a part of it, else a code for what stood in the way."""
    found = {one.result for one in results}
    done = found & set(_DONE)
    if found <= set(_DONE):
        return 0
    if done or Result.SENT in found:
        return _PARTLY
    if found == {Result.GONE}:
        return _NOT_FOUND
    return _UNAVAILABLE if Result.FAILED in found else _CONFLICT

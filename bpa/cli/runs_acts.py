"""``bpa runs cancel`` and ``bpa runs retry``: one run, or all that a search finds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import click

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.dlq_replay import REPLAY_S, exit_code, print_replayed
from bpa.cli.operating import operate
from bpa.control.operation_terms import ITEMS_AT_MOST, RATE_AT_MOST
from bpa.control.rest.dead_letter_schemas import Retried
from bpa.control.rest.run_schemas import Cancel, Cancelled
from bpa.words import segment

_MANY = {"limit", "rate", "dry_run", "yes", "no_input", "detach"}

_run_id = click.argument(
    "run_id", metavar="[RUN]", required=False, shell_complete=completing.run_ids
)
_OPTIONS = (
    click.option("--where", metavar="QUERY", help="All runs that this search finds."),
    click.option(
        "--limit",
        type=click.IntRange(min=1, max=ITEMS_AT_MOST),
        help="Of these so many at most, the oldest.",
    ),
    click.option(
        "--rate",
        type=click.FloatRange(min=0, max=RATE_AT_MOST, min_open=True),
        help="So many a second.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    click.option("--yes", is_flag=True, help="Do not ask."),
    click.option("--no-input", is_flag=True, help="Never ask."),
    click.option("--detach", is_flag=True, help="Start it, and do not wait for its end."),
)


def _many(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("cancel", short_help="End a living run, or many.")
@_run_id
@_many
@click.option(
    "--detail", default="no reason given", metavar="TEXT", help="Why, for the dead letter."
)
@json_option
@click.pass_context
def cancel(
    context: click.Context,
    /,
    *,
    run_id: str | None,
    where: str | None,
    detail: str,
    as_json: bool,
    **many: Any,
) -> None:
    """End living runs; their messages go to the dead-letter queue as Cancelled.

    A run that waits ends at once. One that works is asked to stop: its node hears it with its next
    heartbeat, and what it has not ended after control.cancel_grace_s is ended without it. What a
    run has already sent to the target stays sent; if that was its effect, it is completed instead.
    Cancelling it again changes nothing.

    With --where, all living runs that the search finds at this moment, as `bpa runs list QUERY`
    shows them: an operation of control's, which goes on when this command is left. On a terminal it
    asks first, and says how many they are.

    Exits with 3 when there is no such run, or none matches, and with 5 when it has ended; with
    --where 7 when only a part was cancelled, and 130 after Ctrl-C, when it goes on all the same.

    \b
    Examples:
      bpa runs cancel 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11 --detail 'sent twice'
      bpa runs cancel --where 'status:queued agent:invoice-classifier' --dry-run
      bpa runs cancel --where 'since:1h acme' --rate 20 --yes --detail 'sent twice'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    if _is_for_many(run_id, where, many):
        _operate(context, "cancel", where or "", many, as_json=as_json, detail=detail)
        return
    cancelled = asyncio.run(_cancel(context, run_id or "", detail))
    if as_json:
        print_json(cancelled)
    elif cancelled.cancelling:
        click.echo(f"{run_id} is cancelling: its node has been asked to end it")
    else:
        click.echo(f"{run_id} is cancelled")


@click.command("retry", short_help="Try a run again, or many.")
@_run_id
@_many
@json_option
@click.pass_context
def retry(
    context: click.Context,
    /,
    *,
    run_id: str | None,
    where: str | None,
    as_json: bool,
    **many: Any,
) -> None:
    """Try runs again: replay their dead letters, or end their backoff.

    The replay of a dead-lettered run's message is a new run, which goes on from what this one has
    recorded under the same key; see `bpa dlq replay --help`. A run that waits to be tried again is
    tried now; one that is parked until its target answers goes on waiting for that, and says so.

    With --where, all that the search finds at this moment and that were not replayed before: an
    operation of control's, which goes on when this command is left. On a terminal it asks first,
    and says how many they are.

    Exits with 3 when there is no such run, or none matches, and with 5 when it is at work, has
    completed or was replayed before; with --where 7 when only a part was retried, and 130 after
    Ctrl-C, when it goes on all the same.

    \b
    Examples:
      bpa runs retry 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11
      bpa runs retry --where 'error:RetriesExhausted since:1h' --rate 5
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    if _is_for_many(run_id, where, many):
        _operate(context, "retry", where or "", many, as_json=as_json)
        return
    retried = asyncio.run(_retry(context, run_id or ""))
    if as_json:
        print_json(retried)
    elif retried.waits_for:
        click.echo(f"{retried.run_id} waits still, for more than its turn: {retried.waits_for}")
    elif retried.replayed is None:
        click.echo(f"{retried.run_id} backs off no more: it is placed as soon as there is room")
    else:
        print_replayed(retried.replayed)
    if retried.replayed is not None:
        context.exit(exit_code([retried.replayed]))


def _is_for_many(run_id: str | None, where: str | None, many: dict[str, Any]) -> bool:
    if (run_id is None) == (where is None):
        raise click.UsageError("give either the id of a run or --where with a search")
    if run_id is not None and (given := sorted(name for name in _MANY if many[name])):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{flags}: for --where alone")
    return where is not None


def _operate(
    context: click.Context,
    action: str,
    where: str,
    many: dict[str, Any],
    *,
    as_json: bool,
    detail: str = "",
) -> None:
    may_ask = sys.stdin.isatty() and not many["no_input"]
    if not (where.strip() or may_ask or many["yes"] or many["dry_run"]):
        raise click.UsageError(f"this would {action} every run: give --yes, or a search")
    asked = {"action": action, "runs": {"q": where}, "detail": detail}
    given = {"ratePerS": many["rate"], "limit": many["limit"]}
    operate(
        context,
        asked | {name: value for name, value in given.items() if value is not None},
        question=lambda count: f"{action} {count:,} run{'' if count == 1 else 's'}?",
        may_ask=may_ask,
        dry_run=many["dry_run"],
        yes=many["yes"],
        detach=many["detach"],
        as_json=as_json,
    )


async def _retry(context: click.Context, run_id: str) -> Retried:
    async with open_api(context) as api:
        path = f"/v1/runs/{segment(run_id)}:retry"
        return await api.post(path, {"requestedBy": whoami()}, Retried, timeout_s=REPLAY_S)


async def _cancel(context: click.Context, run_id: str, detail: str) -> Cancelled:
    async with open_api(context) as api:
        body = Cancel(requested_by=whoami(), detail=detail)
        return await api.post(f"/v1/runs/{segment(run_id)}:cancel", body, Cancelled)

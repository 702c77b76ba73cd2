"""``bpa runs watch``: each change of runs, as it happens, until they have ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime

import click
import msgspec

from bpa.cli import completing
from bpa.cli.api import Api, open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.news import News
from bpa.cli.runs_words import state, why
from bpa.cli.tables import cut, output
from bpa.control.rest.run_schemas import Run, RunPage, RunSummary
from bpa.control.rest.schemas import Document
from bpa.domain.runs import TERMINAL, RunStatus
from bpa.errors import Unavailable
from bpa.words import clock, segment

_AWAY_S = 60.0
"""How long control may be away before we give up."""
_PAGE = 500
_FAILURE, _PARTLY = 1, 7


@click.command("watch", short_help="Follow runs until they have ended.")
@click.argument("run_ids", metavar="[RUN]...", nargs=-1, shell_complete=completing.run_ids)
@click.option(
    "--deployment",
    metavar="ID",
    help="Without RUN: only runs of this deployment.",
    shell_complete=completing.deployment_ids,
)
@click.option("--follow", is_flag=True, help="Without RUN: go on for new runs when all have ended.")
@json_option
@click.pass_context
def watch(
    context: click.Context,
    *,
    run_ids: tuple[str, ...],
    deployment: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Follow RUNs, or all runs that are alive, and print each change of their state.

    Ends when all of them have ended, which for runs that come meanwhile is waited for as well;
    with --follow not before Ctrl-C. With --json each change is a line of its own: the run, as
    `bpa runs list --json` has it. Control tells of changes once a second, so that of two within a
    second the later is seen. Where its stream of changes is cut, this says so, looks every second,
    and goes back to the stream once there is one. While control is away it waits, a minute at most.

    Exits with 0 when all have completed, with 1 when none has, with 7 when only some have, with 3
    when there is no such run, with 6 when control stays away, and with 130 after Ctrl-C.

    \b
    Examples:
      bpa runs watch                                            until nothing is alive
      bpa runs watch 019f1c3e-6a52-8d0f-b0a4-6d1f1d9a2c11 && echo done
      bpa runs watch --follow --json | jq --unbuffered -r '.runId + " " + .status'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    if run_ids and (deployment or follow):
        raise click.UsageError("--deployment and --follow are for all runs: leave RUN out")
    ended: dict[str, str] = {}

    async def follow_them() -> None:
        async with open_api(context) as api:
            news, looks = news_of(api, run_ids, deployment), _Looks(api, run_ids, deployment)
            async with news.heard():
                async for run in changes(looks, news, follow=follow):
                    _tell(run, as_json=as_json)
                    if run.status in TERMINAL:
                        ended[run.run_id] = run.status

    asyncio.run(follow_them())
    completed = sum(status == RunStatus.COMPLETED for status in ended.values())
    if not ended:
        click.echo("no run is alive", err=True)
    elif not as_json:
        click.echo(f"{completed} completed, {len(ended) - completed} dead-lettered", err=True)
    if completed < len(ended):
        context.exit(_PARTLY if completed else _FAILURE)


async def changes(looks: _Looks, news: News, *, follow: bool) -> AsyncIterator[RunSummary]:
    """Yield runs as they are and whenever their state changes, until all have ended.

    Args:
        looks: At which runs.
        news: When to look again.
        follow: Go on when all have ended.
    """
    told: dict[str, tuple[object, ...]] = {}
    while True:
        for run in await looks.look():
            seen = (run.status, run.waiting_reason, run.cancelling, run.executions, run.node_id)
            if told.get(run.run_id) != seen:
                told[run.run_id] = seen
                yield run
        if looks.all_ended and not follow:
            return
        await news.due()


def news_of(api: Api, run_ids: Sequence[str], deployment: str | None) -> News:
    """Return what tells when to look at these runs again.

    Args:
        api: Control.
        run_ids: The runs that concern us; empty for all.
        deployment: Of all, only those of this one.
    """
    watched = frozenset(run_ids)

    def concerns(data: str) -> bool:
        try:
            moved = msgspec.json.decode(data, type=_Moved)
        except msgspec.MsgspecError:
            return True  # of another version: looking is never wrong
        return moved.more or any(
            run.run_id in watched if watched else deployment in (None, run.deployment_id)
            for run in moved.runs
        )

    return News(api, "run", concerns)


class _MovedRun(Document, frozen=True):
    """A run that an event names."""

    run_id: str
    status: str
    deployment_id: str


class _Moved(Document, frozen=True):
    """What an event tells of runs."""

    runs: list[_MovedRun]
    more: bool


class _Looks:
    """Looks at runs; those that have ended are seen a last time, and then left alone.

    Args:
        api: Control.
        run_ids: Which ones; empty for all.
        deployment: Of all, only those of this one.
    """

    def __init__(self, api: Api, run_ids: Sequence[str], deployment: str | None) -> None:
        self._api = api
        self._deployment = deployment
        self._watches_all = not run_ids
        self._alive = dict.fromkeys(run_ids)
        self._since = datetime.now(UTC)
        self._ended: set[str] = set()
        self._away_since_s: float | None = None

    @property
    def all_ended(self) -> bool:
        """Whether nothing that was seen is alive."""
        return not self._alive

    async def look(self) -> list[RunSummary]:
        """Return what is alive, and what has ended since the last look, oldest first."""
        try:
            found = await self._looked()
        except Unavailable as error:
            self._is_away(error)
            return []
        self._away_since_s = None
        fresh = [run for run in found.values() if run.run_id not in self._ended]
        self._ended |= {run.run_id for run in fresh if run.status in TERMINAL}
        self._alive = {run.run_id: None for run in fresh if run.status not in TERMINAL}
        return sorted(fresh, key=lambda run: run.created_at)

    async def _looked(self) -> dict[str, RunSummary]:
        found: dict[str, RunSummary] = {}
        if self._watches_all:
            for run in await self._all():
                found[run.run_id] = run
        for run_id in self._alive:
            if run_id not in found:
                run = await self._api.get(f"/v1/runs/{segment(run_id)}", Run)
                found[run.run_id] = run
        return found

    async def _all(self) -> Iterable[RunSummary]:
        """Return all that are alive, and of the newest those that came and ended meanwhile."""
        newest = await self._page("", None)
        runs = [run for run in newest.runs if run.created_at >= self._since]
        cursor: str | None = None
        while True:
            page = await self._page("status:active", cursor)
            runs += page.runs
            cursor = page.next_cursor
            if cursor is None:
                return runs

    async def _page(self, looked_for: str, cursor: str | None) -> RunPage:
        query = {"q": looked_for or None, "deployment": self._deployment, "cursor": cursor}
        return await self._api.get("/v1/runs", RunPage, limit=_PAGE, **query)

    def _is_away(self, error: Unavailable) -> None:
        now_s = time.monotonic()
        if self._away_since_s is None:
            self._away_since_s = now_s
            click.echo(f"{error}; waiting for it", err=True)
        if now_s - self._away_since_s > _AWAY_S:
            raise error


def _tell(run: RunSummary, *, as_json: bool) -> None:
    """Print one change; in JSON a summary whatever is known of the run, so that lines are alike."""
    if as_json:
        print_json(RunSummary(**{n: getattr(run, n) for n in RunSummary.__struct_fields__}))
        return
    console = output()
    where = f"on {run.node_id}" if run.status in (RunStatus.OFFERED, RunStatus.RUNNING) else ""
    line = cut(f"{clock(run.ended_at or datetime.now(UTC))}  {run.run_id}  ")
    line.append(state(run))
    line.append("".join(f"  {part}" for part in (where, why(run)) if part))
    console.print(line)

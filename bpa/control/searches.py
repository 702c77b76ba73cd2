"""The search among all runs, a page at a time, newest first; ``search`` reads what is looked for.

What an index answers takes milliseconds, whatever there is. What none does (cheap runs of an agent,
of which there are none) would be a walk through all runs: that is cut off after ``_TRY_S``, and the
page is then looked for window by window, for as long as ``_WALK_S``. Such a page may be short, even
empty, and have a next one, which goes on from there. That a search took too long is remembered for
a while: its next page, or the same one again, walks at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, LiteralString

from bpa.control.cursors import cursor_of, read_cursor
from bpa.control.search import Search
from bpa.domain.runs import TERMINAL, RunId, RunStatus
from bpa.postgres import Pool, fetch_within, load_queries

_QUERIES = load_queries(__file__)
COUNTED_AT_MOST = 10_000
_TRY_S = 0.1
_GATHER_S = 0.1
_GATHERED_AT_MOST = 20_000
_COUNT_S = 0.06
_WALK_S = 0.06
_WINDOW_ROWS = 5_000
_WINDOW_ROWS_OF_WORDS = 1_000
"""Whether a run has certain words takes some 12 us to tell where no index does."""
_STATEMENT_S = 2.0
"""Of one window, which takes some 10 ms."""
_SLOW_FOR_S = 300.0
_SLOW_AT_MOST = 500
_INDEXED = frozenset(
    {
        "words",
        "trace",
        "node",
        "agent",
        "deployment",
        "tokens_from",
        "tokens_to",
        "cost_over",
        "cost_from",
        "cost_under",
        "cost_to",
    }
)
"""Conditions that an index of runs that have ended answers."""

Row = dict[str, Any]


class Searches:
    """Looks for runs.

    Args:
        pool: Connections to Postgres.
        window_rows: How many runs a step of a walk through all of them looks at, at most.
    """

    def __init__(self, pool: Pool, window_rows: int = _WINDOW_ROWS) -> None:
        self._pool = pool
        self._window_rows = window_rows
        self._slow: dict[tuple[str, Search], float] = {}
        """What took too long, a page or a count of which search, and when that was."""

    async def page(
        self, search: Search | None = None, *, cursor: str | None = None, limit: int = 100
    ) -> tuple[list[Row], str | None]:
        """Return a page of runs, newest first, and the cursor of the next one.

        Runs that come in meanwhile are on no later page, so that none is seen twice. A page may be
        short and have a next one.

        Raises:
            InvalidRequest: The cursor is none of ours.
            Unavailable: Postgres is away.
        """
        search = search or Search()
        if self._is_slow("page", search):
            return await self.walk(search, cursor=cursor, limit=limit)
        after = _after(read_cursor(cursor)) if cursor else {}
        values = {**_values(search), **after, "limit": limit + 1}
        rows = await self._gathered(search, after, values) if search.words else None
        if rows is None:
            in_order = False if search.words else None
            rows = await fetch_within(
                self._pool, _page_of(search, after), _TRY_S, bitmaps=in_order, **values
            )
        if rows is None:
            self._note_slow("page", search)
            return await self.walk(search, cursor=cursor, limit=limit)
        return rows[:limit], cursor_of(rows[limit - 1]) if len(rows) > limit else None

    async def count(self, search: Search) -> int | None:
        """Count the runs, up to ``COUNTED_AT_MOST`` and one; None where that would take too long.

        Raises:
            Unavailable: Postgres is away.
        """
        if self._is_slow("count", search):
            return None
        values = {**_values(search), "limit": COUNTED_AT_MOST + 1}
        rows = await fetch_within(
            self._pool,
            _count_of(search),
            _COUNT_S,
            bitmaps=True if search.words else None,
            **values,
        )
        if rows is None:
            self._note_slow("count", search)
            return None
        return min(int(rows[0]["runs"]), COUNTED_AT_MOST + 1)

    async def ids(
        self, search: Search, at_most: int, time_s: float, *, unreplayed: bool = False
    ) -> list[RunId] | None:
        """Return the runs of one moment, oldest first; None where looking takes longer.

        Where there are more than ``at_most``, some ``at_most`` and one of them come back.

        Args:
            search: What they have in common.
            at_most: How many are of use.
            time_s: Seconds that it may take.
            unreplayed: Leave those out whose dead letter has been replayed.

        Raises:
            Unavailable: Postgres is away.
        """
        values = {**_values(search), "limit": at_most + 1}
        statement = _ids_of(search, unreplayed=unreplayed)
        in_bulk = True if search.words else None
        rows = await fetch_within(self._pool, statement, time_s, bitmaps=in_bulk, **values)
        if rows is None:
            return None
        # a run's id begins with the time that its message was enqueued at
        return sorted(RunId(str(row["run_id"])) for row in rows)[: at_most + 1]

    async def _gathered(
        self, search: Search, after: Mapping[str, Any], values: Mapping[str, Any]
    ) -> list[Row] | None:
        """Gather all runs with these words and take the newest; None where they are many.

        The planner knows how common whole words are, and takes any beginning of a word for as
        common as one run in fifty: it would look for the newest first, among all runs.
        """
        guess = await fetch_within(self._pool, _QUERIES.guessed, _GATHER_S, words=values["words"])
        if guess is None or _rows_of(guess) > _GATHERED_AT_MOST:
            return None
        rows = await fetch_within(
            self._pool,
            _all_of(search, after),
            _GATHER_S,
            bitmaps=True,
            **{**values, "gathered": _GATHERED_AT_MOST + 1},
        )
        if rows is None or any(row.pop("gathered") > _GATHERED_AT_MOST for row in rows):
            return None
        return rows

    async def walk(
        self, search: Search, *, cursor: str | None = None, limit: int = 100
    ) -> tuple[list[Row], str | None]:
        """Return a page as :meth:`page`, by looking at window after window of all runs.

        It ends when the page is full or the time is over, and then goes on from there.
        """
        after = _after(read_cursor(cursor)) if cursor else {}
        most = _WINDOW_ROWS_OF_WORDS if search.words else _WINDOW_ROWS
        window_rows = min(self._window_rows, most)
        found: list[Row] = []
        deadline_s = time.monotonic() + _WALK_S
        while True:
            end = await self._window_end(search, after, window_rows)
            down_to = {"down_to_at": end["created_at"], "down_to_id": end["run_id"]} if end else {}
            wanted = limit + 1 - len(found)
            values = {**_values(search), **after, **down_to, "limit": wanted}
            statement = _window_of(search, {**after, **down_to})
            found += await self._fetch(statement, values)
            if len(found) > limit:
                return found[:limit], cursor_of(found[limit - 1])
            if end is None:
                return found, None
            if time.monotonic() >= deadline_s:
                return found, cursor_of(end)
            after = _after((end["created_at"], end["run_id"]))

    async def _window_end(
        self, search: Search, after: Mapping[str, Any], window_rows: int
    ) -> Row | None:
        times = {"since": search.since, "until": search.until}
        times = {name: at for name, at in times.items() if at is not None}
        bounds = [*(getattr(_QUERIES, name) for name in times), *_within(after)]
        statement = "\n".join([_QUERIES.window_end, *bounds, _QUERIES.window_rows])
        rows = await self._fetch(statement, {**times, **after, "rows": window_rows - 1})
        return rows[0] if rows else None

    def _is_slow(self, what: str, search: Search) -> bool:
        noted_s = self._slow.get((what, _timeless(search)))
        return noted_s is not None and time.monotonic() - noted_s < _SLOW_FOR_S

    def _note_slow(self, what: str, search: Search) -> None:
        if len(self._slow) >= _SLOW_AT_MOST:
            del self._slow[next(iter(self._slow))]
        self._slow[what, _timeless(search)] = time.monotonic()

    async def _fetch(self, statement: LiteralString, values: Mapping[str, Any]) -> list[Row]:
        return await fetch_within(self._pool, statement, _STATEMENT_S, **values) or []


def _values(search: Search) -> dict[str, Any]:
    return search.conditions() | {"statuses": [str(one) for one in search.statuses or ()]}


def _timeless(search: Search) -> Search:
    """Return the search without its times, which move on while it is the same to who asks."""
    return replace(search, since=None, until=None)


def _rows_of(explained: Sequence[Row]) -> float:
    (plan,) = explained[0]["QUERY PLAN"]
    return float(plan["Plan"]["Plan Rows"])


def _after(place: tuple[object, str]) -> dict[str, Any]:
    return {"after_at": place[0], "after_id": place[1]}


def _page_of(search: Search, bounds: Mapping[str, Any]) -> LiteralString:
    end = [*_within(bounds), _QUERIES.newest_first]
    parts = [
        "\n".join([_QUERIES.columns, *source, *_conditions(search), *end])
        for source in _sources(search)
    ]
    if len(parts) == 1:
        return parts[0]
    return "\n".join([_QUERIES.both, _joined(parts), _QUERIES.in_all, _QUERIES.newest_of_both])


def _all_of(search: Search, bounds: Mapping[str, Any]) -> LiteralString:
    parts = [
        "\n".join(
            [_QUERIES.place, *source, *_conditions(search), *_within(bounds), _QUERIES.gathered]
        )
        for source in _sources(search)
    ]
    page = [_QUERIES.of_gathered, _QUERIES.columns, _QUERIES.newest, _QUERIES.of_newest]
    return "\n".join([_QUERIES.gathering, _joined(parts), *page, _QUERIES.newest_of_both])


def _count_of(search: Search) -> LiteralString:
    parts = [
        "\n".join([_QUERIES.identity, *source, *_conditions(search), _QUERIES.capped])
        for source in _sources(search)
    ]
    return "\n".join([_QUERIES.counted, _joined(parts), _QUERIES.in_all])


def _ids_of(search: Search, *, unreplayed: bool) -> LiteralString:
    more = [_QUERIES.unreplayed] if unreplayed else []
    return _joined(
        [
            "\n".join([_QUERIES.identity, *source, *_conditions(search), *more, _QUERIES.capped])
            for source in _sources(search)
        ]
    )


def _window_of(search: Search, bounds: Mapping[str, Any]) -> LiteralString:
    """Return the statement of one window; none of the indexes of ended runs can answer it."""
    end = [*_within(bounds), _QUERIES.newest_first]
    return "\n".join([_QUERIES.columns, _QUERIES.every, *_conditions(search), *end])


def _within(bounds: Mapping[str, Any]) -> list[LiteralString]:
    after = [_QUERIES.after] if "after_id" in bounds else []
    return [*after, *([_QUERIES.down_to] if "down_to_id" in bounds else [])]


def _joined(parts: Sequence[LiteralString]) -> LiteralString:
    return "\nunion all\n".join(f"({part})" for part in parts)


def _conditions(search: Search) -> list[LiteralString]:
    if search.word_id is not None:
        search = replace(search, words=None)  # the fragment of the id says both
    names = [
        "is_no_replay" if name == "is_replay" and not value else name
        for name, value in search.conditions().items()
    ]
    return [getattr(_QUERIES, name) for name in names]


def _sources(search: Search) -> list[list[LiteralString]]:
    """Return where to look: the more exactly a source is named, the more indexes it has."""
    statuses = search.statuses
    retried = [_QUERIES.retried] if (search.attempts_from or 0) > 1 else []
    if statuses == (RunStatus.DEAD_LETTERED,) or search.reason is not None:
        return [[_QUERIES.dead, *retried]]
    if statuses is not None and TERMINAL.issuperset(statuses):
        return [[_QUERIES.ended, *retried]]
    if statuses is not None and TERMINAL.isdisjoint(statuses):
        return [[_QUERIES.alive, *retried]]
    if retried or not _INDEXED.isdisjoint(search.conditions()):
        return [[_QUERIES.ended, *retried], [_QUERIES.alive, *retried]]
    return [[_QUERIES.every]]

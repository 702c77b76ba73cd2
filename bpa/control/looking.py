"""Looking at what a run works on, under one rule, and noted in the audit."""

from __future__ import annotations

from typing import Any

from bpa.control.contents import contents_of
from bpa.control.disclosure import Disclosure, Show
from bpa.control.roles import Role
from bpa.domain.runs import RunId
from bpa.errors import NotFound
from bpa.postgres import Pool, fetch_all, fetch_one, load_queries

_QUERIES = load_queries(__file__)


class Looking:
    """The contents of runs.

    Args:
        pool: Connections to Postgres.
        disclosure: How much is shown of them.
    """

    def __init__(self, pool: Pool, disclosure: Disclosure) -> None:
        self._pool = pool
        self._disclosure = disclosure

    def shown_to(self, role: Role) -> Show:
        """Return how much somebody may see."""
        return self._disclosure.to(role)

    async def contents(self, run_id: RunId, role: Role, actor: str) -> dict[str, Any]:
        """Return a run's document, prompts, answers and payloads, and note who looked.

        Raises:
            NotAllowed: They may not see them.
            NotFound: There is no such run.
        """
        self._disclosure.must_show(role)
        shown = self._disclosure.show
        run = await fetch_one(self._pool, _QUERIES.look, run_id=run_id, actor=actor, shown=shown)
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        steps = await fetch_all(self._pool, _QUERIES.kept, run_id=run_id)
        return contents_of(run, steps, self._disclosure)

    async def notes(self, run_id: RunId) -> list[dict[str, Any]]:
        """Return what was done to a run by people, in order, the latest few hundred."""
        return await fetch_all(self._pool, _QUERIES.notes, run_id=run_id)

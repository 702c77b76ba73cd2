"""What an edit of a deployment would come to, while nothing is changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec

from bpa.control.agents import Agents
from bpa.control.deployments import Deployments, tag_of
from bpa.control.revisions import Revisions, held_by_runs, no_version, renamed
from bpa.control.spec_changes import Problem, changes
from bpa.control.spec_checks import read_spec
from bpa.control.spec_effects import Simulation, cautions
from bpa.domain.specs import DeploymentSpec
from bpa.errors import NotFound
from bpa.scheduler.simulation import simulate
from bpa.scheduler.snapshot import SnapshotReader


class Simulations:
    """Simulates edits.

    Args:
        deployments: What is deployed.
        revisions: What is at work for it.
        agents: Which versions there are.
        reader: The fleet as it is.
    """

    def __init__(
        self,
        deployments: Deployments,
        revisions: Revisions,
        agents: Agents,
        reader: SnapshotReader,
    ) -> None:
        self._deployments = deployments
        self._revisions = revisions
        self._agents = agents
        self._reader = reader

    async def simulate(self, dep_id: str, tree: Any) -> Simulation:
        """Say what would come of a deployment's edit.

        Args:
            dep_id: The deployment.
            tree: Its spec as plain values, whatever they are.

        Raises:
            NotFound: There is no such deployment.
            Unavailable: Postgres is away.
        """
        row = await self._deployments.get(dep_id)
        present = msgspec.convert(row["target"], DeploymentSpec)
        spec, problems = read_spec(tree)
        if spec is not None:
            problems = [*renamed(row, spec), *await self._unfounded(row, present, spec)]
        if spec is None or problems:
            found = changes(present, spec) if spec else []
            return Simulation(row, tag_of(row), present, None, problems, found, None)
        snapshot, at_work, versions, left = await asyncio.gather(
            self._reader.read(),
            self._revisions.at_work(dep_id),
            self._revisions.alive_by_version(dep_id),
            self._revisions.left_behind(present.queue),
        )
        fleet = simulate(snapshot, present, spec, at_work)
        found = changes(present, spec)
        simulated = Simulation(row, tag_of(row), present, spec, [], found, fleet)
        return replace(simulated, cautions=cautions(simulated, versions, left))

    async def _unfounded(
        self, row: dict[str, Any], present: DeploymentSpec, spec: DeploymentSpec
    ) -> list[Problem]:
        """Return what is wrong with a spec by what else there is."""
        problems = []
        if spec.version != present.version and not await self._has_version(spec):
            problems.append(no_version(spec))
        if spec.queue != present.queue:
            others = await self._deployments.page(spec.environment)
            why = held_by_runs(present.queue, paused="paused" in row["status"], alive=row["alive"])
            if any(one["queue"] == spec.queue and one["status"].get("active") for one in others):
                why = "another deployment feeds from it; a queue has one"
            if why:
                problems.append(Problem("queue", why))
        return problems

    async def _has_version(self, spec: DeploymentSpec) -> bool:
        try:
            versions = await self._agents.versions(spec.agent_id)
        except NotFound:
            return False
        return any(one["version"] == spec.version for one in versions)

"""What an edit of a deployment would come to, while nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bpa.control.agents import Agents
from bpa.control.deployments import Deployments, tag_of
from bpa.control.revisions import Revisions, held_by_runs, no_version, renamed
from bpa.control.spec_changes import Change, changes
from bpa.control.spec_checks import Problem, read_spec
from bpa.domain.specs import DeploymentSpec
from bpa.errors import NotFound
from bpa.scheduler.simulation import FleetEffect, simulate
from bpa.scheduler.snapshot import SnapshotReader

_TOLD_ONCE_RECEIVED = frozenset({"routes", "maxEffects", "inputSchema"})


@dataclass(frozen=True, slots=True)
class Simulation:
    """What an edit would come to."""

    row: dict[str, Any]
    """The deployment as it is."""
    tag: str
    """Of the state that this was found from."""
    present: DeploymentSpec
    spec: DeploymentSpec | None
    """As it would be; None where that makes no sense."""
    problems: Sequence[Problem]
    changes: Sequence[Change]
    cautions: Sequence[str]
    """What else whoever edits should know, in sentences."""
    fleet: FleetEffect | None
    """None where the spec makes no sense."""


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
            return Simulation(row, tag_of(row), present, None, problems, found, [], None)
        snapshot, at_work, versions, left = await asyncio.gather(
            self._reader.read(),
            self._revisions.at_work(dep_id),
            self._revisions.alive_by_version(dep_id),
            self._revisions.left_behind(present.queue),
        )
        fleet = simulate(snapshot, present, spec, at_work)
        found = changes(present, spec)
        told = [*_of_runs(found, versions), *_of_queue(present, spec, left), *_of_fleet(fleet)]
        return Simulation(row, tag_of(row), present, spec, [], found, told if found else [], fleet)

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


def _of_runs(found: Sequence[Change], versions: dict[str, int]) -> list[str]:
    """Say what living runs keep."""
    fields = {change.field.split(".")[0] for change in found}
    alive = sum(versions.values())
    if not alive:
        return []
    told = []
    if "version" in fields:
        kept = ", ".join(f"{count} with {version}" for version, count in versions.items())
        told.append(f"Runs keep the version they were received under: {kept} have not ended.")
    if fields & _TOLD_ONCE_RECEIVED:
        told.append(
            f"{alive} living runs keep the routes, effects and schema they were received under."
        )
    if any(change.field == "httpOut.baseUrl" for change in found):
        told.append(
            "Runs at work go on to the present target. Others go to the new one, but for those "
            "whose effect the present one may have applied: they end as OutcomeUnknown."
        )
    if fields & {"budgets", "httpOut"}:
        told.append("Runs at work keep their budgets and target until their next execution.")
    return told


def _of_queue(present: DeploymentSpec, spec: DeploymentSpec, left: dict[str, Any]) -> list[str]:
    if present.queue == spec.queue:
        return []
    counted = [
        f"{left[name]} {what}"
        for name, what in (("active", "messages"), ("dead_letters", "dead letters"))
        if left[name]
    ]
    known = f" {' and '.join(counted)} lie there." if counted else ""
    return [f"Nothing is received from {present.queue!r} any more, nor shown of it.{known}"]


def _of_fleet(fleet: FleetEffect) -> list[str]:
    told = []
    if fleet.over:
        told.append(
            f"{fleet.at_work} runs are at work, {fleet.over} more than the new limit: they go on, "
            "and none starts until enough have ended."
        )
    if fleet.stranded:
        told.append(
            f"{fleet.stranded} runs are at work on nodes that do not qualify any more: they go on "
            "there; what has to start anew goes elsewhere."
        )
    if not fleet.after.places:
        told.append("No node qualifies: its runs would wait until one does.")
    return told

"""What an edit of a deployment comes to, as a value and in sentences. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bpa.control.spec_changes import Change, Problem
from bpa.domain.specs import DeploymentSpec
from bpa.scheduler.simulation import FleetEffect

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
    fleet: FleetEffect | None
    """None where the spec makes no sense."""
    cautions: Sequence[str] = ()
    """What else whoever edits should know, in sentences."""


def cautions(
    simulated: Simulation, versions: Mapping[str, int], left: Mapping[str, int | None]
) -> list[str]:
    """Return what else whoever edits should know.

    Args:
        simulated: An edit that makes sense.
        versions: How many runs have not ended, by the version of the agent that they keep.
        left: What is known to lie in the present queue: ``active`` and ``dead_letters``.
    """
    if not simulated.changes or simulated.spec is None or simulated.fleet is None:
        return []
    return [
        *_of_runs(simulated.changes, versions),
        *_of_queue(simulated.present, simulated.spec, left),
        *_of_fleet(simulated.fleet),
    ]


def _of_runs(found: Sequence[Change], versions: Mapping[str, int]) -> list[str]:
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


def _of_queue(
    present: DeploymentSpec, spec: DeploymentSpec, left: Mapping[str, int | None]
) -> list[str]:
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

"""What REST says and takes of a deployment's revisions, and of edits that are tried out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from bpa.control import spec_changes, spec_effects
from bpa.control.rest.schemas import Asked, Document, Time
from bpa.domain.specs import DeploymentSpec
from bpa.scheduler import simulation

NOTE_CHARS_MAX = 1_000
Note = Annotated[str, msgspec.Meta(max_length=NOTE_CHARS_MAX)]


class Edit(Asked, frozen=True, kw_only=True):
    """What a deployment is to say."""

    spec: DeploymentSpec
    """All of it: what is left out gets its default."""
    note: Note = ""
    """Why, for whoever reads the revisions."""


class RollBack(Asked, frozen=True, kw_only=True):
    """Which revision's spec a deployment is to have again."""

    to: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    note: Note = ""


class Proposed(Document, frozen=True, forbid_unknown_fields=True):
    """An edit to try out."""

    spec: dict[str, Any]
    """Whatever it says: what is wrong with it is the answer."""


class Change(Document, frozen=True):
    """A field, by its path in the spec, and what it says before and after."""

    field: str
    before: Any
    """Null where it says nothing."""
    after: Any

    @classmethod
    def of_change(cls, change: spec_changes.Change) -> Change:
        """Build it from what the comparison found."""
        return cls(field=change.field, before=change.before, after=change.after)


class Revision(Document, frozen=True):
    """What a deployment said from when on, and by whose will."""

    deployment_id: str
    revision: int
    spec: dict[str, Any]
    present: bool
    """Whether it is what the deployment says now."""
    created_at: Time
    requested_by: str
    note: str
    restores: int | None
    """The revision whose spec it brought back."""
    changes: list[Change]
    """Against the revision before it; none for the first."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Revision:
        """Build it from its row."""
        found: list[Change] = []
        if row["earlier_spec"] is not None:
            earlier = msgspec.convert(row["earlier_spec"], DeploymentSpec)
            spec = msgspec.convert(row["spec"], DeploymentSpec)
            found = [Change.of_change(one) for one in spec_changes.changes(earlier, spec)]
        names = {
            "deployment_id": row["dep_id"],
            "requested_by": row["actor"],
            "changes": found,
        }
        return super().of({**row, **names})


class RevisionPage(Document, frozen=True):
    """Revisions, the latest first."""

    revisions: list[Revision]
    next_cursor: str | None
    """Continues the list; null at its end."""


class FieldProblem(Document, frozen=True):
    """What is wrong with a field; the path is empty where it is the whole."""

    field: str
    problem: str


class Standing(Document, frozen=True):
    """What a node would say to the deployment's runs."""

    qualifies: bool
    refuses: str | None
    """Why none of them may go there, however empty the node is."""
    waits: str | None
    """Why none could go there now, though the node qualifies."""
    places: int
    """Runs that it could hold if nothing else worked there."""
    free: int
    """Runs that it could take now."""

    @classmethod
    def of_standing(cls, one: simulation.Standing) -> Standing:
        """Build it from what was simulated."""
        return cls(
            qualifies=one.refuses is None,
            refuses=one.refuses,
            waits=one.waits,
            places=one.places,
            free=one.free,
        )


class NodeEffect(Document, frozen=True):
    """A node before and after the edit."""

    node_id: str
    at_work: int
    """Runs of the deployment that it holds; they go on."""
    before: Standing
    after: Standing


class Reach(Document, frozen=True):
    """How much of the fleet the deployment could have."""

    limit: int
    """slotBudget x replicas."""
    places: int
    """Runs that the qualifying nodes could hold if nothing else worked there."""
    at_once: int
    """Runs that could be at work at once: the smaller of the two."""
    free: int
    """Runs that could start now, were they there."""

    @classmethod
    def of_reach(cls, one: simulation.Reach) -> Reach:
        """Build it from what was simulated."""
        return cls(limit=one.limit, places=one.places, at_once=one.at_once, free=one.free)


class FleetEffect(Document, frozen=True):
    """The present fleet before and after the edit."""

    nodes: list[NodeEffect]
    before: Reach
    after: Reach
    at_work: int
    """Runs of the deployment that hold a lease."""
    over: int
    """Of those, how many are more than the new limit: they go on, and none starts meanwhile."""
    stranded: int
    """Of those, how many are on nodes that would not get them again."""

    @classmethod
    def of_effect(cls, one: simulation.FleetEffect) -> FleetEffect:
        """Build it from what was simulated."""
        return cls(
            nodes=[
                NodeEffect(
                    node_id=node.node_id,
                    at_work=node.at_work,
                    before=Standing.of_standing(node.before),
                    after=Standing.of_standing(node.after),
                )
                for node in one.nodes
            ],
            before=Reach.of_reach(one.before),
            after=Reach.of_reach(one.after),
            at_work=one.at_work,
            over=one.over,
            stranded=one.stranded,
        )


class Simulation(Document, frozen=True):
    """What would come of an edit; nothing was changed."""

    deployment_id: str
    etag: str
    """Of the state that this was found from, without quotes: give it to the edit as If-Match."""
    valid: bool
    problems: list[FieldProblem]
    changes: list[Change]
    """What the spec says otherwise than the present one; as far as it could be read."""
    cautions: list[str]
    fleet: FleetEffect | None
    """Null where the spec is not valid."""

    @classmethod
    def of_simulation(cls, one: spec_effects.Simulation) -> Simulation:
        """Build it from what was simulated."""
        return cls(
            deployment_id=one.row["dep_id"],
            etag=one.tag,
            valid=one.spec is not None,
            problems=[FieldProblem(field=field, problem=text) for field, text in one.problems],
            changes=[Change.of_change(change) for change in one.changes],
            cautions=list(one.cautions),
            fleet=FleetEffect.of_effect(one.fleet) if one.fleet else None,
        )

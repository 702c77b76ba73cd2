"""An edit of a deployment while it is made: fields, JSON, what would change, what it would do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bpa.control.rest.revision_schemas import Change, FleetEffect, NodeEffect, Revision, Simulation
from bpa.ui.views import policy_form
from bpa.ui.views.policy_form import Field, Kind
from bpa.ui.words import count, harmless
from bpa.words import segment

_VALUE_CHARS_MAX = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An edit as it was typed."""

    json: str
    """The text of the JSON."""
    problem: str = ""
    """Why that is no JSON."""
    tree: Any = None
    """What it says, with what was typed into the fields."""
    synced: str
    """The JSON that the fields were written from."""
    typed: Mapping[str, str]
    """The text of each field."""
    note: str = ""
    etag: str
    """Of the state that the edit was made from, and its revision."""
    based_on: int
    restores: int | None = None

    @property
    def is_checked(self) -> bool:
        """Whether what is asked for is what was shown last, with its changes."""
        return not self.problem and policy_form.json_text(self.tree, compact=True) == self.synced


@dataclass(frozen=True, slots=True)
class FieldView:
    """A field of the form with what stands in it."""

    field: Field
    value: str
    problem: str
    was: str
    """What it says at present; empty where that is the same."""
    choices: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ChangeView:
    """A field before and after."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node before and after."""

    node_id: str
    path: str
    qualifies: bool
    text: str
    was: str
    """How that was before; empty where it is the same."""
    at_work: int


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet before and after."""

    numbers: Sequence[tuple[str, int, int]]
    """What is counted, now and with the edit."""
    nodes: Sequence[NodeView]
    summary: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """What others saved since the edit was begun."""

    revisions: Sequence[Revision]
    state: str
    """What became of the deployment beside its spec."""
    theirs: Sequence[ChangeView]
    clashes: Sequence[ChangeView]


@dataclass(frozen=True, slots=True)
class Editor:
    """The page of an edit."""

    deployment_id: str
    path: str
    groups: Sequence[tuple[str, Sequence[FieldView]]]
    draft: Draft
    json: str
    synced: str
    problems: Sequence[tuple[str, str]]
    """All of them: field and text, in one list to go through."""
    changes: Sequence[ChangeView]
    cautions: Sequence[str]
    fleet: FleetView | None
    conflict: Conflict | None
    warning: str
    can_save: bool
    next_revision: int
    commands: Sequence[str]

    @property
    def said(self) -> str:
        """What stands there now, in a sentence for who listens to the page."""
        if self.conflict:
            return "Somebody saved another revision meanwhile"
        if self.problems:
            return f"{len(self.problems)} problems: " + "; ".join(
                f"{field} {text}" for field, text in self.problems[:3]
            )
        summary = f"; {self.fleet.summary}" if self.fleet else ""
        return f"{count(len(self.changes))} changes{summary}"


def draft_of(fields: Mapping[str, str], tree: Any, synced: Any, problem: str) -> Draft:
    """Return what was sent.

    Args:
        fields: Of the form.
        tree: What its JSON says; None where it is none.
        synced: What the fields were written from.
        problem: Why the JSON is none; empty where it is one.
    """
    restores = fields.get("restores", "")
    return Draft(
        json=_kept(fields.get("json", "")),
        problem=problem,
        tree=None if problem else policy_form.patched(tree, synced, fields),
        synced=policy_form.json_text(synced, compact=True),
        typed={one.path: _kept(fields.get(one.path, "")) for one in policy_form.FIELDS},
        note=fields.get("note", "").strip(),
        etag=fields.get("etag", ""),
        based_on=_number(fields.get("based_on", "")) or 0,
        restores=_number(restores),
    )


def drafted(
    tree: Any, etag: str, based_on: int, *, note: str = "", restores: int | None = None
) -> Draft:
    """Return an edit that says what a tree says."""
    return Draft(
        json=policy_form.json_text(tree),
        tree=tree,
        synced=policy_form.json_text(tree, compact=True),
        typed={},
        note=note,
        etag=etag,
        based_on=based_on,
        restores=restores,
    )


def editor(
    deployment_id: str,
    draft: Draft,
    simulated: Simulation | None,
    versions: Sequence[str],
    *,
    present: Mapping[str, Any],
    revision: int,
    conflict: Conflict | None = None,
    warning: str = "",
) -> Editor:
    """Return the page of an edit.

    Args:
        deployment_id: The deployment.
        draft: As it was typed.
        simulated: What would come of it; None where the JSON is none.
        versions: Of the agent, the latest first.
        present: The deployment's spec as it is.
        revision: Of that.
        conflict: What others saved meanwhile.
        warning: Why nothing was saved, though it was asked for.
    """
    found = [(one.field, one.problem) for one in simulated.problems] if simulated else []
    if draft.problem:
        found = [("json", draft.problem)]
    at = dict(found)
    path = f"/ui/deployments/{segment(deployment_id)}"
    changes = [change_view(one) for one in simulated.changes] if simulated else []
    is_valid = simulated is not None and simulated.valid
    return Editor(
        deployment_id=deployment_id,
        path=path,
        groups=[
            (title, [_field(one, draft, present, at, versions) for one in fields])
            for title, fields in policy_form.GROUPS
        ],
        draft=draft,
        json=draft.json if draft.problem else policy_form.json_text(draft.tree),
        synced=draft.synced if draft.problem else policy_form.json_text(draft.tree, compact=True),
        problems=found,
        changes=changes,
        cautions=simulated.cautions if simulated else [],
        fleet=fleet_view(simulated.fleet) if simulated and simulated.fleet else None,
        conflict=conflict,
        warning=warning,
        can_save=is_valid and bool(changes) and conflict is None,
        next_revision=revision + 1,
        commands=[
            f"bpa deployments edit {deployment_id}",
            f"bpa deployments edit {deployment_id} --set target.slotBudget=8 --dry-run",
            f"bpa deployments history {deployment_id}",
        ],
    )


def change_view(change: Change) -> ChangeView:
    """Return a change as people read it."""
    return ChangeView(change.field, _value(change.before), _value(change.after))


def fleet_view(fleet: FleetEffect) -> FleetView:
    """Return what an edit would do to the fleet."""
    fitting = sum(node.after.qualifies for node in fleet.nodes)
    return FleetView(
        numbers=[
            ("nodes that qualify", sum(node.before.qualifies for node in fleet.nodes), fitting),
            ("runs allowed at once", fleet.before.limit, fleet.after.limit),
            ("places on those nodes", fleet.before.places, fleet.after.places),
            ("could be at work at once", fleet.before.at_once, fleet.after.at_once),
            ("could start now", fleet.before.free, fleet.after.free),
        ],
        nodes=[_node(one) for one in fleet.nodes],
        summary=f"{fitting} of {len(fleet.nodes)} nodes qualify, "
        f"{count(fleet.after.at_once)} runs could be at work at once",
    )


def _field(
    field: Field,
    draft: Draft,
    present: Mapping[str, Any],
    problems: Mapping[str, str],
    versions: Sequence[str],
) -> FieldView:
    value = (
        draft.typed.get(field.path, "") if draft.problem else policy_form.shown(field, draft.tree)
    )
    was = policy_form.shown(field, present)
    choices: Sequence[str] = ()
    if field.path == "version":
        choices = [*versions, *([value] if value and value not in versions else [])]
    elif field.kind is Kind.CHOICE:
        choices = ["yes", "no", *([value] if value not in ("yes", "no") else [])]
    below = f"{field.path}."
    of_product = "x " if field.path in ("target.slotBudget", "target.replicas") else None
    found = [
        text
        for name, text in problems.items()
        if name == field.path
        or name.startswith(below)
        or (of_product is not None and f"{field.path}" in name and of_product in name)
    ]
    return FieldView(
        field, value, "; ".join(found), (was or "empty") if was != value else "", choices
    )


def _node(node: NodeEffect) -> NodeView:
    after, before = _stands(node.after), _stands(node.before)
    return NodeView(
        node.node_id,
        f"/ui/fleet/{segment(node.node_id)}",
        node.after.qualifies,
        after,
        before if before != after else "",
        node.at_work,
    )


def _stands(standing: Any) -> str:
    if standing.refuses is not None:
        return f"refuses: {standing.refuses}"
    places = f"{count(standing.places)} place{'' if standing.places == 1 else 's'}"
    return (
        f"{places}, now {standing.waits}" if standing.waits else f"{places}, {standing.free} free"
    )


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if text == "":
        return "empty"
    return text if len(text) <= _VALUE_CHARS_MAX else f"{text[:_VALUE_CHARS_MAX]}…"


def _kept(text: str) -> str:
    """Return what was typed as a page may show it again."""
    return harmless(text, policy_form.TEXT_CHARS_MAX)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None

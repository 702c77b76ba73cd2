"""Edits of deployments: checked as they are typed, looked at before they are saved, taken back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from bpa.control.cursors import cursor_of_revision, read_revision
from bpa.control.deployments import tag_of
from bpa.control.rest.bodies import read_json
from bpa.control.rest.revision_schemas import NOTE_CHARS_MAX, Change, Revision, Simulation
from bpa.control.revisions import Edit
from bpa.control.spec_changes import Rebased, changes, rebased
from bpa.control.spec_checks import read_spec
from bpa.domain.specs import DeploymentSpec
from bpa.errors import Changed, InvalidRequest, NotFound
from bpa.ui.desk import Desk
from bpa.ui.forms import fields_of
from bpa.ui.rendering import AnyRequest, Whole, done
from bpa.ui.session import operator_of
from bpa.ui.views import policy as view
from bpa.ui.views.policy_form import TEXT_CHARS_MAX
from bpa.words import segment

_PAGE = 25
_BETWEEN_AT_MOST = 20
_CHANGED_SINCE = "You changed something after the last check: look at the changes, then save."


@get("/deployments/{deployment_id:str}/edit")
async def begin_edit(
    request: AnyRequest,
    deployment_id: FromPath[str],
    desk: NamedDependency[Desk],
    revision: FromQuery[int | None] = None,
) -> Response[str]:
    """Show the deployment to be edited; with ``revision``, with what that one said."""
    row = await desk.services.deployments.get(deployment_id)
    tree, note = row["target"], ""
    if revision is not None:
        tree = (await desk.services.revisions.get(deployment_id, revision))["spec"]
        note = f"roll back to revision {revision}"
    ordered = msgspec.to_builtins(_spec_of(tree))
    draft = view.drafted(ordered, tag_of(row), row["revision"], note=note, restores=revision)
    return await _page(request, desk, row, draft)


@post("/deployments/{deployment_id:str}/edit", status_code=200)
async def go_on(
    request: AnyRequest, deployment_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Check what was typed; save it, or put it on top of what others saved, where asked to."""
    actor = operator_of(request).actor
    fields = await fields_of(request, most=TEXT_CHARS_MAX)
    draft = _draft(fields)
    row = await desk.services.deployments.get(deployment_id)
    wanted = fields.get("do", "")
    if wanted == "rebase":
        return await _rebase(request, desk, row, draft)
    if wanted != "save":
        return await _page(request, desk, row, draft)
    if not draft.is_checked:
        return await _page(request, desk, row, draft, warning=_CHANGED_SINCE)
    spec, problems = read_spec(draft.tree)
    if spec is None or problems:
        return await _page(request, desk, row, draft, warning="Nothing was saved.")
    restores = await _restored(desk, deployment_id, draft.restores, spec)
    edit = Edit(spec=spec, actor=actor, note=draft.note[:NOTE_CHARS_MAX], restores=restores)
    try:
        changed = await desk.services.revisions.edit(deployment_id, edit, draft.etag)
    except Changed:
        row = await desk.services.deployments.get(deployment_id)
        return await _page(request, desk, row, draft, status=409)
    desk.services.deployments_changed()
    desk.services.woken()
    saved = (await desk.services.deployments.get(deployment_id))["revision"]
    said = f"Revision {saved} is saved." if changed else "It says so already; nothing was changed."
    return done(f"/ui/deployments/{segment(deployment_id)}", said)


@get("/deployments/{deployment_id:str}/revisions")
async def list_revisions(
    request: AnyRequest,
    deployment_id: FromPath[str],
    desk: NamedDependency[Desk],
    cursor: FromQuery[str | None] = None,
) -> Response[str]:
    """Show what the deployment said, since when and by whose will."""
    await desk.services.deployments.get(deployment_id)
    before = read_revision(cursor) if cursor else None
    rows = await desk.services.revisions.page(deployment_id, before, _PAGE + 1)
    revisions = [Revision.of(row) for row in rows[:_PAGE]]
    following = cursor_of_revision(revisions[-1].revision) if len(rows) > _PAGE else ""
    shown = [(one, [view.change_view(change) for change in one.changes]) for one in revisions]
    return desk.render.page(
        request,
        "revisions.html",
        deployment_id=deployment_id,
        base=f"/ui/deployments/{segment(deployment_id)}",
        revisions=shown,
        following=following,
    )


def _draft(fields: Mapping[str, str]) -> view.Draft:
    tree, problem = None, ""
    try:
        tree = read_json(fields.get("json", "").encode())
    except InvalidRequest as error:
        problem = str(error)
    try:
        synced = read_json(fields.get("synced", "").encode())
    except InvalidRequest:
        synced = tree  # a form of somebody's own: its JSON says all
    return view.draft_of(fields, tree, synced, problem)


async def _page(
    request: AnyRequest,
    desk: Desk,
    row: dict[str, Any],
    draft: view.Draft,
    *,
    clashes: tuple[Change, ...] = (),
    warning: str = "",
    status: int = 200,
) -> Response[str]:
    deployment_id = row["dep_id"]
    simulated = None
    if not draft.problem:
        found = await desk.services.simulations.simulate(deployment_id, draft.tree)
        simulated, row = Simulation.of_simulation(found), found.row
    versions = await desk.services.agents.versions(row["agent_id"])
    conflict = None
    if draft.etag != tag_of(row):
        conflict = await _conflict(desk, row, draft)
    shown = view.editor(
        deployment_id,
        draft,
        simulated,
        [one["version"] for one in reversed(versions)],
        present=row["target"],
        revision=row["revision"],
        conflict=conflict,
        warning=warning,
    )
    return desk.render.page(
        request,
        "deployment_edit.html",
        status_code=status,
        view=shown,
        json=Whole(shown.json),
        synced=Whole(shown.synced),
        values={one.field.path: Whole(one.value) for _, fields in shown.groups for one in fields},
        clashes=[view.change_view(one) for one in clashes],
    )


async def _conflict(desk: Desk, row: dict[str, Any], draft: view.Draft) -> view.Conflict:
    base, theirs = await _base_of(desk, row, draft), _spec_of(row["target"])
    rows = await desk.services.revisions.page(row["dep_id"], None, _BETWEEN_AT_MOST)
    between = [Revision.of(one) for one in rows if one["revision"] > draft.based_on]
    mine, _ = read_spec(draft.tree)
    clashes = rebased(base, theirs, mine).clashes if mine else ()
    paused = row["status"].get("paused")
    state = f"It is paused, by {paused['by']}." if paused else "It is not paused."
    return view.Conflict(
        between,
        "" if between else state,
        [view.change_view(Change.of_change(one)) for one in changes(base, theirs)],
        [view.change_view(Change.of_change(one)) for one in clashes],
    )


async def _rebase(
    request: AnyRequest, desk: Desk, row: dict[str, Any], draft: view.Draft
) -> Response[str]:
    mine, _ = read_spec(draft.tree)
    if mine is None:
        warning = "Mend the problems first: what cannot be read cannot be put on top of anything."
        return await _page(request, desk, row, draft, warning=warning)
    put: Rebased = rebased(await _base_of(desk, row, draft), _spec_of(row["target"]), mine)
    moved = view.drafted(
        put.tree, tag_of(row), row["revision"], note=draft.note, restores=draft.restores
    )
    clashes = tuple(Change.of_change(one) for one in put.clashes)
    return await _page(request, desk, row, moved, clashes=clashes)


async def _base_of(desk: Desk, row: dict[str, Any], draft: view.Draft) -> DeploymentSpec:
    """Return what the edit was made from; the present one where that is not known."""
    try:
        base = await desk.services.revisions.get(row["dep_id"], draft.based_on)
    except NotFound:
        return _spec_of(row["target"])
    return _spec_of(base["spec"])


async def _restored(
    desk: Desk, deployment_id: str, revision: int | None, spec: DeploymentSpec
) -> int | None:
    """Return the revision that is brought back, if the edit still says what that one said."""
    if revision is None:
        return None
    row = await desk.services.revisions.get(deployment_id, revision)
    return revision if _spec_of(row["spec"]) == spec else None


def _spec_of(tree: Any) -> DeploymentSpec:
    return msgspec.convert(tree, DeploymentSpec)


HANDLERS = [begin_edit, go_on, list_revisions]

"""One run: looked at, also its log and what it works on; cancelled, tried again."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from bpa.control.actors import cancelled_by
from bpa.control.rest.content_schemas import RunContents
from bpa.control.rest.run_schemas import Run
from bpa.control.rest.services import run_id_in_path
from bpa.domain.runs import TERMINAL
from bpa.ui.desk import Desk
from bpa.ui.forms import fields_of
from bpa.ui.rendering import HEADERS, AnyRequest, done
from bpa.ui.session import operator_of, person_of
from bpa.ui.views import run as view
from bpa.ui.views import run_contents, run_log

NOTED = ("/contents", "/contents.json")
"""Endings of the paths where each look is noted."""


@get("/runs/{run_id:str}")
async def show_run(
    request: AnyRequest, run_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Show one run whole."""
    row = await desk.services.history.get(run_id_in_path(run_id))
    spec = await desk.services.revisions.budgets_of(row)
    contents = desk.services.looking.shown_to(person_of(request).role)
    shown = view.run_page(
        Run.of(row), spec, datetime.now(UTC), outside=desk.outside, contents=contents
    )
    return desk.render.page(request, "run.html", view=shown)


@get("/runs/{run_id:str}/logs")
async def show_log(
    request: AnyRequest, run_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Show what happened to a run, line by line; its page asks for this once it is painted."""
    wanted = run_id_in_path(run_id)
    run = Run.of(await desk.services.history.get(wanted))
    shown = run_log.log(run, await desk.services.looking.notes(wanted), desk.outside)
    return desk.render.page(request, "run_log.html", part="bare.html", view=shown)


@get("/runs/{run_id:str}/contents")
async def show_contents(
    request: AnyRequest, run_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Show what a run works on, to those who may see it."""
    found = await _contents(request, run_id, desk)
    shown = run_contents.contents_page(found)
    return desk.render.page(request, "run_contents.html", view=shown)


@get("/runs/{run_id:str}/contents.json")
async def download_contents(
    request: AnyRequest, run_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[bytes]:
    """Hand out the same as a file, at full length."""
    found = await _contents(request, run_id, desk)
    written = msgspec.json.format(msgspec.json.encode(found), indent=2)
    kept = {"Content-Disposition": f'attachment; filename="run-{found.run_id}.json"'}
    headers = {**HEADERS, "Cache-Control": "no-store", **kept}
    return Response(written, media_type="application/json", headers=headers)


async def _contents(request: AnyRequest, run_id: str, desk: Desk) -> RunContents:
    person = person_of(request)
    found = await desk.services.looking.contents(run_id_in_path(run_id), person.role, person.actor)
    return RunContents.of(found)


@post("/runs/{run_id:str}/cancel", status_code=303)
async def cancel(
    request: AnyRequest, run_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Have a living run end."""
    wanted, actor = run_id_in_path(run_id), operator_of(request).actor
    detail = (await fields_of(request)).get("detail", "").strip() or "no reason given"
    status = await desk.services.runs.cancel(wanted, actor, cancelled_by(actor, detail))
    said = "The run is cancelled." if status in TERMINAL else "Its node has been asked to end it."
    return done(f"/ui/runs/{wanted}", said)


@post("/runs/{run_id:str}/retry", status_code=303)
async def retry(
    request: AnyRequest, run_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Replay a run's dead letter, or end its backoff."""
    wanted = run_id_in_path(run_id)
    outcome = await desk.services.replaying.retry(wanted, operator_of(request).actor)
    desk.services.woken()
    if outcome is None:
        return done(
            f"/ui/runs/{wanted}", "It waits no more: it is placed as soon as there is room."
        )
    path = f"/ui/runs/{wanted}"
    return done(path, f"Its dead letter: {outcome.result.value}. {outcome.why}")


HANDLERS = [show_run, show_log, show_contents, download_contents, cancel, retry]

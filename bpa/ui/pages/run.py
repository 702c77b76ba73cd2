"""One run: looked at, cancelled, tried again."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from bpa.control.rest.run_schemas import Run
from bpa.control.rest.services import run_id_in_path
from bpa.domain.runs import TERMINAL
from bpa.domain.specs import DeploymentSpec
from bpa.errors import NotFound
from bpa.ui.desk import Desk
from bpa.ui.forms import fields_of
from bpa.ui.rendering import AnyRequest, done
from bpa.ui.session import operator_of
from bpa.ui.views import run as view


@get("/runs/{run_id:str}")
async def show_run(
    request: AnyRequest, run_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Show one run whole."""
    run = Run.of(await desk.services.history.get(run_id_in_path(run_id)))
    try:
        row = await desk.services.deployments.get(run.deployment_id)
        spec = msgspec.convert(row["target"], DeploymentSpec)
    except NotFound:
        spec = None
    shown = view.run_page(run, spec, datetime.now(UTC))
    return desk.render.page(request, "run.html", view=shown)


@post("/runs/{run_id:str}/cancel", status_code=303)
async def cancel(
    request: AnyRequest, run_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Have a living run end."""
    wanted, actor = run_id_in_path(run_id), operator_of(request).actor
    detail = (await fields_of(request)).get("detail", "").strip() or "no reason given"
    status = await desk.services.runs.cancel(wanted, actor, f"cancelled by {actor}: {detail}")
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


HANDLERS = [show_run, cancel, retry]

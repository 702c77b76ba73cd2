"""Many runs at once: those that a search found, each marked by somebody, and no others."""

from __future__ import annotations

from datetime import UTC, datetime

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from bpa.control.rest.run_schemas import RunSummary
from bpa.control.rest.services import run_id_in_path
from bpa.control.search import read_search
from bpa.domain.runs import TERMINAL, RunId
from bpa.errors import BpaError, Conflict, InvalidRequest, NotFound
from bpa.ui.desk import Desk
from bpa.ui.forms import chosen_of, fields_of
from bpa.ui.rendering import AnyRequest
from bpa.ui.session import operator_of
from bpa.ui.views import many_runs as view

AT_MOST = 100


@get("/runs/many")
async def choose(
    request: AnyRequest, desk: NamedDependency[Desk], q: FromQuery[str] = "status:active"
) -> Response[str]:
    """List what a search finds at this moment, to mark runs; what comes later is not among them."""
    rows, more = await desk.services.searches.page(read_search(q, datetime.now(UTC)), limit=AT_MOST)
    shown = view.choice([RunSummary.of(row) for row in rows], q, is_all=more is None)
    return desk.render.page(request, "many_runs.html", view=shown)


@post("/runs/many/{what:str}", status_code=200)
async def act(
    request: AnyRequest, what: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Cancel or retry the runs that were marked, one by one, and say what became of each."""
    actor = operator_of(request).actor
    marked = [run_id_in_path(one) for one in await chosen_of(request, "id")]
    if what not in ("cancel", "retry"):
        raise NotFound("runs can be cancelled or retried")
    if not 1 <= len(marked) <= AT_MOST:
        raise InvalidRequest(f"mark 1 to {AT_MOST} runs; {len(marked)} are")
    detail = (await fields_of(request)).get("detail", "").strip() or "no reason given"
    results = []
    for run_id in dict.fromkeys(marked):
        try:
            said = await _one(desk, run_id, actor, f"cancelled by {actor}: {detail}", what)
            results.append(view.Result(run_id, said, is_done=True))
        except (NotFound, Conflict) as error:
            results.append(view.Result(run_id, str(error), is_done=False))
        except BpaError as error:  # what is left would fail alike: stop, and say so
            results.append(view.Result(run_id, f"{error}; the rest was left", is_done=False))
            break
    desk.services.woken()
    return desk.render.page(request, "acted.html", view=view.Acted(what, results, len(marked)))


async def _one(desk: Desk, run_id: RunId, actor: str, detail: str, what: str) -> str:
    if what == "cancel":
        status = await desk.services.runs.cancel(run_id, actor, detail)
        return "cancelled" if status in TERMINAL else "its node has been asked to end it"
    outcome = await desk.services.replaying.retry(run_id, actor)
    return f"{outcome.result.value}: {outcome.why}" if outcome else "waits no more"


HANDLERS = [choose, act]

"""Runs: what nodes report of them, what people ask and decide."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from bpa.control.actors import cancelled_by, told
from bpa.control.rest.content_schemas import RunContents
from bpa.control.rest.headers import CallerInQuery, Instant, instant
from bpa.control.rest.lease_schemas import Ended, Progressed, Stepped
from bpa.control.rest.problems import FORBIDDEN
from bpa.control.rest.run_events import RunEvent, events
from bpa.control.rest.run_schemas import (
    Cancel,
    Cancelled,
    Run,
    RunPage,
    RunSummary,
    StepView,
    Total,
    steps_of,
)
from bpa.control.rest.services import Services, run_id_in_path
from bpa.control.roles import UNSIGNED
from bpa.control.search import QUALIFIERS, QUERY_CHARS_MAX, read_search
from bpa.control.searches import COUNTED_AT_MOST
from bpa.domain.executions import OutcomeKind
from bpa.domain.runs import TERMINAL, RunStatus
from bpa.errors import InvalidRequest

_Q = (
    "What is looked for: words of the vendor, the invoice's id or the message's id, and "
    "qualifiers, all of which have to apply: "
    f'`status:dead_lettered agent:x cost:>0.05 since:1h "acme"`; there are {", ".join(QUALIFIERS)}.'
)


@post("/v1/runs/{run_id:str}/:progress", status_code=204, tags=["runs"])
async def report_progress(
    run_id: FromPath[str], data: JSONBody[Progressed], services: NamedDependency[Services]
) -> None:
    """Note how far an execution has come."""
    await services.fenced(services.runs.progress(run_id_in_path(run_id), data.epoch, data.stage))


@post("/v1/runs/{run_id:str}/steps", status_code=204, tags=["runs"])
async def record_step(
    run_id: FromPath[str], data: JSONBody[Stepped], services: NamedDependency[Services]
) -> None:
    """Append a step's intent or answer to the journal; the same step again changes nothing.

    ``intent`` and ``answer`` are bytes, written as base64.
    """
    await services.fenced(services.runs.record_step(run_id_in_path(run_id), data.epoch, data.step))


@post("/v1/runs/{run_id:str}/:complete", status_code=204, tags=["runs"])
async def complete_run(
    run_id: FromPath[str], data: JSONBody[Ended], services: NamedDependency[Services]
) -> None:
    """Write down that a run completed; the same report again is answered alike."""
    if data.outcome.kind is not OutcomeKind.COMPLETED:
        raise InvalidRequest(f"an outcome that is {data.outcome.kind} is reported with :fail")
    await services.fenced(services.runs.finish(run_id_in_path(run_id), data.epoch, data.outcome))


@post("/v1/runs/{run_id:str}/:fail", status_code=204, tags=["runs"])
async def fail_run(
    run_id: FromPath[str], data: JSONBody[Ended], services: NamedDependency[Services]
) -> None:
    """Write down how an execution failed; control decides what follows."""
    if data.outcome.kind is OutcomeKind.COMPLETED:
        raise InvalidRequest("a completed run is reported with :complete")
    await services.fenced(services.runs.finish(run_id_in_path(run_id), data.epoch, data.outcome))


@post("/v1/runs/{run_id:str}/:cancel", status_code=200, tags=["runs"])
async def cancel_run(
    run_id: FromPath[str],
    services: NamedDependency[Services],
    data: JSONBody[Cancel | None] = None,
) -> Cancelled:
    """Have a living run end, its message dead-lettered as ``Cancelled``. The body may be empty.

    A run that waits ends at once. One that a node works on is ended by it, or by force if that
    takes too long; its effect may have been applied before, and then it is completed. Asking again
    changes nothing.
    """
    asked = data or Cancel()
    canonical = run_id_in_path(run_id)
    status = await services.runs.cancel(
        canonical, asked.actor, cancelled_by(asked.actor, asked.detail)
    )
    return Cancelled(run_id=canonical, status=status, cancelling=status not in TERMINAL)


@get("/v1/runs", tags=["runs"])
async def list_runs(
    services: NamedDependency[Services],
    q: Annotated[str, QueryParameter(description=_Q, max_length=QUERY_CHARS_MAX)] = "",
    status: Annotated[str | None, QueryParameter(schema_extra={"enum": [*RunStatus]})] = None,
    deployment: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
    count: FromQuery[bool] = False,
) -> Response[RunPage]:
    """Look for runs, newest first; the header ``Link`` leads to the next page.

    A page may be short and have a next one. Runs that come in meanwhile are on no later page.
    """
    search = read_search(q, datetime.now(UTC)).narrowed(
        status=_status(status), deployment=deployment
    )
    rows, following = await services.searches.page(search, cursor=cursor, limit=limit)
    counted = await services.searches.count(search) if count else None
    page = RunPage(
        runs=[RunSummary.of(row) for row in rows],
        next_cursor=following,
        count=None if counted is None else min(counted, COUNTED_AT_MOST),
        count_is_exact=counted is None or counted <= COUNTED_AT_MOST,
    )
    asked = {
        "q": q or None,
        "status": status,
        "deployment": deployment,
        "cursor": following,
        "limit": limit,
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    return Response(page, headers={"Link": f'</v1/runs?{query}>; rel="next"'} if following else {})


def _status(written: str | None) -> RunStatus | None:
    """Read a state; Litestar alone would take ``null`` for none."""
    try:
        return None if written is None else RunStatus(written)
    except ValueError as error:
        listed = ", ".join(RunStatus)
        raise InvalidRequest(f"status: {str(written)[:64]!r} is none of {listed}") from error


@get("/v1/runs/{run_id:str}", tags=["runs"])
async def get_run(run_id: FromPath[str], services: NamedDependency[Services]) -> Run:
    """Return one run with its steps and deliveries."""
    return Run.of(await services.history.get(run_id_in_path(run_id)))


@get("/v1/runs/{run_id:str}/steps", tags=["runs"])
async def list_steps(run_id: FromPath[str], services: NamedDependency[Services]) -> list[StepView]:
    """Return a run's journal in order, without its contents."""
    return steps_of(await services.history.get(run_id_in_path(run_id)))


@get("/v1/runs/{run_id:str}/logs", tags=["runs"])
async def list_events(run_id: FromPath[str], services: NamedDependency[Services]) -> list[RunEvent]:
    """Return what happened to a run, in order, and what people did to it.

    Each stage and step is there once it is over. These are what Postgres keeps. Log lines of the
    processes are written where those run, and carry ``run_id`` and ``trace_id``.
    """
    wanted = run_id_in_path(run_id)
    run = Run.of(await services.history.get(wanted))
    return events(run, await services.looking.notes(wanted))


@get("/v1/runs/{run_id:str}/contents", responses=FORBIDDEN, tags=["runs"])
async def get_contents(
    run_id: FromPath[str],
    services: NamedDependency[Services],
    requested_by: CallerInQuery = "api",
) -> Response[RunContents]:
    """Return what a run works on: its document, what models were asked and answered, what was sent.

    The setting ``contents.show`` says how much; where it says ``hidden``, the answer is 403. Each
    look is noted in the audit.
    """
    found = await services.looking.contents(run_id_in_path(run_id), UNSIGNED, told(requested_by))
    return Response(RunContents.of(found), headers={"Cache-Control": "no-store"})


@get("/v1/totals", tags=["runs"])
async def total_runs(services: NamedDependency[Services], since: Instant = None) -> list[Total]:
    """Count runs by status and reason, with latency, tokens and cost.

    Those that came since a day ago, unless ``since`` says otherwise: each of them is read, which
    takes some two seconds for a million.
    """
    since_at = instant("since", since) or datetime.now(UTC) - timedelta(days=1)
    return [Total.of(row) for row in await services.history.totals(since_at)]


HANDLERS = [
    report_progress,
    record_step,
    complete_run,
    fail_run,
    cancel_run,
    list_runs,
    get_run,
    list_steps,
    list_events,
    get_contents,
    total_runs,
]

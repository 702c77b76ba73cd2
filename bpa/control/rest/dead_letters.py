"""Dead letters: what they are, and their replay."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from bpa.control.causes import Filter
from bpa.control.replay_plan import LetterId
from bpa.control.rest.dead_letter_schemas import (
    DeadLetter,
    DeadLetterGroup,
    DeadLetterPage,
    DeadLetterSummary,
    DeadLetterTotal,
    ReplayAsked,
    Replayed,
    Replays,
    Retried,
)
from bpa.control.rest.problems import NOT_FOUND
from bpa.control.rest.run_schemas import RunSummary
from bpa.control.rest.schemas import Asked
from bpa.control.rest.services import Services, run_id_in_path

BINARY = "application/octet-stream"


@get("/v1/dead-letters", responses=NOT_FOUND, tags=["dead letters"])
async def list_dead_letters(
    services: NamedDependency[Services],
    queue: FromQuery[str | None] = None,
    reason: FromQuery[str | None] = None,
    group: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> Response[DeadLetterPage]:
    """List dead letters with their runs, oldest first; ``Link`` leads to the next page.

    They are looked at in the broker's dead-letter queues and stay unlocked. A page may be short
    and have a next one.
    """
    chosen = Filter(queue, reason, group)
    rows, following = await services.dead_letters.page(chosen, cursor=cursor, limit=limit)
    page = DeadLetterPage(
        dead_letters=[DeadLetterSummary.of(row) for row in rows], next_cursor=following
    )
    asked = {
        "queue": queue,
        "reason": reason,
        "group": group,
        "cursor": following,
        "limit": limit,
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    link = {"Link": f'</v1/dead-letters?{query}>; rel="next"'} if following else {}
    return Response(page, headers=link)


@get("/v1/dead-letters/totals", responses=NOT_FOUND, tags=["dead letters"])
async def count_dead_letters(
    services: NamedDependency[Services], queue: FromQuery[str | None] = None
) -> list[DeadLetterTotal]:
    """Count dead letters by queue and reason, with the first and the last enqueued."""
    return [DeadLetterTotal.of(row) for row in await services.dead_letters.totals(queue)]


@get("/v1/dead-letters/groups", responses=NOT_FOUND, tags=["dead letters"])
async def group_dead_letters(
    services: NamedDependency[Services], queue: FromQuery[str | None] = None
) -> list[DeadLetterGroup]:
    """Count dead letters by queue, reason and cause, the largest group first, with a sample.

    The letters are those that the broker shows now, the oldest 5,000 of a queue: where it holds
    more, `complete` is false, and groups may be larger, and others there.
    """
    return [DeadLetterGroup.of(row) for row in await services.dead_letters.groups(queue)]


@get("/v1/dead-letters/{dead_letter_id:str}", tags=["dead letters"])
async def get_dead_letter(
    dead_letter_id: FromPath[str], services: NamedDependency[Services]
) -> DeadLetter:
    """Return one dead letter with what its run has sent, and what a replay would do."""
    return DeadLetter.of(await services.dead_letters.get(LetterId.read(dead_letter_id)))


@get("/v1/dead-letters/{dead_letter_id:str}/body", media_type=BINARY, tags=["dead letters"])
async def get_dead_letter_body(
    dead_letter_id: FromPath[str], services: NamedDependency[Services]
) -> Response[bytes]:
    """Return the body of one dead letter, byte for byte: to be kept, and by no browser shown.

    What its sender calls it is the ``contentType`` of the dead letter.
    """
    message = await services.dead_letters.message(LetterId.read(dead_letter_id))
    headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": "attachment"}
    return Response(message.body, media_type=BINARY, headers=headers)


@post("/v1/dead-letters/:replay", status_code=200, tags=["dead letters"])
async def replay_dead_letters(
    data: JSONBody[ReplayAsked], services: NamedDependency[Services]
) -> Replays:
    """Replay dead letters: a new message each, then the dead letter is removed.

    A replay with the same body goes on from the journal of its run, under that run's key. The
    request may be repeated: what was cut off is finished, and no message becomes two runs. Look at
    each result: they may differ.
    """
    outcomes = await services.replaying.replay(
        [LetterId.read(one) for one in data.ids],
        edit=data.edit(),
        actor=data.actor,
        dry_run=data.dry_run,
    )
    results = [Replayed.of_outcome(outcome) for outcome in outcomes]
    return Replays(dry_run=data.dry_run, results=results)


@post("/v1/runs/{run_id:str}/:retry", status_code=200, tags=["runs"])
async def retry_run(
    run_id: FromPath[str],
    services: NamedDependency[Services],
    data: JSONBody[Asked | None] = None,
) -> Retried:
    """Replay a run's dead letter; a run that backs off is tried now. The body may be empty.

    A run that is at work or has completed gets 409.
    """
    wanted = run_id_in_path(run_id)
    outcome = await services.replaying.retry(wanted, (data or Asked()).actor)
    services.woken()
    if outcome is not None:
        return Retried(run_id=wanted, replayed=Replayed.of_outcome(outcome))
    run = RunSummary.of(await services.history.get(wanted))
    return Retried(
        run_id=wanted, replayed=None, waits_for=run.waiting_reason if run.parked else None
    )


HANDLERS = [
    list_dead_letters,
    count_dead_letters,
    group_dead_letters,
    get_dead_letter,
    get_dead_letter_body,
    replay_dead_letters,
    retry_run,
]

"""Operations: one act on many runs or dead letters, on a frozen set."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from bpa.control.causes import Filter
from bpa.control.operation_terms import Act, Became, Choice
from bpa.control.operation_terms import Asked as OperationWanted
from bpa.control.replay_plan import LetterId
from bpa.control.rest.headers import IdempotencyKey
from bpa.control.rest.operation_schemas import (
    LettersChosen,
    Operation,
    OperationAsked,
    OperationItem,
    OperationItemPage,
    OperationPage,
    OperationPreview,
    OperationStart,
)
from bpa.control.rest.schemas import Asked
from bpa.control.rest.services import Services, run_id_in_path, uuid_in_path
from bpa.control.search import read_search
from bpa.documents.characters import one_line
from bpa.errors import InvalidRequest


@post("/v1/operations", tags=["operations"])
async def start_operation(
    data: JSONBody[OperationAsked],
    services: NamedDependency[Services],
    idempotency_key: IdempotencyKey = None,
) -> Response[Operation]:
    """Freeze the set that is meant, and do it in the background, at the rate that is asked for.

    What comes in afterwards is none of it. It goes on whatever happens to the replica that was
    asked; an item is done again where that was killed amid it, which changes nothing. One operation
    takes 100,000 items at most: a search that finds more is refused (400), one that finds none is
    404. With `hold` nothing is done until `:start`.
    """
    row = await services.operations.start(asked_of(data, data.actor))
    services.operation_started()
    location = f"/v1/operations/{row['operation_id']}"
    return Response(Operation.of(row), headers={"Location": location})


@post("/v1/operations/:preview", status_code=200, tags=["operations"])
async def preview_operation(
    data: JSONBody[OperationAsked], services: NamedDependency[Services]
) -> OperationPreview:
    """Count what an operation would be about now, and say of the first what would become of them.

    Nothing is written: the operation that is started afterwards looks anew, and `expectedCount` has
    it refused where another number is found.
    """
    asked = asked_of(data, data.actor)
    frozen = await services.operations.freeze(asked.action, asked.choice)
    sample = await services.operations.foresee(asked.action, frozen.subjects)
    return OperationPreview(
        action=asked.action,
        count=len(frozen.subjects),
        looked_at_all=frozen.looked_at_all,
        sample=[OperationItem.of(row) for row in sample],
    )


@get("/v1/operations", tags=["operations"])
async def list_operations(
    services: NamedDependency[Services],
    cursor: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 50,
) -> Response[OperationPage]:
    """List operations, newest first; they are removed 30 days after their end."""
    rows, following = await services.operations.page(cursor=cursor, limit=limit)
    page = OperationPage(operations=[Operation.of(row) for row in rows], next_cursor=following)
    return Response(page, headers=_link("/v1/operations", cursor=following, limit=limit))


@get("/v1/operations/{operation_id:str}", tags=["operations"])
async def get_operation(
    operation_id: FromPath[str], services: NamedDependency[Services]
) -> Operation:
    """Return one operation with its counts by result."""
    return Operation.of(await services.operations.get(uuid_in_path(operation_id, "operation")))


@get("/v1/operations/{operation_id:str}/items", tags=["operations"])
async def list_operation_items(
    operation_id: FromPath[str],
    services: NamedDependency[Services],
    result: FromQuery[list[Became] | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> Response[OperationItemPage]:
    """List an operation's items in order, all or those with one of these results."""
    wanted = uuid_in_path(operation_id, "operation")
    rows, following = await services.operations.items(
        wanted, results=result, cursor=cursor, limit=limit
    )
    page = OperationItemPage(items=[OperationItem.of(row) for row in rows], next_cursor=following)
    path = f"/v1/operations/{wanted}/items"
    return Response(page, headers=_link(path, result=result, cursor=following, limit=limit))


@get("/v1/operations/{operation_id:str}/sample", tags=["operations"])
async def foresee_operation(
    operation_id: FromPath[str], services: NamedDependency[Services]
) -> list[OperationItem]:
    """Say of the first items of an operation what would become of them now: of one that is held."""
    row = await services.operations.get(uuid_in_path(operation_id, "operation"))
    return [OperationItem.of(item) for item in await services.operations.sample(row)]


@post("/v1/operations/{operation_id:str}/:start", status_code=200, tags=["operations"])
async def start_held_operation(
    operation_id: FromPath[str],
    services: NamedDependency[Services],
    data: JSONBody[OperationStart | None] = None,
) -> Operation:
    """Start an operation that is held; starting it again changes nothing. The body may be empty."""
    asked = data or OperationStart()
    row = await services.operations.begin(
        uuid_in_path(operation_id, "operation"),
        asked.actor,
        detail=asked.detail,
        rate_per_s=asked.rate_per_s,
    )
    services.operation_started()
    return Operation.of(row)


@post("/v1/operations/{operation_id:str}/:stop", status_code=200, tags=["operations"])
async def stop_operation(
    operation_id: FromPath[str],
    services: NamedDependency[Services],
    data: JSONBody[Asked | None] = None,
) -> Operation:
    """Stop an operation: what was done stays done, and what is left is left alone.

    The few items that a replica is at are finished and counted. The body may be empty.
    """
    actor = (data or Asked()).actor
    return Operation.of(
        await services.operations.stop(uuid_in_path(operation_id, "operation"), actor)
    )


def asked_of(data: OperationAsked, actor: str) -> OperationWanted:
    """Return what somebody asks for.

    Raises:
        InvalidRequest: It is not said what to do it to, or in two ways, or to the wrong things.
        NotFound: What is named cannot be there.
    """
    return OperationWanted(
        action=data.action,
        choice=_choice_of(data),
        actor=actor,
        detail=one_line(data.detail),
        rate_per_s=data.rate_per_s,
        expected_count=data.expected_count,
        operation_id=str(data.id) if data.id else None,
        hold=data.hold,
    )


def _choice_of(data: OperationAsked) -> Choice:
    of_runs = data.action is not Act.REPLAY
    ways = {"runs": data.runs, "deadLetters": data.dead_letters, "ids": data.ids}
    given = [name for name, value in ways.items() if value is not None]
    wanted = "runs" if of_runs else "deadLetters"
    if len(given) != 1 or given[0] not in ("ids", wanted):
        raise InvalidRequest(f"{data.action}: give either {wanted} or ids")
    limit = {"limit": data.limit} if data.limit else {}
    if data.ids is not None:
        read = run_id_in_path if of_runs else _letter_id
        ids = tuple(dict.fromkeys(read(one) for one in data.ids))
        return Choice(said={"ids": len(ids), **limit}, ids=ids, limit=data.limit)
    if data.runs is not None:
        search = read_search(data.runs.q, datetime.now(UTC))
        return Choice(said={"q": data.runs.q, **limit}, search=search, limit=data.limit)
    chosen = data.dead_letters or LettersChosen()
    letters = Filter(chosen.queue, chosen.reason, chosen.group)
    said = {name: getattr(letters, name) for name in ("queue", "reason", "group")}
    said = {name: one_line(value) for name, value in said.items() if value is not None}
    return Choice(said={**said, **limit}, letters=letters, limit=data.limit)


def _letter_id(text: str) -> str:
    return str(LetterId.read(text))


def _link(path: str, *, cursor: str | None, **asked: object) -> dict[str, str]:
    if cursor is None:
        return {}
    given = {name: value for name, value in asked.items() if value is not None}
    query = urlencode({**given, "cursor": cursor}, doseq=True)
    return {"Link": f'<{path}?{query}>; rel="next"'}


HANDLERS = [
    start_operation,
    preview_operation,
    list_operations,
    get_operation,
    list_operation_items,
    foresee_operation,
    start_held_operation,
    stop_operation,
]

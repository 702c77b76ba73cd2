"""Operations: what acts on many, from the frozen set to the result of each of them."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from bpa.control.operation_terms import RATE_AT_MOST, State
from bpa.control.rest.operation_schemas import Operation, OperationAsked, OperationItem
from bpa.control.rest.operations import asked_of
from bpa.control.rest.services import uuid_in_path
from bpa.errors import InvalidRequest
from bpa.ui.desk import Desk
from bpa.ui.forms import chosen_of, fields_of
from bpa.ui.rendering import AnyRequest, done
from bpa.ui.session import operator_of
from bpa.ui.views import operations as view
from bpa.ui.words import count

_PAGE = 50
_LETTERS = ("queue", "reason", "group")


@get("/operations")
async def list_operations(
    request: AnyRequest, desk: NamedDependency[Desk], cursor: FromQuery[str | None] = None
) -> Response[str]:
    """List operations, newest first."""
    rows, following = await desk.services.operations.page(cursor=cursor, limit=_PAGE)
    shown = view.operations([Operation.of(row) for row in rows], following)
    return desk.render.page(request, "operations.html", view=shown)


@get("/operations/{operation_id:str}")
async def show_operation(
    request: AnyRequest,
    operation_id: FromPath[str],
    desk: NamedDependency[Desk],
    show: FromQuery[str] = "",
    cursor: FromQuery[str | None] = None,
) -> Response[str]:
    """Show one operation; of one that is held what would become of its first items."""
    operations, wanted = desk.services.operations, uuid_in_path(operation_id, "operation")
    row = await operations.get(wanted)
    following: str | None = None
    shows_all = show == "all"
    if row["state"] is State.HELD:
        items = await operations.sample(row)
    else:
        results = None if shows_all else view.FAILURES
        items, following = await operations.items(
            wanted, results=results, cursor=cursor, limit=_PAGE
        )
    shown = view.page(
        Operation.of(row),
        [OperationItem.of(item) for item in items],
        shows_all=shows_all,
        following=following,
    )
    return desk.render.page(request, "operation.html", view=shown)


@post("/operations", status_code=303)
async def start_operation(request: AnyRequest, desk: NamedDependency[Desk]) -> Response[str]:
    """Freeze what a form means; with ``hold`` its page asks before anything is done."""
    fields = dict(await fields_of(request))
    ids = await chosen_of(request, "id")
    asked = _asked(fields, ids)
    wanted = asked_of(asked, operator_of(request).actor)
    row = await desk.services.operations.start(wanted)
    desk.services.operation_started()
    said = f"{count(row['items'])} frozen; nothing is done yet." if asked.hold else "It is at work."
    return done(view.path_of(row["operation_id"]), said)


@post("/operations/{operation_id:str}/start", status_code=303)
async def begin_operation(
    request: AnyRequest, operation_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Start what is held."""
    fields = await fields_of(request)
    row = await desk.services.operations.begin(
        uuid_in_path(operation_id, "operation"),
        operator_of(request).actor,
        detail=fields.get("detail", "").strip()[:500] or None,
        rate_per_s=_rate_of(fields.get("rate", "")),
    )
    desk.services.operation_started()
    return done(view.path_of(row["operation_id"]), "It is at work.")


@post("/operations/{operation_id:str}/stop", status_code=303)
async def stop_operation(
    request: AnyRequest, operation_id: FromPath[str], desk: NamedDependency[Desk]
) -> Response[str]:
    """Stop an operation, or let go of one that is held."""
    wanted = uuid_in_path(operation_id, "operation")
    row = await desk.services.operations.stop(wanted, operator_of(request).actor)
    return done(view.path_of(wanted), f"Stopped; {count(row['remaining'])} left alone.")


def _asked(fields: dict[str, str], ids: list[str]) -> OperationAsked:
    """Return what a form asks for.

    Raises:
        InvalidRequest: Nothing is marked, or a field makes no sense.
    """
    given: dict[str, Any] = {}
    if ids:
        given["ids"] = ids
    elif "q" in fields:
        given["runs"] = {"q": fields["q"]}
    elif "letters" in fields:
        given["deadLetters"] = {name: fields[name] for name in _LETTERS if fields.get(name)}
    else:
        raise InvalidRequest("nothing is marked: go back and mark what it is to be done to")
    given |= {"action": fields.get("action", ""), "detail": fields.get("detail", "").strip()}
    given["hold"] = "hold" in fields
    try:
        return msgspec.convert(given, OperationAsked)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error


def _rate_of(text: str) -> float | None:
    """Return a rate; None for as fast as it goes.

    Raises:
        InvalidRequest: It is none.
    """
    if not text.strip():
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= RATE_AT_MOST:
        raise InvalidRequest(f"a rate is a number up to {RATE_AT_MOST:g}, such as 5 or 0.5")
    return rate


HANDLERS = [
    list_operations,
    show_operation,
    start_operation,
    begin_operation,
    stop_operation,
]

"""Errors at the REST edge: one mapper, ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import Scope

from bpa.control.rest.schemas import Problem
from bpa.errors import BpaError, InvalidRequest

MEDIA_TYPE = "application/problem+json"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_RETRY_AFTER_S = "2"
_log = structlog.stdlib.get_logger(__name__)

NOT_FOUND = {
    404: ResponseSpec(
        Problem,
        generate_examples=False,
        description="What the query names is not there.",
        media_type=MEDIA_TYPE,
    )
}
"""For operations whose query names what must be there; of paths and bodies it is said by itself."""

FORBIDDEN = {
    403: ResponseSpec(
        Problem,
        generate_examples=False,
        description="The settings do not let anybody see this.",
        media_type=MEDIA_TYPE,
    )
}

AnyRequest = Request[Any, Any, Any]


def problem(
    status: int,
    code: str,
    detail: str,
    instance: str,
    errors: list[str] | None = None,
    traceparent: str = "",
) -> Problem:
    """Return the document of an error; ``instance`` is the path as the client wrote it."""
    trace = _TRACEPARENT.fullmatch(traceparent)
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        instance=instance,
        trace_id=trace[1] if trace else None,
        errors=errors or [],
    )


def path_of(scope: Scope) -> str:
    """Return the path as the client wrote it, before any rewriting."""
    return scope["raw_path"].decode("ascii", "replace")


def ours(request: AnyRequest, error: BpaError) -> Response[Problem]:
    """Answer with one of our errors, by its attributes alone."""
    headers = {"Retry-After": _RETRY_AFTER_S} if error.retryable else {}
    errors = error.errors if isinstance(error, InvalidRequest) else []
    return _answer(request, error.http_status, error.code, str(error), errors, headers)


def framework(request: AnyRequest, error: HTTPException) -> Response[Problem]:
    """Answer with an error that the framework found: no such path, an invalid body."""
    if error.status_code >= 500:
        return unexpected(request, error)
    code, detail, errors = HTTPStatus(error.status_code).name.lower(), error.detail, []
    if isinstance(error, ValidationException):
        code = InvalidRequest.code
        errors = [_line(one) for one in error.extra] if isinstance(error.extra, list) else []
        detail = "; ".join(["the request is not valid", *errors])
    elif error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        detail = "the body is too large; send less at once"
    elif detail == HTTPStatus(error.status_code).phrase:
        detail = f"{detail}; /schema lists what there is"
    return _answer(request, error.status_code, code, detail, errors, dict(error.headers or {}))


def unexpected(request: AnyRequest, error: Exception) -> Response[Problem]:
    """Answer a fault of ours, and write it down once."""
    _log.error("request_failed", path=path_of(request.scope), method=request.method, exc_info=error)
    detail = "this is a fault of the server; its log says more"
    return _answer(request, 500, "internal", detail, [], {})


def _line(one: Any) -> str:
    """Say where and what; ``data`` is the framework's word for the body."""
    if not isinstance(one, dict):
        return str(one)
    where, what = str(one.get("key", "body")), str(one.get("message", ""))
    if one.get("source") == "header":
        where = where.replace("_", "-")
    if (where, what) == ("data", "'data'"):
        return "body: one is needed"
    return f"{re.sub('^data', 'body', where)}: {what}"


def _answer(
    request: AnyRequest,
    status: int,
    code: str,
    detail: str,
    errors: list[str],
    headers: dict[str, str],
) -> Response[Problem]:
    instance = path_of(request.scope)
    traceparent = request.headers.get("traceparent", "")
    body = problem(status, code, detail, instance, errors, traceparent)
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


HANDLERS: dict[int | type[Exception], Any] = {
    BpaError: ours,
    HTTPException: framework,
    Exception: unexpected,
}

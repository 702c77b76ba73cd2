"""Errors as pages: what is wrong, and what to do next. REST answers with documents of its own."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from litestar import Response
from litestar.exceptions import HTTPException

from bpa.control.rest.problems import framework, path_of
from bpa.errors import BpaError
from bpa.ui.rendering import AnyRequest, Renderer

_log = structlog.stdlib.get_logger(__name__)
_RETRY_AFTER_S = "3"
_NOWHERE = "This address leads nowhere. The links on this page lead to all there is."


def nowhere_of(renderer: Renderer, root: str) -> Any:
    """Return what answers for paths that none has: below ``root`` with a page."""
    shown = handlers_of(renderer)[HTTPException]

    def nowhere(request: AnyRequest, error: HTTPException) -> Response[Any]:
        path = path_of(request.scope)
        if path != root and not path.startswith(f"{root}/"):
            return framework(request, error)
        answer: Response[Any] = shown(request, error)
        return answer

    return nowhere


def handlers_of(renderer: Renderer) -> dict[int | type[Exception], Any]:
    """Return what answers each kind of error with a page."""

    def shown(request: AnyRequest, status: int, why: str) -> Response[str]:
        response = renderer.page(
            request,
            "problem.html",
            status_code=status,
            status=status,
            title=HTTPStatus(status).phrase,
            why=why,
        )
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers["Retry-After"] = _RETRY_AFTER_S
        return response

    def ours(request: AnyRequest, error: BpaError) -> Response[str]:
        return shown(request, error.http_status, str(error))

    def found(request: AnyRequest, error: HTTPException) -> Response[str]:
        if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return unexpected(request, error)
        is_bare = error.detail == HTTPStatus(error.status_code).phrase
        return shown(request, error.status_code, _NOWHERE if is_bare else error.detail)

    def unexpected(request: AnyRequest, error: Exception) -> Response[str]:
        _log.error(
            "page_failed", path=path_of(request.scope), method=request.method, exc_info=error
        )
        return shown(request, 500, "this is a fault of the server; its log says more")

    return {BpaError: ours, HTTPException: found, Exception: unexpected}

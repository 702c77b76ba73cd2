"""Templates into answers: what every page has, and the headers that keep a browser to it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response
from litestar.datastructures import Cookie
from markupsafe import Markup

from bpa import __version__
from bpa.ui import words
from bpa.ui.assets import Assets
from bpa.ui.session import person_of
from bpa.words import clock, segment, span, usd

AnyRequest = Request[Any, Any, Any]

_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Everything is a file of ours: nothing inline, nothing foreign, so no nonce is needed either."""
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
THEMES = ("auto", "light", "dark")
_SAID = "bpa_said"
_SAID_CHARS_MAX = 900
LONG_CHARS_MAX = 20_000
"""Of a text that is shown at length; a longer one is cut, and says so."""


class Renderer:
    """Renders templates; every value in them is made harmless, and escaped.

    Args:
        assets: What pages link to.
        environment: The name of what is served, such as ``dev``.
    """

    def __init__(self, assets: Assets, environment: str) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).with_name("templates")),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.globals |= {
            "asset": assets.urls,
            "environment": environment,
            "version": __version__,
            "themes": THEMES,
        }
        for function in (
            words.ago, words.brief, words.count, words.exact, words.moment, words.percent,
            words.short, clock, segment, span, usd,
        ):  # fmt: skip
            self._templates.filters[function.__name__] = function
        self._templates.filters["long"] = _long

    def page(
        self,
        request: AnyRequest,
        template: str,
        status_code: int = 200,
        part: str = "part.html",
        **values: Any,
    ) -> Response[str]:
        """Return a page; to htmx, which asks for a page's living part again, that part alone.

        Args:
            request: What is answered.
            template: Of the page.
            status_code: Of the answer.
            part: The layout that htmx gets: the living part, or with ``bare.html`` what is in it.
            values: What the template shows.
        """
        is_part = "hx-request" in request.headers
        query = request.scope["query_string"].decode("ascii", "replace")
        path = request.scope["raw_path"].decode("ascii", "replace")
        said = "" if is_part else unquote(request.cookies.get(_SAID, ""))
        body = self._templates.get_template(template).render(
            layout=part if is_part else "page.html",
            here=f"{path}?{query}" if query else path,
            path=path,
            now=datetime.now(UTC),
            person=person_of(request),
            theme=_theme_of(request),
            said=said,
            **values,
        )
        headers = {**HEADERS, "Cache-Control": "no-store", "Vary": "HX-Request, Cookie"}
        cookies = [Cookie(_SAID, value="", max_age=0, path="/ui")] if said else []
        return Response(
            body,
            status_code=status_code,
            media_type="text/html",
            headers=headers,
            cookies=cookies,
        )


def done(path: str, said: str) -> Response[str]:
    """Return the way from a form to a page that says once what came of it."""
    text = quote(words.harmless(said)[:_SAID_CHARS_MAX])[:3_000]
    cookie = Cookie(_SAID, value=text, max_age=60, path="/ui", httponly=True, samesite="strict")
    return Response(
        "", status_code=303, headers={**HEADERS, "Location": path}, cookies=[cookie],
        media_type="text/plain",
    )  # fmt: skip


def _theme_of(request: AnyRequest) -> str:
    chosen = request.cookies.get("bpa_theme", "auto")
    return chosen if chosen in THEMES else "auto"


def _shown(value: Any) -> Any:
    """Return any value of any template as it may be shown; markup comes of templates alone."""
    if type(value) is Markup:  # the most frequent by far: whatever macros return
        return value
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup | Whole):
        return words.harmless(value)
    return value


def _long(text: str) -> Whole:
    """Return a text that is longer than a value, such as a document; harmless, and bounded."""
    return Whole(words.harmless(text, LONG_CHARS_MAX))


class Whole(str):
    """A text that is shown whole, as in a field to edit; bounded and made harmless by its view."""

    __slots__ = ()

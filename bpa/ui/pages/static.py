"""Files that pages link to, and the choice of a theme."""

from __future__ import annotations

from litestar import Response, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from bpa.ui.desk import Desk
from bpa.ui.forms import fields_of
from bpa.ui.rendering import HEADERS, THEMES, AnyRequest

_FOR_GOOD = "public, max-age=31536000, immutable"
_A_YEAR_S = 31_536_000


@get("/static/{name:str}", opt={"always": True}, sync_to_thread=False)
def asset(name: FromPath[str], desk: NamedDependency[Desk]) -> Response[bytes]:
    """Return a file; its name changes with its content, so it is kept for good."""
    found = desk.assets.find(name)
    if found is None:
        raise NotFoundException("there is no such file; reload the page")
    headers = {**HEADERS, "Cache-Control": _FOR_GOOD}
    return Response(found.content, media_type=found.kind, headers=headers)


@post("/theme", opt={"always": True}, status_code=303)
async def theme(request: AnyRequest) -> Response[str]:
    """Keep a theme, and lead back to where it was chosen."""
    fields = await fields_of(request)
    chosen = fields.get("theme", "")
    back = fields.get("back", "")
    is_ours = back.startswith("/ui") and back.isascii() and back.isprintable()
    cookie = Cookie(
        "bpa_theme",
        value=chosen if chosen in THEMES else "auto",
        max_age=_A_YEAR_S,
        path="/ui",
        samesite="strict",
    )
    headers = {**HEADERS, "Location": back if is_ours else "/ui"}
    return Response("", status_code=303, headers=headers, cookies=[cookie], media_type="text/plain")


HANDLERS = [asset, theme]

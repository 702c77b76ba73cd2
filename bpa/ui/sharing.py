"""Two hundred open pages cost what a few do: a page's living part is rendered once for all of them.

It stands before the application: what was made for one tab is handed to the others that ask for
the same, for two seconds, and longer where it takes long to make (:mod:`bpa.shelf` has the rule).
Pages as such are made for each who asks: whoever comes to one sees it as it is. And
so is what is noted for each look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from bpa.shelf import Shelf
from bpa.ui.session import person_of

MADE_AT = b"bpa-made-at"
"""The header that names the last change that a part can know of: a page whose stream has told of a
later one asks again."""
SETTLED_S = 1.9
"""A part that is younger is handed out whatever has changed: no tab asks for one more often than
every two seconds, so one alone never meets it; many share it, and ask again if they are behind."""
_PARTS_BELOW = (b"", b"/logs")
"""Where the parts of a page are: at its own path, and the log of a run below that."""
_OK = 200
_READING = frozenset({"GET", "HEAD"})


@dataclass(slots=True)
class _Part:
    """An answer, as the server takes it."""

    headers: Sequence[tuple[bytes, bytes]]
    """What is added to its own."""
    messages: list[Any] = field(default_factory=list)

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.messages.append({**message, "headers": [*message["headers"], *self.headers]})
        else:
            self.messages.append(message)

    async def send(self, send: Send) -> None:
        for message in self.messages:
            await send(message)

    @property
    def is_shown(self) -> bool:
        return bool(self.messages) and self.messages[0].get("status") == _OK


class _Otherwise(Exception):
    """An answer that is not to be kept: whoever waited for it gets it, and nobody after them."""

    def __init__(self, part: _Part) -> None:
        self.part = part


class Sharing:
    """The application, with the living parts of its pages shared.

    Args:
        app: The application.
        root: Where the pages are.
        last_change: Returns the id of the last change, as streams of changes tell it.
        noted: Endings of paths whose every look is noted (docs/decisions/0022): none is shared.
    """

    def __init__(
        self, app: ASGIApp, root: str, last_change: Callable[[], str], noted: tuple[str, ...]
    ) -> None:
        self._app = app
        self._root = root
        self._noted = noted
        self._last_change = last_change
        self._parts: Shelf[_Part] = Shelf(SETTLED_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what is kept, or have it made."""
        if scope["type"] != ScopeType.HTTP or not self._may_share(scope["path"]):
            await self._app(scope, receive, send)
        elif scope["method"] not in _READING:
            try:
                await self._app(scope, receive, send)
            finally:
                self._parts.clear()  # whoever acted sees what came of it
        elif _is_part(scope):
            await self._share(scope, receive, send)
        else:
            await self._app(scope, receive, send)
            for below in _PARTS_BELOW:  # no part is older than the page that it belongs to
                self._parts.forget(_asked(scope, below))

    def _may_share(self, path: str) -> bool:
        return path.startswith(self._root) and not path.rstrip("/").endswith(self._noted)

    async def _share(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        async def make() -> _Part:
            part = _Part([(MADE_AT, self._last_change().encode())])
            await self._app(scope, receive, part.take)
            if not part.is_shown:
                raise _Otherwise(part)
            return part

        try:
            part = await self._parts.get(_asked(scope), make, self._last_change)
        except _Otherwise as otherwise:
            part = otherwise.part
        await part.send(send)


def _is_part(scope: HTTPScope) -> bool:
    return any(name == b"hx-request" for name, _ in scope["headers"])


def _asked(scope: HTTPScope, below: bytes = b"") -> Hashable:
    """Return what the part depends on that a request asks for, or whose page it asks for."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    path, query = scope["raw_path"] + below, scope["query_string"]
    met_at = scope.get("server")  # with the host, what guards judge by
    return scope["method"], path, query, host, met_at, person_of(Request(scope))

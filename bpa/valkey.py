"""The one way to Valkey: a client that fails fast, and Lua scripts from files.

What lives there is a hint that Postgres can rebuild, so nothing here retries: the caller knows
whether trying again is safe, and a script that was sent twice might count twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from bpa.cancellation import cancellation_delivered
from bpa.errors import StartupError, Unavailable

_CONNECT_TIMEOUT_S = 2.0
_REPLY_TIMEOUT_S = 5.0
_PASSING = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    OSError,
)
_HEADER = re.compile(r"\A(?:\s*--[^\n]*\n)+")


@contextmanager
def translated() -> Iterator[None]:
    """Raise :class:`~bpa.errors.Unavailable` where Valkey is away, loading, full or read-only.

    A refused password too: it is being changed, or somebody has to mend it and reads this line. A
    cancellation that the client swallows is raised.
    """
    try:
        with cancellation_delivered():
            yield
    except (
        redis.exceptions.AuthenticationError,
        redis.exceptions.AuthorizationError,
        redis.exceptions.NoPermissionError,
    ) as error:
        raise Unavailable(f"Valkey refuses us; mend redis.url or the server: {error}") from error
    except _PASSING as error:
        raise Unavailable(f"Valkey does not answer: {error}") from error
    except redis.exceptions.ResponseError as error:
        if str(error).startswith(("MISCONF", "BUSY", "NOREPLICAS")):
            raise Unavailable(f"Valkey refuses for now: {error}") from error
        raise


def valkey_of(url: str, *, client_name: str, max_connections: int = 50) -> Redis:
    """Return a client of ``redis://``, ``rediss://`` or ``unix://``, without asking for an answer.

    Replies are ``str``; connecting is bounded to 2 s and a reply to 5 s; nothing is retried. Close
    it with ``aclose()``.

    Raises:
        StartupError: The URL cannot be read; none of it is repeated, since it may hold a password.
    """
    try:
        return Redis.from_url(
            url,
            client_name=client_name,
            decode_responses=True,
            max_connections=max_connections,
            protocol=2,  # no push messages: version 3 would greet the server with commands it lacks
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=_REPLY_TIMEOUT_S,
        )
    except ValueError:
        raise StartupError(
            "redis.url cannot be read: write redis://:password@host:6379/0, rediss:// or unix://, "
            "special characters percent-encoded"
        ) from None


async def open_valkey(url: str, **options: Any) -> Redis:
    """Return a client that has had an answer; as :func:`valkey_of`.

    Raises:
        Unavailable: There is no answer.
    """
    client = valkey_of(url, **options)
    try:
        await ping(client)
    except BaseException:
        await client.aclose()
        raise
    return client


async def ping(client: Redis) -> None:
    """Make sure of an answer.

    Raises:
        Unavailable: There is none.
    """
    with translated():
        await client.ping()


class Script:
    """A Lua script, sent by its digest and in full only where the server does not know it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(
        self, client: Redis, *, keys: Sequence[str], args: Sequence[str | bytes | int | float] = ()
    ) -> Any:
        """Run the script and return its reply.

        Raises:
            Unavailable: Valkey is away; whether the script ran is unknown.
        """
        with translated():
            try:
                return await client.evalsha(self._digest, len(keys), *keys, *args)
            except redis.exceptions.NoScriptError:  # a restarted server; nothing has run yet
                return await client.eval(self._text, len(keys), *keys, *args)


def load_script(module_file: str | Path, name: str) -> Script:
    """Read the script ``name.lua`` beside ``module_file``; pass ``__file__``.

    Raises:
        ValueError: The comment at its top does not say what its KEYS and ARGV are.
        FileNotFoundError: There is no such file.
    """
    path = Path(module_file).with_name(f"{name}.lua")
    text = path.read_text(encoding="utf-8")
    header = _HEADER.match(text)
    if header is None or "KEYS" not in header[0] or "ARGV" not in header[0]:
        raise ValueError(f"{path.name}: say in a comment at the top what its KEYS and ARGV are")
    return Script(name, text)

"""What the namespace's administration says of a queue: its counts, and what it is set to.

The API is HTTPS only and wants the Manage right. Its client takes 0.1 s of CPU to import, which is
done in a thread when it is first needed.
"""
# ruff: noqa: SLF001 - the SDK asks the same question twice for what one answer of it holds

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from azure.core import exceptions as http

from bpa.connectors.service_bus.client import connect
from bpa.errors import BpaError, NotFound, StartupError, Unavailable

TIMEOUT_S = 5.0
CLIENT_LASTS_S = 1800.0
"""The SDK takes a new token a minute after the old one, good for an hour, has expired: it is never
left to get so old, and replaced when nobody waits for its answer."""
_MODULE = "azure.servicebus.aio.management"
_REFUSED = frozenset({401, 403})
_ABSENT = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class Described:
    """A queue at this moment."""

    active: int
    """As the service counts: free, locked and deferred."""
    scheduled: int
    dead_letters: int
    max_delivery_count: int


class Administration:
    """The administration of one namespace.

    Args:
        connection_string: With a key that has the Manage right.
        certificate: A file with the certificates to trust; empty for those of the system.
        steady: A clock that is never set, seconds.

    Raises:
        StartupError: The connection string cannot be read.
    """

    def __init__(
        self,
        connection_string: str,
        certificate: str = "",
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        connect(connection_string)  # reads it, and connects to nothing
        self._connection_string = connection_string
        self._certificate = certificate
        self._steady = steady
        self._client: Any = None
        self._opened_s = 0.0
        self._asking = 0
        self._turn = asyncio.Lock()

    async def describe(self, queue: str) -> Described:
        """Return what a queue holds and is set to; one request.

        Raises:
            NotFound: The queue does not exist.
            StartupError: The key lacks the Manage right.
            Unavailable: The administration does not answer.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                client = await self._opened()
                self._asking += 1
                try:
                    element = await client._get_entity_element(queue)
                finally:
                    self._asking -= 1
            return _described(element, queue)
        except Exception as error:
            raise _translated(error, queue) from error

    async def aclose(self) -> None:
        """Disconnect."""
        async with self._turn:
            await self._close()

    async def _opened(self) -> Any:
        async with self._turn:
            if self._steady() - self._opened_s > CLIENT_LASTS_S and not self._asking:
                await self._close()
            if self._client is None:
                management = await asyncio.to_thread(importlib.import_module, _MODULE)
                self._client = management.ServiceBusAdministrationClient.from_connection_string(
                    self._connection_string,
                    connection_verify=self._certificate or True,
                    connection_timeout=TIMEOUT_S,
                    read_timeout=TIMEOUT_S,
                    retry_total=0,
                )
                self._opened_s = self._steady()
            return self._client

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)


def _described(element: Any, queue: str) -> Described:
    models = importlib.import_module("azure.servicebus.management._generated.models")
    entry = models.QueueDescriptionEntry.deserialize(element)
    if entry.content is None or entry.content.queue_description is None:
        raise NotFound(f"queue {queue!r} does not exist")  # an empty feed, or a topic
    description = entry.content.queue_description
    counts = description.message_count_details
    return Described(
        active=int(counts.active_message_count),
        scheduled=int(counts.scheduled_message_count),
        dead_letters=int(counts.dead_letter_message_count),
        max_delivery_count=int(description.max_delivery_count),
    )


def _translated(error: Exception, queue: str) -> BpaError:
    status = getattr(error, "status_code", None)
    match error:
        case BpaError():
            return error
        case http.HttpResponseError() if status in _REFUSED:
            return StartupError(
                f"the administration refuses to describe queue {queue!r} (HTTP {status}): its key "
                "needs the Manage right"
            )
        case http.HttpResponseError() if status in _ABSENT:
            return NotFound(f"queue {queue!r} does not exist")
        case http.HttpResponseError() if status is not None:
            return Unavailable(f"the administration answers with HTTP {status}")
        case FileNotFoundError():
            return Unavailable("the certificates to trust the administration by are not there")
        case TimeoutError():
            return Unavailable(f"the administration does not answer within {TIMEOUT_S:g} s")
        case _:
            return Unavailable(f"the administration does not answer ({_kind(error)})")


def _kind(error: Exception) -> str:
    """Name what happened beneath the SDK, whose own texts hold addresses and repeat themselves."""
    inner = getattr(error, "inner_exception", None)
    return type(inner or error).__name__

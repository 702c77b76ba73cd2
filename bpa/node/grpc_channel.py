"""A gRPC channel that refuses messages over a size as soon as their length is known.

It mends three things of grpclib.

grpclib has no cap of its own; `bpa.message_cap` says what that means. The same cap holds for what
is sent, where it is the caller's error.

And when a stream breaks, grpclib wakes the tasks that wait on it by cancelling them, and never
takes that back: their next ``asyncio.timeout`` or task group would believe itself cancelled, and a
cancellation by somebody else in the same moment would be forgotten. `_Wakener` counts.

And a connection that was closed loses its transport at once, but passes for a living one until the
loop has told it so: `CappedChannel.__connect__` looks before it is used, and
`bpa.grpc_transport` before it is written to.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self, TypeVar

from grpclib.client import Channel, Stream
from grpclib.const import Cardinality
from grpclib.metadata import Deadline
from grpclib.protocol import H2Protocol
from grpclib.utils import Wrapper

from bpa.grpc_transport import KEEPALIVE_S, guarded, keepalive
from bpa.message_cap import MESSAGE_BYTES_MAX, capped

__all__ = ["KEEPALIVE_S", "MESSAGE_BYTES_MAX", "CappedChannel", "CappedStream"]

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class _Wakener(Wrapper):
    """Wakes waiting tasks with an error and leaves no cancellation behind."""

    def __init__(self) -> None:
        super().__init__()
        self._entered: dict[asyncio.Task[Any], int] = {}

    def __enter__(self) -> None:
        super().__enter__()
        task = asyncio.current_task()
        assert task is not None
        self._entered[task] = task.cancelling()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        before = self._entered.pop(task)
        woken = self.cancelled and task in self._woken
        if woken and task.uncancel() > before and exc_type is asyncio.CancelledError:
            self._tasks.discard(task)
            return  # somebody else cancelled the task as well: that is what it gets to see
        super().__exit__(exc_type, exc_val, exc_tb)

    def cancel(self, error: Exception) -> None:
        """Wake every waiting task with ``error``, once."""
        if not self.cancelled:
            self._woken = frozenset(self._tasks)
            super().cancel(error)


class CappedStream(Stream[_Request, _Reply]):
    """A call whose received messages are at most `bpa.message_cap.MESSAGE_BYTES_MAX` long."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._wrapper = _Wakener()
        return self

    async def send_request(self, *, end: bool = False) -> None:
        """Open the stream; from here on every read of it is checked."""
        await super().send_request(end=end)
        # The HTTP/2 stream is made inside grpclib, by a class that cannot be chosen.
        self._stream.recv_data = capped(  # type: ignore[method-assign, assignment]
            self._stream.recv_data
        )


class CappedChannel(Channel):
    """A channel of `CappedStream` calls.

    Args:
        address: ``host:port``, ``[v6]:port``, or the path of a Unix socket (``/...``).
        keepalive_s: The peer is pinged so often; one that leaves a ping unanswered for as long
            again is gone without a word, and the connection is closed.
    """

    def __init__(self, address: str, *, keepalive_s: float = KEEPALIVE_S) -> None:
        config = keepalive(keepalive_s)
        self._unacknowledged_s = 2 * keepalive_s
        if address.startswith("/"):
            super().__init__(path=address, config=config)
        else:
            host, _, port = address.rpartition(":")
            super().__init__(host.strip("[]"), int(port), config=config)

    def _protocol_factory(self) -> H2Protocol:
        return guarded(super()._protocol_factory(), self._unacknowledged_s)

    async def __connect__(self) -> H2Protocol:
        protocol = await super().__connect__()
        if protocol.connection.is_closing():
            raise ConnectionResetError("the connection closed as it was opened")
        return protocol

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[_Request],
        reply_type: type[_Reply],
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        metadata: Any = None,
    ) -> CappedStream[_Request, _Reply]:
        """Prepare a call; limit its time with ``asyncio.timeout``, not with gRPC's deadline."""
        plain = super().request(
            name,
            cardinality,
            request_type,
            reply_type,
            timeout=timeout,
            deadline=deadline,
            metadata=metadata,
        )
        return CappedStream(
            self,
            name,
            plain._metadata,  # noqa: SLF001 - what the base class made of the arguments
            cardinality,
            request_type,
            reply_type,
            codec=self._codec,
            status_details_codec=self._status_details_codec,
            dispatch=self.__dispatch__,
        )

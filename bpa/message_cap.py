"""The cap on one gRPC message, for both ends of the node link.

grpclib has none: it reads whatever length a message's five-byte prefix announces. Here the length
is refused before the first byte of the body is taken off the stream, so that what a peer can make
us hold is the flow-control window (4 MiB) and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

MESSAGE_BYTES_MAX = 4 << 20

Read = Callable[[int], Coroutine[Any, Any, bytes]]


def capped(read: Read) -> Read:
    """Return ``read``, which refuses lengths over the cap with RESOURCE_EXHAUSTED."""

    async def read_capped(size: int) -> bytes:
        if size > MESSAGE_BYTES_MAX:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                f"a message of {size} bytes exceeds the cap of {MESSAGE_BYTES_MAX}",
            )
        return await read(size)

    return read_capped

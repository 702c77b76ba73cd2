"""What grpclib's connections lack, on both ends of the node link.

A connection that was closed loses its transport at once, but passes for a living one until the
loop has told it so: whatever is written meanwhile must be dropped (`guarded`). And a peer that is
gone without a word (power, cable) has to be noticed: by pings (`keepalive`), and by the kernel for
what it never acknowledges.
"""

from __future__ import annotations

import socket
from asyncio.transports import BaseTransport

from grpclib.config import Configuration
from grpclib.protocol import H2Protocol

KEEPALIVE_S = 3.0
"""Seconds between pings; a peer that leaves one unanswered for as long again is gone."""


def keepalive(every_s: float) -> Configuration:
    """Return the settings of a connection that pings its peer, calls or none."""
    return Configuration(
        _keepalive_time=every_s,
        _keepalive_timeout=every_s,
        _keepalive_permit_without_calls=True,
        _http2_max_pings_without_data=0,
        _http2_min_sent_ping_interval_without_data=every_s / 2,
    )


def guarded(protocol: H2Protocol, unacknowledged_s: float) -> H2Protocol:
    """Have a connection write nothing more once it is closed.

    Args:
        protocol: Fresh, without a connection.
        unacknowledged_s: What the peer's kernel does not acknowledge for so long ends the
            connection, also while much waits to be sent.
    """
    made = protocol.connection_made

    def connection_made(transport: BaseTransport) -> None:
        made(transport)
        connection, flush = protocol.connection, protocol.connection.flush

        def flush_while_open() -> None:
            if not connection.is_closing():
                flush()

        connection.flush = flush_while_open  # type: ignore[method-assign]
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(unacknowledged_s * 1000)
            )

    protocol.connection_made = connection_made  # type: ignore[method-assign]
    return protocol

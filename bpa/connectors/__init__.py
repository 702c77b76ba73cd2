"""The connector SDK: how messages come in and how effects go out.

A ``Source`` hands over one locked ``Message`` at a time and settles it; a ``Sink`` sends one
``OutboundRequest`` under its idempotency key until it is answered or given up. Both are small
protocols that third parties implement; ``conformance`` is the suite every implementation passes.

Read ``sdk`` first, then ``service_bus`` (the queue) and ``http_out`` (the effect); ``breaker``
(pure) is what stops the effects of a host that fails. This package imports the foundation alone,
and its front door only the SDK's values, so that a process pays for the client libraries of the
connectors it uses and no others.
"""

from bpa.connectors.sdk import (
    Message,
    OutboundRequest,
    OutboundResult,
    OutboundTry,
    OutgoingMessage,
    PropertyValue,
    SettlementLost,
    Sink,
    Source,
)

__all__ = [
    "Message",
    "OutboundRequest",
    "OutboundResult",
    "OutboundTry",
    "OutgoingMessage",
    "PropertyValue",
    "SettlementLost",
    "Sink",
    "Source",
]

"""Open SDK clients and say in our own errors what went wrong with them."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import structlog
from azure.servicebus import exceptions as sb
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from bpa.connectors.sdk import SettlementLost
from bpa.errors import BpaError, InvalidRequest, NotFound, StartupError, Unavailable

SOCKET_POLL_S = 0.02
"""How long the SDK holds its socket in one read. An arriving frame ends a read at once, so this is
no latency of ours; it bounds how long the SDK's own keep-alive, which nothing interrupts, can hold
up a settlement (once in 5 s), and costs 50 wake-ups a second while idle."""
CLOSE_TIMEOUT_S = 2.0

_log = structlog.get_logger(__name__)


def connect(connection_string: str) -> ServiceBusClient:
    """Return a client for the namespace; nothing is sent yet.

    The SDK's own retries are off: a link that fails is reported at once, and the caller, who
    knows which locks died with it, opens another.

    Raises:
        StartupError: The connection string cannot be read. It is not repeated in the message,
            since it holds a key.
    """
    try:
        return ServiceBusClient.from_connection_string(connection_string, retry_total=0)
    except ValueError as error:
        raise StartupError(
            "the Service Bus connection string cannot be read: it needs Endpoint=sb://host/, "
            "SharedAccessKeyName and SharedAccessKey, as the portal shows it"
        ) from error


def namespace_of(connection_string: str) -> str:
    """Return the namespace's name as run ids carry it: lower case, without domain or port.

    The emulator's is ``sbemulatorns``, as its Config.json demands, wherever it runs.

    Raises:
        StartupError: The connection string names no endpoint.
    """
    parts = dict(part.partition("=")[::2] for part in connection_string.split(";") if part)
    if parts.get("UseDevelopmentEmulator") == "true":
        return "sbemulatorns"
    host = urlsplit(parts.get("Endpoint", "")).hostname
    if not host:
        raise StartupError("the Service Bus connection string names no Endpoint=sb://host/")
    return host.partition(".")[0]


def translated(error: Exception, entity: str) -> BpaError:
    """Return the error to raise, ``from error``, when the SDK raised ``error`` about ``entity``."""
    match error:
        case BpaError():
            return error
        case sb.MessagingEntityNotFoundError():
            return NotFound(f"{entity} does not exist: create it or correct the queue's name")
        case sb.ServiceBusAuthenticationError() | sb.ServiceBusAuthorizationError():
            return StartupError(
                f"Service Bus refuses the credentials for {entity}: "
                "check the key and its Listen and Send claims"
            )
        case sb.MessageLockLostError() | sb.MessageAlreadySettled() | sb.MessageNotFoundError():
            return SettlementLost(f"the lock on a message of {entity} is gone: it comes again")
        case sb.MessageSizeExceededError():
            return InvalidRequest(f"a message is larger than {entity} takes")
        case sb.MessagingEntityDisabledError():
            return Unavailable(f"{entity} is disabled: enable it")
        case _:
            return Unavailable(f"{entity} does not answer ({type(error).__name__})")


async def close(handler: ServiceBusReceiver | ServiceBusSender) -> None:
    """Close an SDK receiver or sender whose connection may be dead; never raises an `Exception`.

    The SDK's close waits for its keep-alive to wake from a sleep of a second; it is woken here.
    """
    amqp: Any = handler._handler  # noqa: SLF001 - no public way to the keep-alive
    keep_alive: asyncio.Task[None] | None = getattr(amqp, "_keep_alive_thread", None)
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            if keep_alive is not None:
                keep_alive.cancel()
                await asyncio.wait([keep_alive])
                amqp._keep_alive_thread = None  # noqa: SLF001
            await handler.close()
    except Exception as error:  # noqa: BLE001 - a dead connection fails in any way it likes
        _log.debug("service_bus_close_failed", error=repr(error))

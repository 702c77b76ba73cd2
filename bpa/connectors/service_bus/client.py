"""Open and close what the SDK offers, and say in our own errors what went wrong with it.

This module and ``link`` reach below the SDK's public surface, each place with its reason; the lock
file pins the version they were written against.
"""
# ruff: noqa: SLF001 - keep-alive, socket and pace of an opening have no public door

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import certifi
import structlog
from azure.servicebus import exceptions as sb
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from bpa.connectors.sdk import SettlementLost
from bpa.errors import BpaError, InvalidRequest, NotFound, StartupError, Unavailable

SOCKET_POLL_S = 0.02
"""How long the SDK holds its socket in one read. An arriving frame ends a read at once, so this is
no latency of ours; it bounds how long the SDK's own keep-alive, which nothing interrupts, can hold
up a settlement (once in 5 s), and costs 50 wake-ups a second while idle."""
OPEN_TIMEOUT_S = 15.0
OPENING_FRAMES = 32
"""More than the dozen frames that a broker sends while a link is opened."""
CLOSE_TIMEOUT_S = 2.0

H = TypeVar("H", ServiceBusReceiver, ServiceBusSender)

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
        return ServiceBusClient.from_connection_string(
            connection_string,
            retry_total=0,
            ssl_context=tls_to(is_emulator=is_emulator(connection_string)),
        )
    except ValueError as error:
        raise StartupError(
            "the Service Bus connection string cannot be read: it needs Endpoint=sb://host/, "
            "SharedAccessKeyName and SharedAccessKey, as the portal shows it"
        ) from error


@functools.cache
def tls_to(*, is_emulator: bool) -> ssl.SSLContext:
    """Return what the SDK would make for each connection anew, holding up the loop for 20 ms.

    It reads all authorities' certificates, also for an emulator, which is spoken to in the plain.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not is_emulator:
        context.load_verify_locations(certifi.where())
    return context


def namespace_of(connection_string: str) -> str:
    """Return the namespace's name as run ids carry it: lower case, without domain or port.

    The emulator's is ``sbemulatorns``, as its Config.json demands, wherever it runs.

    Raises:
        StartupError: The connection string names no endpoint.
    """
    if is_emulator(connection_string):
        return "sbemulatorns"
    host = urlsplit(_parts(connection_string).get("Endpoint", "")).hostname
    if not host:
        raise StartupError("the Service Bus connection string names no Endpoint=sb://host/")
    return host.partition(".")[0]


def is_emulator(connection_string: str) -> bool:
    """Tell whether it is that of an emulator, whose one port serves messages alone."""
    return _parts(connection_string).get("UseDevelopmentEmulator") == "true"


def _parts(connection_string: str) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in connection_string.split(";") if part)


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


def leaves_the_link_up(error: Exception) -> bool:
    """Tell whether the SDK's ``error`` is about one call only, its link and locks being intact."""
    return isinstance(error, sb.ServiceBusServerBusyError | sb.ServiceBusQuotaExceededError)


@dataclass(frozen=True, slots=True)
class Opened(Generic[H]):
    """An open SDK receiver or sender, and its socket, which the SDK loses when it fails."""

    handler: H
    socket: Any

    @property
    def is_broken(self) -> bool:
        """Whether the connection has failed, also when no call has said so yet."""
        amqp: Any = self.handler._handler
        connection = getattr(amqp, "_connection", None)
        return connection is None or amqp._shutdown or connection._error is not None


async def opened(handler: H, entity: str) -> Opened[H]:
    """Open an SDK receiver or sender.

    Raises:
        NotFound: ``entity`` does not exist.
        StartupError: The credentials are refused.
        Unavailable: Nobody answers.
    """
    try:
        with _without_pauses(handler):
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await handler.__aenter__()
    except BaseException as error:
        await close(Opened(handler, _socket(handler)))
        if isinstance(error, Exception):
            raise translated(error, entity) from error
        raise
    return Opened(handler, _socket(handler))


async def close(opened: Opened[Any]) -> None:
    """Close it, though its connection may be dead; never raises an `Exception`.

    The SDK's close waits for its keep-alive to wake from a sleep of a second, and gives up before
    it reaches the socket when the connection is dead; neither is left to it.
    """
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await _end_keep_alive(opened.handler._handler)
            await opened.handler.close()
    except Exception as error:  # noqa: BLE001 - a dead connection fails in any way it likes
        _log.debug("service_bus_close_failed", error=repr(error))
    if opened.socket is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await opened.socket.close()


@contextlib.contextmanager
def _without_pauses(handler: Any) -> Iterator[None]:
    """Have the SDK read the frames of an opening as they come.

    It sleeps 50 ms after each, which makes half a second of what takes five milliseconds. Here it
    goes on to the next, up to `OPENING_FRAMES`; then it sleeps again, so that a connection that
    fails meanwhile, whose reads wait for nothing, keeps nobody busy. What a refusal has it close
    does not wait for the keep-alive.
    """
    create = handler._create_handler

    def created(auth: Any) -> None:
        create(auth)
        amqp = handler._handler
        is_ready, close = amqp.client_ready_async, amqp.close_async

        async def ready() -> bool:
            for _ in range(OPENING_FRAMES):
                if await is_ready():
                    return True
            return False

        async def closed() -> None:
            await _end_keep_alive(amqp)
            await close()

        amqp.client_ready_async, amqp.close_async = ready, closed

    handler._create_handler = created
    try:
        yield
    finally:
        del handler._create_handler
        if handler._handler is not None:
            for name in ("client_ready_async", "close_async"):
                vars(handler._handler).pop(name, None)


async def _end_keep_alive(amqp: Any) -> None:
    keep_alive: asyncio.Task[None] | None = getattr(amqp, "_keep_alive_thread", None)
    if keep_alive is not None:
        keep_alive.cancel()
        await asyncio.wait([keep_alive])
        amqp._keep_alive_thread = None


def _socket(handler: ServiceBusReceiver | ServiceBusSender) -> Any:
    connection = getattr(handler._handler, "_connection", None)
    return getattr(connection, "_transport", None)

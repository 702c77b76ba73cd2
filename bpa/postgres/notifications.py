"""Hear of what other processes did, over LISTEN and NOTIFY: a hint that spares polling."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any, Self

import psycopg
import structlog
from psycopg import AsyncConnection, sql

from bpa.postgres.connections import (
    STATEMENT_TIMEOUT_S,
    BoundedConnection,
    conninfo,
    first_line,
)

_PING_EVERY_S = 30.0
_BACKOFF_FIRST_S = 0.1
_BACKOFF_MOST_S = 5.0
_PAYLOADS_KEPT = 1024

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wakeup:
    """What a channel said since the last look.

    ``complete`` is false when something may have been missed (a new connection, too many to keep):
    then look at the tables instead of at the payloads.
    """

    payloads: tuple[str, ...]
    complete: bool


class Subscription:
    """The wake-ups of one channel: ``async for wakeup in subscription``, within its ``with``."""

    def __init__(self, owner: Notifications, channel: str) -> None:
        self.channel = channel
        self._owner = owner
        self._payloads: dict[str, None] = {}  # equal payloads say nothing twice; order is kept
        self._complete = True
        self._ready = asyncio.Event()

    async def next(self) -> Wakeup:
        """Wait for the next wake-up; all payloads that came since the last one are in it."""
        await self._ready.wait()
        wakeup = Wakeup(tuple(self._payloads), self._complete)
        self._payloads.clear()
        self._complete = True
        self._ready.clear()
        return wakeup

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Wakeup:
        return await self.next()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._owner._forget(self)  # noqa: SLF001 - the two classes are one piece

    def _wake(self, payload: str | None) -> None:
        if payload is None or len(self._payloads) >= _PAYLOADS_KEPT:
            self._complete = False
        else:
            self._payloads[payload] = None
        self._ready.set()


class Notifications:
    """One LISTEN connection, shared by all who want to hear of something.

    Put :meth:`run` into a task group and :meth:`subscribe` at any time. Delivery is a hint and no
    more: whoever waits also looks at the tables from time to time.
    """

    def __init__(self, dsn: str, *, application_name: str, rng: random.Random) -> None:
        self._conninfo = conninfo(dsn, application_name, statement_timeout_s=STATEMENT_TIMEOUT_S)
        self._rng = rng
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._stirred = asyncio.Event()  # the socket is readable or the channels have changed

    def subscribe(self, channel: str) -> Subscription:
        """Hear of ``channel`` until the subscription's ``with`` block ends.

        The first wake-up comes when the channel is first listened to, with ``complete`` false.
        """
        subscription = Subscription(self, channel)
        self._subscriptions.setdefault(channel, []).append(subscription)
        self._stirred.set()
        return subscription

    async def run(self) -> None:
        """Listen for ever; after a lost connection, with backoff, wake everybody up."""
        failures = 0
        while True:
            try:
                async with await BoundedConnection.connect(
                    self._conninfo, autocommit=True, prepare_threshold=None
                ) as connection:
                    failures = 0
                    await self._listen(connection)
            except psycopg.OperationalError as error:
                ceiling_s = min(_BACKOFF_MOST_S, _BACKOFF_FIRST_S * 2**failures)
                delay_s = self._rng.uniform(0, ceiling_s)
                failures = min(failures + 1, 16)
                _log.warning(
                    "postgres_listen_lost", error=first_line(error), retry_in_s=round(delay_s, 3)
                )
                await asyncio.sleep(delay_s)

    async def _listen(self, connection: AsyncConnection[Any]) -> None:
        connection.add_notify_handler(lambda note: self._dispatch(note.channel, note.payload))
        heard: dict[str, list[Subscription]] = {}
        while True:
            await self._follow_channels(connection, heard)
            if not await self._stir(connection):
                await connection.execute("SELECT 1")  # a dead link fails here
            connection.pgconn.consume_input()
            while note := connection.pgconn.notifies():
                self._dispatch(note.relname.decode(), note.extra.decode())

    async def _follow_channels(
        self, connection: AsyncConnection[Any], heard: dict[str, list[Subscription]]
    ) -> None:
        for channel in [*heard]:
            if channel not in self._subscriptions:
                await connection.execute(sql.SQL("UNLISTEN {}").format(sql.Identifier(channel)))
                del heard[channel]
        for channel, subscriptions in [*self._subscriptions.items()]:
            if channel not in heard:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                heard[channel] = []
            for subscription in [*subscriptions]:
                if subscription not in heard[channel]:
                    subscription._wake(None)  # noqa: SLF001
            heard[channel] = [*subscriptions]

    async def _stir(self, connection: AsyncConnection[Any]) -> bool:
        """Wait until the socket can be read or the channels changed; false after a quiet time."""
        loop, fd = asyncio.get_running_loop(), connection.fileno()
        loop.add_reader(fd, self._stirred.set)
        try:
            async with asyncio.timeout(_PING_EVERY_S):
                await self._stirred.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(fd)
        self._stirred.clear()
        return True

    def _dispatch(self, channel: str, payload: str) -> None:
        for subscription in self._subscriptions.get(channel, ()):
            subscription._wake(payload)  # noqa: SLF001

    def _forget(self, subscription: Subscription) -> None:
        left = [s for s in self._subscriptions.get(subscription.channel, []) if s != subscription]
        if left:
            self._subscriptions[subscription.channel] = left
        else:
            self._subscriptions.pop(subscription.channel, None)
        self._stirred.set()

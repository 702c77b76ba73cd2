"""What the platform relies on when it reads a queue."""
# ruff: noqa: D102 - the name of a test method is its documentation

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from bpa.connectors.sdk import Message, OutgoingMessage, SettlementLost, Source

WAIT_S = 15.0
"""How long a message that is in the queue may take to arrive."""
NOTHING_S = 0.5
"""How long to wait before concluding that a queue is empty."""
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass(frozen=True, slots=True)
class Buried:
    """A dead-lettered message."""

    body: bytes
    reason: str
    description: str


class SourceHarness(Protocol):
    """An opened source over an empty queue that gives up on a message after 5 or more deliveries.

    Its locks last at most 10 seconds; shorter is faster.
    """

    @property
    def source(self) -> Source:
        """The source under test, open."""

    async def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        """Put messages into the queue, in order."""

    async def dead_letters(self) -> Sequence[Buried]:
        """Return what is in the dead-letter queue."""


class SourceConformance(ABC):
    """What the platform relies on when it reads a queue."""

    @abstractmethod
    def harness(self) -> AbstractAsyncContextManager[SourceHarness]:
        """Return a context manager around a fresh harness."""

    async def test_a_message_arrives_as_it_was_sent(self) -> None:
        sent = OutgoingMessage(
            body=b"\x00\xffbody",
            content_type="text/plain",
            message_id="m-1",
            properties={"tenant": "acme", "urgent": True, "count": 3},
            traceparent=TRACEPARENT,
            tracestate="vendor=1",
        )
        async with self.harness() as harness:
            before = datetime.now(UTC)
            await harness.publish([sent])
            message = await _next(harness.source)
            assert message.body == sent.body
            assert message.undecodable is None
            assert (message.content_type, message.message_id) == ("text/plain", "m-1")
            assert sent.properties.items() <= message.properties.items()
            assert (message.traceparent, message.tracestate) == (TRACEPARENT, "vendor=1")
            assert message.delivery_count == 0
            assert abs((message.enqueued_at - before).total_seconds()) < 300, "clocks apart"
            assert message.locked_until > message.enqueued_at

    async def test_an_empty_queue_gives_none_when_the_wait_is_over(self) -> None:
        async with self.harness() as harness:
            started_s = time.monotonic()
            assert await harness.source.receive(0.2) is None
            assert 0.1 < time.monotonic() - started_s < 3

    async def test_a_message_that_arrives_during_the_wait_is_received(self) -> None:
        async with self.harness() as harness, asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(harness.source.receive(WAIT_S))
            assert await harness.source.receive(NOTHING_S) is None  # the other one is waiting now
            await harness.publish([OutgoingMessage(body=b"late")])
            message = await waiting
            assert message is not None
            assert message.body == b"late"

    async def test_a_completed_message_never_comes_again(self) -> None:
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"once")])
            await harness.source.complete(await _next(harness.source))
            assert await harness.source.receive(NOTHING_S) is None
            assert list(await harness.dead_letters()) == []

    async def test_an_abandoned_message_comes_again_and_the_delivery_is_counted(self) -> None:
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"again", message_id="m-2")])
            first = await _next(harness.source)
            await harness.source.abandon(first)
            second = await _next(harness.source)
            assert _identity(second) == _identity(first)
            assert second.delivery_count == first.delivery_count + 1
            await harness.source.complete(second)

    async def test_a_dead_letter_keeps_its_body_and_says_why(self) -> None:
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"bad")])
            message = await _next(harness.source)
            await harness.source.dead_letter(message, "DeserializationError", "line 1: no JSON")
            buried = list(await harness.dead_letters())
            assert buried == [Buried(b"bad", "DeserializationError", "line 1: no JSON")]
            assert await harness.source.receive(NOTHING_S) is None

    async def test_a_reason_and_description_of_any_length_and_script_are_taken(self) -> None:
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"bad")])
            message = await _next(harness.source)
            await harness.source.dead_letter(message, "AgentError", "ü€😀\n" * 5000)
            buried = list(await harness.dead_letters())
            assert len(buried) == 1
            assert buried[0].description.startswith("ü€😀")

    async def test_renewing_moves_the_lock_forward(self) -> None:
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"slow")])
            message = await _next(harness.source)
            renewed_until = message.locked_until
            while renewed_until <= message.locked_until:  # the broker's clock has to move
                renewed_until = await harness.source.renew(message)
            await harness.source.complete(message)

    async def test_a_lock_that_ran_out_is_lost_and_the_message_comes_again(self) -> None:
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"forgotten")])
            first = await _next(harness.source)
            second = await _next(harness.source)
            assert _identity(second) == _identity(first)
            assert second.delivery_count == first.delivery_count + 1
            await _is_lost(harness.source.complete(first))
            await _is_lost(harness.source.renew(first))
            await harness.source.complete(second)

    async def test_a_renewed_lock_outlives_the_first_one(self) -> None:
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"long")])
            message = await _next(harness.source)
            until = message.locked_until
            while (now := datetime.now(UTC)) <= message.locked_until:
                if (until - now).total_seconds() < 2:
                    until = await harness.source.renew(message)
                assert await harness.source.receive(NOTHING_S) is None
            await harness.source.complete(message)

    async def test_a_message_is_settled_once(self) -> None:
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"x")])
            message = await _next(harness.source)
            await harness.source.complete(message)
            await _is_lost(harness.source.complete(message))
            await _is_lost(harness.source.abandon(message))
            await _is_lost(harness.source.dead_letter(message, "AgentError", "late"))

    async def test_settling_does_not_wait_for_a_receive_that_waits(self) -> None:
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"%d" % n) for n in range(20)])
            held = [await _next(harness.source) for _ in range(20)]
            waiting = [asyncio.create_task(harness.source.receive(WAIT_S)) for _ in range(4)]
            try:
                assert await harness.source.receive(NOTHING_S) is None  # they are waiting now
                started_s = time.monotonic()
                for message in held:
                    await harness.source.complete(message)
                assert time.monotonic() - started_s < WAIT_S / 5
            finally:
                await _cancelled(waiting)

    async def test_a_cancelled_receive_keeps_nothing_from_the_next_one(self) -> None:
        async with self.harness() as harness:
            for n in range(10):
                cancelled = asyncio.create_task(harness.source.receive(WAIT_S))
                assert await harness.source.receive(0.05) is None  # the other one is waiting now
                await _cancelled([cancelled])
                await harness.publish([OutgoingMessage(body=b"%d" % n)])
                message = await _next(harness.source)
                assert (message.body, message.delivery_count) == (b"%d" % n, 0)
                await harness.source.complete(message)

    async def test_receives_cancelled_amid_arrivals_lose_and_count_nothing(self) -> None:
        total = 60
        async with self.harness() as harness:
            publishing = asyncio.create_task(
                _publish_one_by_one(harness, [b"%d" % n for n in range(total)])
            )
            seen: list[bytes] = []
            wait_s = 0.0
            while len(seen) < total:
                receiving = asyncio.create_task(harness.source.receive(WAIT_S))
                wait_s = (wait_s + 0.0007) % 0.02  # cancelled at ever other moments
                await asyncio.wait([receiving], timeout=wait_s if not publishing.done() else WAIT_S)
                receiving.cancel()
                (outcome,) = await asyncio.gather(receiving, return_exceptions=True)
                if isinstance(outcome, Message):
                    assert outcome.delivery_count == 0
                    seen.append(outcome.body)
                    await harness.source.complete(outcome)
                elif not isinstance(outcome, asyncio.CancelledError):
                    raise AssertionError(f"after {len(seen)} of {total}: {outcome!r}")
            await publishing
            assert sorted(seen) == sorted(b"%d" % n for n in range(total))

    async def test_concurrent_receives_and_settlements_take_each_message_once(self) -> None:
        total = 200
        seen: list[int] = []
        async with self.harness() as harness:
            await harness.publish([OutgoingMessage(body=b"%d" % n) for n in range(total)])

            async def work() -> None:
                while (message := await harness.source.receive(NOTHING_S)) is not None:
                    await harness.source.renew(message)
                    seen.append(int(message.body))
                    await harness.source.complete(message)

            await asyncio.gather(*(work() for _ in range(8)))
            assert sorted(seen) == list(range(total))
            assert list(await harness.dead_letters()) == []


async def _next(source: Source) -> Message:
    message = await source.receive(WAIT_S)
    assert message is not None, f"no message within {WAIT_S} s"
    return message


def _identity(message: Message) -> tuple[bytes, int, int, str | None]:
    return message.body, message.sequence_number, message.enqueued_ms, message.message_id


async def _is_lost(settlement: Awaitable[object]) -> None:
    try:
        await settlement
    except SettlementLost:
        return
    raise AssertionError("the settlement of a lost message was accepted")


async def _cancelled(tasks: Sequence[asyncio.Task[Message | None]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome


async def _publish_one_by_one(harness: SourceHarness, bodies: Sequence[bytes]) -> None:
    for body in bodies:
        await harness.publish([OutgoingMessage(body=body)])

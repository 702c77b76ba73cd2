"""What the platform relies on when it sends an effect."""
# ruff: noqa: D102 - the name of a test method is its documentation

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from bpa.connectors.sdk import OutboundRequest, Sink
from bpa.errors import BpaError, Reason, RunEnded


class Behaviour(StrEnum):
    """What the target does with one request."""

    APPLY_AND_VANISH = "apply, then cut the connection"
    FAIL_FOR_NOW = "fail for now"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Applied:
    """An effect that the target has applied."""

    key: str
    body: bytes


class SinkHarness(Protocol):
    """A sink whose pauses are short, and a target that honours keys and follows a script."""

    @property
    def sink(self) -> Sink:
        """The sink under test."""

    def request(
        self, key: str, number: int = 0, *, deadline_s: float | None = None
    ) -> OutboundRequest:
        """Return a request that the target can apply; another number means another body."""

    async def script(self, behaviours: Sequence[Behaviour]) -> None:
        """Set what the next requests meet; afterwards they are applied."""

    async def applied(self) -> Sequence[Applied]:
        """Return the effects, in order, each key once."""


class SinkConformance(ABC):
    """What the platform relies on when it sends an effect."""

    @abstractmethod
    def harness(self) -> AbstractAsyncContextManager[SinkHarness]:
        """Return a context manager around a fresh harness."""

    async def test_an_effect_is_applied_under_its_key_with_its_bytes(self) -> None:
        async with self.harness() as harness:
            request = harness.request("run-1:1")
            result = await harness.sink.send(request)
            assert result.tries == 1
            assert list(await harness.applied()) == [Applied("run-1:1", request.body)]

    async def test_an_effect_survives_three_failures_and_is_applied_once(self) -> None:
        async with self.harness() as harness:
            await harness.script([Behaviour.FAIL_FOR_NOW] * 3)
            request = harness.request("run-1:1")
            result = await harness.sink.send(request)
            assert result.tries == 4
            assert list(await harness.applied()) == [Applied("run-1:1", request.body)]

    async def test_an_answer_that_was_lost_does_not_apply_the_effect_twice(self) -> None:
        async with self.harness() as harness:
            await harness.script([Behaviour.APPLY_AND_VANISH])
            request = harness.request("run-1:1")
            result = await harness.sink.send(request)
            assert result.tries == 2
            assert list(await harness.applied()) == [Applied("run-1:1", request.body)]

    async def test_a_target_that_keeps_failing_exhausts_the_tries(self) -> None:
        async with self.harness() as harness:
            await harness.script([Behaviour.FAIL_FOR_NOW] * 50)
            assert await _ended(harness, harness.request("run-1:1")) is Reason.RETRIES_EXHAUSTED
            assert list(await harness.applied()) == []

    async def test_a_refusal_ends_the_run_without_another_try(self) -> None:
        async with self.harness() as harness:
            await harness.script([Behaviour.REFUSE])
            assert (
                await _ended(harness, harness.request("run-1:1"))
                is Reason.NON_RETRYABLE_HTTP_STATUS
            )
            assert list(await harness.applied()) == []

    async def test_nothing_is_sent_past_the_deadline(self) -> None:
        async with self.harness() as harness:
            request = harness.request("run-1:1", deadline_s=time.monotonic() - 1)
            assert await _ended(harness, request) is Reason.DEADLINE_EXCEEDED
            assert list(await harness.applied()) == []

    async def test_no_try_starts_that_is_forbidden(self) -> None:
        allowed = iter([None])

        def once() -> None:
            if next(allowed, self) is not None:
                raise RunEnded(Reason.CANCELLED, "no more tries")

        async with self.harness() as harness:
            await harness.script([Behaviour.FAIL_FOR_NOW])
            request = replace(harness.request("run-1:1"), before_try=once)
            assert await _ended(harness, request) is Reason.CANCELLED
            assert list(await harness.applied()) == []

    async def test_the_same_effect_sent_again_is_applied_once(self) -> None:
        async with self.harness() as harness:
            request = harness.request("run-1:1")
            for _ in range(2):
                await harness.sink.send(request)
            assert list(await harness.applied()) == [Applied("run-1:1", request.body)]

    async def test_another_body_under_the_same_key_is_refused(self) -> None:
        async with self.harness() as harness:
            first = harness.request("run-1:1", 1)
            await harness.sink.send(first)
            reason = await _ended(harness, harness.request("run-1:1", 2))
            assert reason is Reason.NON_RETRYABLE_HTTP_STATUS
            assert list(await harness.applied()) == [Applied("run-1:1", first.body)]

    async def test_concurrent_effects_do_not_mix(self) -> None:
        async with self.harness() as harness:
            requests = [harness.request(f"run-{n}:1", n) for n in range(50)]
            await asyncio.gather(*(harness.sink.send(request) for request in requests))
            applied = {effect.key: effect.body for effect in await harness.applied()}
            assert applied == {request.idempotency_key: request.body for request in requests}


async def _ended(harness: SinkHarness, request: OutboundRequest) -> Reason:
    """Send an effect that must end its run; return the reason."""
    try:
        await harness.sink.send(request)
    except RunEnded as ended:
        return ended.reason
    except BpaError as error:
        raise AssertionError(f"ended as {error!r}, which is no RunEnded") from error
    raise AssertionError("the effect was reported as applied")

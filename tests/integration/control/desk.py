"""A desk at which dead letters are replayed: real queue, Postgres, Valkey and REST."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from bpa.connectors import Message, OutgoingMessage
from bpa.domain.executions import LeaseOffer, Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind, Usage
from bpa.domain.runs import NodeId, RunId
from bpa.postgres import fetch_all
from tests.eventually import eventually
from tests.integration.control.fleet import Fleet
from tests.integration.control.intaking import GOOD, Intaking, intake_of
from tests.integration.control.rest import Rest, rest_over

COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)
FAILED = Outcome(kind=OutcomeKind.REJECTED, reason="RetriesExhausted", detail="HTTP 503 four times")
PAID = Usage(input_tokens=900, output_tokens=20, cost_usd="0.001")
ASKED = Step(seq=0, kind=StepKind.MODEL, digest="m", answer=b"it", usage=PAID, reserved_tokens=950)
LOST = Step(seq=1, kind=StepKind.MODEL, digest="m2", reserved_tokens=950)


@dataclass
class Desk:
    """An intake whose dead letters are replayed over REST."""

    intaking: Intaking
    rest: Rest

    @property
    def fleet(self) -> Fleet:
        return self.intaking.fleet

    async def dead(self, body: bytes = GOOD, *, intend: bool = False, **fields: Any) -> str:
        """Send a message, have its run pay for an answer and fail; return the run's id."""
        await self.intaking.queue.publish([OutgoingMessage(body=body, **fields)])
        (run_id,) = await self.take(1)
        await self.fail(run_id, intend=intend)
        return run_id

    async def take(self, count: int) -> list[str]:
        """Receive messages; return the ids of the runs that are new."""
        before = {run["run_id"] for run in await self.intaking.runs()}
        await self.intaking.take(count)
        return [r["run_id"] for r in await self.intaking.runs() if r["run_id"] not in before]

    async def fail(self, run_id: str, *, intend: bool = False, applied: bool = False) -> None:
        """Have a run work, and end in the dead-letter queue."""
        dead = self.intaking.broker()[2]
        epoch = await self.fleet.granted(RunId(run_id))
        await self.fleet.leases.acknowledge(RunId(run_id), epoch)
        run = await self.fleet.history.get(RunId(run_id))
        steps = [] if run["steps"] else [ASKED, LOST]
        if intend:
            answer = b'{"status": 201}' if applied else None
            steps.append(
                Step(
                    seq=2,
                    kind=StepKind.EFFECT,
                    digest="e",
                    intent=b'{"total": "10.00"}',
                    effect_key=run["effect_key"],
                    answer=answer,
                )
            )
        for step in steps:
            await self.fleet.runs.record_step(RunId(run_id), epoch, step)
        await self.fleet.runs.finish(RunId(run_id), epoch, FAILED)
        await eventually(lambda: self.intaking.broker()[2] == dead + 1)
        await self.intaking.settlement.flush()

    async def finish(self, run_id: str) -> None:
        await self.intaking.finish(RunId(run_id), COMPLETED)
        await eventually(lambda: self.intaking.broker()[:2] == (0, 0))
        await self.intaking.settlement.flush()

    async def letters(self, query: str = "") -> list[dict[str, Any]]:
        answer = await self.rest.get(f"/v1/dead-letters{query}")
        assert answer.status == 200, answer.text
        return answer.json["deadLetters"]

    async def replay(self, *ids: str, **asked: Any) -> list[dict[str, Any]]:
        ids = ids or tuple(letter["id"] for letter in await self.letters())
        answer = await self.rest.post("/v1/dead-letters:replay", {"ids": ids, **asked})
        assert answer.status == 200, answer.text
        return answer.json["results"]

    async def run(self, run_id: str) -> dict[str, Any]:
        return await self.fleet.history.get(RunId(run_id))

    async def deliveries(self, run_id: str) -> list[dict[str, Any]]:
        query = "select * from deliveries where run_id = %(id)s::uuid order by delivery_id"
        return await fetch_all(self.fleet.pool, query, id=run_id)

    async def rows(self, table: str) -> list[dict[str, Any]]:
        return await fetch_all(self.fleet.pool, f"select * from {table}")

    async def offered(self, run_id: str) -> LeaseOffer:
        """Grant a run to a node that pulls, and return what it is offered."""
        await self.fleet.granted(RunId(run_id))
        (offer,) = await self.fleet.offers.pull(NodeId("node-1"), "boot-1", 5.0, 1)
        return offer

    async def waiting(self) -> Message:
        """Receive the message that waits in the queue, and give it back."""
        message = await self.intaking.queue.source.receive(10)
        assert message is not None
        await self.intaking.queue.source.abandon(message)
        return message

    def replayed(self, result: str) -> float:
        registry = self.rest.services.metrics.registry
        return registry.get_sample_value("bpa_dlq_replayed_total", {"result": result}) or 0.0


@asynccontextmanager
async def desk_of(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[Desk]:
    """Open a desk."""
    async with (
        intake_of(fleet, database, valkey_url) as intaking,
        rest_over(fleet, bus=intaking.queue.emulator.connection_string) as rest,
    ):
        yield Desk(intaking, rest)


@asynccontextmanager
async def cut(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, *, after: bool, error: Exception
) -> AsyncIterator[list[str]]:
    """Have a call fail, before it does its work or after; the list tells that it did."""
    bitten: list[str] = []
    original = getattr(owner, name)

    async def fails(*arguments: Any) -> None:
        if after:
            await original(*arguments)
        bitten.append(name)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fails)
        yield bitten
    assert bitten


async def buried_elsewhere(desk: Desk) -> None:
    """Have the message in the queue dead-lettered by somebody else."""
    message = await desk.intaking.queue.source.receive(10)
    assert message is not None
    await desk.intaking.queue.source.dead_letter(message, "MaxDeliveryCountExceeded", "10 times")

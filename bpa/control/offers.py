"""Offers on their way to nodes: what is sent, and what is remembered until it is answered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from bpa.domain import (
    Admission,
    AgentSpec,
    DeploymentSpec,
    LeaseOffer,
    NodeId,
    RunId,
    RunSpec,
    Step,
    StepKind,
    Usage,
)


class NodeStream:
    """The offers on their way to one boot of one node."""

    def __init__(self, node_id: NodeId, boot_id: str) -> None:
        self.node_id = node_id
        self.boot_id = boot_id
        self.stream_id = str(uuid.uuid4())
        self._offers: asyncio.Queue[LeaseOffer] = asyncio.Queue()
        self._sent: set[tuple[str, int]] = set()

    def put(self, offer: LeaseOffer) -> bool:
        """Queue an offer, unless this stream has had it; say whether it was new."""
        key = (offer.run.run_id, offer.epoch)
        if key in self._sent:
            return False
        self._sent.add(key)
        self._offers.put_nowait(offer)
        return True

    def has_had(self, run_id: str, epoch: int) -> bool:
        """Say whether an offer went into this stream and was not answered yet."""
        return (run_id, epoch) in self._sent

    def forget(self, run_id: RunId, epoch: int) -> None:
        """Drop the memory of an offer that was answered."""
        self._sent.discard((run_id, epoch))

    async def get(self) -> LeaseOffer:
        """Wait for the next offer."""
        return await self._offers.get()

    def get_nowait(self) -> LeaseOffer | None:
        """Return the next offer if there is one."""
        return None if self._offers.empty() else self._offers.get_nowait()


@dataclass(frozen=True, slots=True)
class Offered:
    """An offer that waits for its answer."""

    stream: NodeStream
    traceparent: str
    since_ns: int


def offer_of(row: Mapping[str, Any], journal: list[Step], ttl_s: float) -> LeaseOffer:
    """Return the offer of a granted lease, from the row that the query ``pending`` returns."""
    deployment = msgspec.convert(row["target"], DeploymentSpec)
    spec = RunSpec(
        run_id=row["run_id"],
        agent=msgspec.convert(row["spec"], AgentSpec),
        deployment_id=row["dep_id"],
        environment=row["env"],
        routes=deployment.routes,
        budgets=deployment.budgets,
        http_out=deployment.http_out,
        effect_key=row["effect_key"],
        max_effects=deployment.max_effects,
        input_schema=deployment.input_schema,
        document=row["document"],
        execution=row["executions"] + 1,
        worked_s=row["worked_s"],
        journal=journal,
        admission=msgspec.convert(row["admission"], Admission),
    )
    return LeaseOffer(
        run=spec,
        epoch=row["epoch"],
        ttl_s=ttl_s,
        deadline_s=max(0.0, deployment.budgets.max_duration_s - row["worked_s"]),
        traceparent=row["traceparent"],
        tracestate=row["tracestate"],
    )


def step_of(row: Mapping[str, Any]) -> Step:
    """Return a step of a journal from its row."""
    step = Step(
        seq=row["seq"],
        kind=StepKind(row["kind"]),
        digest=row["digest"],
        intent=row["intent"] or b"",
        effect_key=row["effect_key"] or "",
        reserved_tokens=row["reserved_tokens"],
        answer=row["answer"],
        ended_at_ms=row["ended_at_ms"],
        inherited=row["inherited"],
    )
    return replace(step, usage=msgspec.convert(row["usage"], Usage)) if row["usage"] else step

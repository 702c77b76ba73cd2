"""Sends documents and reads back what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusPublisher
from tests.e2e.server import Bpa

DEMO = Path(__file__).resolve().parents[2] / "demo"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run, as its sender and Postgres saw it; milliseconds."""

    latency_ms: float
    """From before the send to the settled message."""
    placement_ms: float
    """From received to granted."""


def documents() -> Iterator[tuple[bytes, str]]:
    """Yield the demonstration's good documents for ever."""
    lines = (DEMO / "expected.jsonl").read_text("utf-8").splitlines()
    good = [e for e in map(json.loads, lines) if e["outcome"] == "completed"]
    return itertools.cycle([((DEMO / e["file"]).read_bytes(), e["content_type"]) for e in good])


async def send_steadily(server: Bpa, count: int, per_s: float, prefix: str) -> dict[str, float]:
    """Send one message at a time at a steady rate; return when each was sent, by message id."""
    sent: dict[str, float] = {}
    async with ServiceBusPublisher(server.addresses["service_bus"], "invoices") as publisher:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number, (body, kind) in zip(range(count), documents(), strict=False):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(started + number / per_s):
                    await loop.create_future()
            name = f"{prefix}-{number}"
            sent[name] = time.time()
            await publisher.send([OutgoingMessage(body=body, content_type=kind, message_id=name)])
    return sent


async def send_at_once(server: Bpa, count: int, prefix: str) -> float:
    """Send in batches, as fast as the broker takes them; return when, monotonic seconds."""
    messages = [
        OutgoingMessage(body=body, content_type=kind, message_id=f"{prefix}-{number}")
        for number, (body, kind) in zip(range(count), documents(), strict=False)
    ]
    async with ServiceBusPublisher(server.addresses["service_bus"], "invoices") as publisher:
        began = time.monotonic()  # connecting takes the SDK half a second
        for first in range(0, count, 100):
            await publisher.send(messages[first : first + 100])
    return began


async def completed(server: Bpa) -> int:
    """Return how many runs have completed."""
    totals = await server.get("/v1/totals")
    return sum(row["runs"] for row in totals if row["status"] == "completed")


async def samples(server: Bpa, sent: dict[str, float]) -> list[Sample]:
    """Read the times of the runs that came of ``sent``."""
    found = []
    for summary in await server.runs():
        run = await server.get(f"/v1/runs/{summary['runId']}")
        at = sent.get(run["inputRef"]["message_id"])
        if at is None:
            continue
        assert run["status"] == "completed", run
        settled = _seconds(run["deliveries"][-1]["settledAt"])
        placed = _seconds(run["startedAt"]) - _seconds(run["createdAt"])
        found.append(Sample((settled - at) * 1000, placed * 1000))
    return found


def _seconds(text: Any) -> float:
    return datetime.fromisoformat(str(text)).timestamp()

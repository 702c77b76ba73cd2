"""What a target that fails makes of a message."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.queues import dead_letters, documents, emptied, send
from tests.e2e.server import Bpa

TEMPLATE = next(d for d in documents() if d.name.startswith("006-lindner"))


def invoice(number: str) -> tuple[bytes, str]:
    """Return a document of its own, known to scripts by its invoice id."""
    body = TEMPLATE.body.replace(TEMPLATE.expected["invoice_id"].encode(), number.encode())
    assert number.encode() in body
    return body, TEMPLATE.content_type


async def script(server: Bpa, *rules: dict[str, Any]) -> None:
    await server.put("/_target/script", {"rules": rules}, "target")


def tries_of(tries: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    (found,) = [item for key, item in tries.items() if key.startswith(run["runId"])]
    return dict(found)


async def test_a_target_that_answers_5xx_gets_four_tries_under_one_key_then_dead_letter(
    server: Bpa,
) -> None:
    bus = server.addresses["service_bus"]
    await script(server, *({"match": {"invoice_id": f"E-{s}"}, "status": s} for s in (500, 503)))

    traces = await send(bus, [invoice("E-500"), invoice("E-503"), invoice("E-200")])
    runs = await server.ended_of(traces)
    await emptied(bus)

    letters, tries = await dead_letters(bus), await server.tries()
    for trace_id, status in zip(traces[:2], (500, 503), strict=True):
        run = runs[trace_id]
        assert (run["status"], run["reason"]) == ("dead_lettered", "RetriesExhausted")
        assert run["executions"] == 1  # the tries are inside one execution
        sent = tries_of(tries, run)
        assert (sent["tries"], sent["bodies"], sent["applied"]) == (4, 1, False)
        assert letters[trace_id].reason == "RetriesExhausted"
        assert f"HTTP {status}" in letters[trace_id].description
        assert letters[trace_id].message.body == invoice(f"E-{status}")[0]
    assert runs[traces[2]]["status"] == "completed"
    assert tries_of(tries, runs[traces[2]])["tries"] == 1
    assert traces[2] not in letters


@pytest.mark.parametrize("status", [400, 401, 422])
async def test_a_target_that_answers_4xx_dead_letters_at_once(server: Bpa, status: int) -> None:
    bus = server.addresses["service_bus"]
    number = f"R-{status}"
    await script(server, {"match": {"invoice_id": number}, "status": status})

    (trace_id,) = await send(bus, [invoice(number)])
    run = (await server.ended_of([trace_id]))[trace_id]
    await emptied(bus)

    assert (run["status"], run["reason"]) == ("dead_lettered", "NonRetryableHttpStatus")
    sent = tries_of(await server.tries(), run)
    assert (sent["tries"], sent["applied"]) == (1, False)
    letter = (await dead_letters(bus))[trace_id]
    assert letter.reason == "NonRetryableHttpStatus"
    assert f"HTTP {status}" in letter.description


async def test_a_target_that_recovers_in_time_applies_the_invoice_once(server: Bpa) -> None:
    bus = server.addresses["service_bus"]
    rules = [
        {"match": {"invoice_id": "L-1"}, "status": 503, "times": 1, "retry_after_s": 0},
        {"match": {"invoice_id": "L-1"}, "drop": "after", "times": 1},
        {"match": {"invoice_id": "L-2"}, "status": 429, "times": 3, "retry_after_s": 0},
        {"match": {"invoice_id": "L-3"}, "drop": "before", "times": 2},
    ]
    await script(server, *rules)

    traces = await send(bus, [invoice("L-1"), invoice("L-2"), invoice("L-3")])
    runs = await server.ended_of(traces)
    await emptied(bus)

    tries = await server.tries()
    told = [(runs[t]["status"], tries_of(tries, runs[t])) for t in traces]
    assert [status for status, _ in told] == ["completed"] * 3
    assert [(sent["tries"], sent["bodies"]) for _, sent in told] == [(3, 1), (4, 1), (3, 1)]
    received = [item["body"]["run_id"] for item in await server.received()]
    assert [received.count(runs[t]["runId"]) for t in traces] == [1, 1, 1]

"""The main job: a message on the queue becomes one POST at the target."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from tests.e2e.queues import FIELDS, Document, dead_letters, documents, emptied, send_documents
from tests.e2e.server import Bpa

COMPLETED = documents()


def dialect(document: Document) -> str:
    if document.content_type.startswith("text/plain"):
        return "text"
    if b"CrossIndustryInvoice" in document.body:
        return "cii"
    if document.content_type.startswith("application/xml"):
        return "ubl"
    return "cloud event" if "cloudevents" in document.content_type else "json"


def of_dialect(wanted: str) -> list[Document]:
    found = [d for d in COMPLETED if dialect(d) == wanted]
    notes = [d for d in found if d.expected["kind"] == "credit_note"]
    return [*found[:2], *notes[:1]]


def check_payload(run: Mapping[str, Any], body: Mapping[str, Any], document: Document) -> None:
    assert {name: body[name] for name in FIELDS} == {n: document.expected[n] for n in FIELDS}
    assert body["run_id"] == run["runId"]
    assert isinstance(body["total"], str)
    assert 0 <= body["confidence"] <= 1
    assert set(body) == {*FIELDS, "run_id", "confidence"}


@pytest.mark.parametrize("wanted", ["json", "ubl", "cii", "text", "cloud event"])
async def test_a_message_results_in_one_post_with_the_correct_payload(
    server: Bpa, wanted: str
) -> None:
    chosen = of_dialect(wanted)
    assert len(chosen) >= 2
    assert any(d.expected["kind"] == "credit_note" for d in chosen) or wanted == "cloud event"
    bus = server.addresses["service_bus"]

    traces = await send_documents(bus, chosen)
    runs = await server.ended_of(traces)

    received = await server.received()
    for trace_id, document in zip(traces, chosen, strict=True):
        run = await server.get(f"/v1/runs/{runs[trace_id]['runId']}")
        assert (run["status"], run["reason"]) == ("completed", None), document.name
        posts = [item for item in received if item["body"]["run_id"] == run["runId"]]
        assert len(posts) == 1, document.name
        (post,) = posts
        check_payload(run, post["body"], document)
        assert post["key"] == f"{run['runId']}:{run['inputRef']['sequence_number']}"
        assert (post["tries"], post["bodies"]) == (1, 1)
        assert run["tokensUsed"] > 0
        assert Decimal(run["costUsd"]) > 0
        assert run["executions"] == 1
        assert run["outcome"]["status"] == 201
    await emptied(bus)
    assert not set(traces) & set(await dead_letters(bus))


async def test_a_completed_run_is_told_over_rest_with_its_steps_and_its_delivery(
    server: Bpa,
) -> None:
    bus = server.addresses["service_bus"]
    traces = await send_documents(bus, COMPLETED[:1])
    await server.ended_of(traces)
    await emptied(bus)

    run = await server.run_of(traces[0])

    assert [step["kind"] for step in run["steps"]] == ["model", "effect"]
    assert all(step["answered"] for step in run["steps"])
    assert run["costs"]["tokens_in"] + run["costs"]["tokens_out"] == run["tokensUsed"]
    assert sum(Decimal(step["costUsd"]) for step in run["steps"]) == Decimal(run["costUsd"])
    (delivery,) = run["deliveries"]
    assert delivery["disposition"] == "complete"
    (node,) = await server.get("/v1/nodes")
    assert run["nodeId"] == node["nodeId"]


async def test_the_command_line_sends_files_to_the_running_server(server: Bpa) -> None:
    bus = server.addresses["service_bus"]
    before = {run["runId"] for run in await server.runs()}
    names = [f"demo/invoices/{d.name}" for d in COMPLETED[:2]]

    code, out, err = await server.run("send", *names)

    assert (code, out) == (0, "2 sent to invoices\n"), err
    runs = await server.ended(len(before) + 2)
    fresh = [run for run in runs if run["runId"] not in before]
    assert [run["status"] for run in fresh] == ["completed", "completed"]
    await emptied(bus)

"""One trace per run, from the sender's span to the target's, and logs that name both."""

from __future__ import annotations

import json
from pathlib import Path

from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusPublisher
from tests.e2e.queues import DEMO, documents, emptied, new_trace
from tests.e2e.receivers import Span, collector, target
from tests.e2e.server import Bpa, serving
from tests.eventually import eventually

CHOSEN = documents()[:4]
AGENT = json.loads(
    (DEMO.parent / "config" / "agents" / "invoice-classifier.json").read_text("utf-8")
)
CHAT = f"chat {AGENT['modelProfile']['model']}"
INVOKE = f"invoke_agent {AGENT['name']}"
PARENTS = {
    "plan": "receive",
    "lease": "receive",
    "think": "receive",
    "complete": "receive",
    INVOKE: "think",
    CHAT: INVOKE,
    "execute_tool post_invoice": INVOKE,
    "http.out": "execute_tool post_invoice",
}
CONTROL = {"receive", "plan", "lease", "complete"}
EVENTS = {
    "message_received",
    "model_answered",
    "effect_applied",
    "execution_ended",
    "run_ended",
    "message_settled",
}


def the_trace_is_whole(spans: list[Span], sender_id: str, run_id: str) -> dict[str, Span]:
    """Check names, parents and order of one run's spans; return them by name."""
    by_name = {span.name: span for span in spans}
    assert sorted(span.name for span in spans) == sorted(["receive", *PARENTS])
    assert by_name["receive"].parent_id == sender_id
    for name, parent in PARENTS.items():
        assert by_name[name].parent_id == by_name[parent].span_id, name
    for span in spans:
        assert span.service == ("bpa-control" if span.name in CONTROL else "bpa-node"), span.name
        assert span.start_ns <= span.end_ns
    for name in ("receive", "plan", "lease", "think", "http.out", "complete"):
        assert by_name[name].attributes["bpa.run.id"] == run_id
    starts = [by_name[n].start_ns for n in ("receive", "think", "http.out", "complete")]
    assert starts == sorted(starts)
    return by_name


async def test_a_run_is_one_trace_from_the_senders_span_to_the_target(old_data_dir: Path) -> None:
    async with collector() as traces, target() as erp:
        settings = {"telemetry.otlp_endpoint": traces.url, "http_out.base_url": erp.url}
        async with serving(old_data_dir, **settings) as server:
            senders = await _sent(server)
            runs = await server.ended_of(senders)
            await emptied(server.addresses["service_bus"])

            async def all_there() -> bool:
                return all(
                    len(traces.of_trace(trace_id)) == len(PARENTS) + 1 for trace_id in senders
                )

            await eventually(all_there, within_s=10)

        posts = {body["run_id"]: headers for headers, body in erp.posts}
        assert len(erp.posts) == len(posts) == len(CHOSEN)
        for trace_id, sender_id in senders.items():
            run = runs[trace_id]
            assert run["status"] == "completed"
            spans = the_trace_is_whole(traces.of_trace(trace_id), sender_id, run["runId"])
            sent = posts[run["runId"]]["traceparent"]
            assert sent == f"00-{trace_id}-{spans['http.out'].span_id}-01"
            assert posts[run["runId"]]["idempotency-key"].startswith(f'"{run["runId"]}:')
            chat = spans[CHAT].attributes
            tokens = [chat[f"gen_ai.usage.{kind}_tokens"] for kind in ("input", "output")]
            assert sum(tokens) == run["tokensUsed"]
        every_line_of_a_run_names_its_trace(server, {r["runId"]: t for t, r in runs.items()})


async def _sent(server: Bpa) -> dict[str, str]:
    """Send the documents; return the sender's span by trace."""
    parents = [new_trace()[0] for _ in CHOSEN]
    messages = [
        OutgoingMessage(body=d.body, content_type=d.content_type, traceparent=parent)
        for d, parent in zip(CHOSEN, parents, strict=True)
    ]
    async with ServiceBusPublisher(server.addresses["service_bus"], "invoices") as publisher:
        await publisher.send(messages)
    return {trace_id: span_id for _, trace_id, span_id, _ in (p.split("-") for p in parents)}


def every_line_of_a_run_names_its_trace(server: Bpa, traces: dict[str, str]) -> None:
    lines = server.log_lines()
    assert len(lines) == len(server.log_text().splitlines()), "each line is one JSON document"
    for run_id, trace_id in traces.items():
        told = [line for line in lines if run_id in str(line)]
        assert {line["event"] for line in told} >= EVENTS
        assert {(line.get("run_id"), line.get("trace_id")) for line in told} == {(run_id, trace_id)}
    assert not [line for line in lines if "run_id" in line and "trace_id" not in line]

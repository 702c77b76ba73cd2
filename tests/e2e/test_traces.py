"""One trace per run, from the sender's span to the target's, and logs that name both."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusPublisher
from tests.e2e.fleet import Fleet, backing
from tests.e2e.queues import DEMO, Document, documents, emptied, new_trace
from tests.e2e.receivers import Span, collector, target
from tests.e2e.server import Bpa, nobody_lives, serving
from tests.eventually import eventually

CHOSEN = documents()[:4]
KILLED = "control-killed"
"""A queue whose locks are short."""
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
            senders = await _sent(server, CHOSEN, "invoices")
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
            known = {span.span_id for span in spans.values()}
            every_line_of_a_run_names_its_span(server, run["runId"], trace_id, known)
            sent = posts[run["runId"]]["traceparent"]
            assert sent == f"00-{trace_id}-{spans['http.out'].span_id}-01"
            assert posts[run["runId"]]["idempotency-key"].startswith(f'"{run["runId"]}:')
            chat = spans[CHAT].attributes
            tokens = [chat[f"gen_ai.usage.{kind}_tokens"] for kind in ("input", "output")]
            assert sum(tokens) == run["tokensUsed"]


async def test_no_kill_leaves_a_hole_in_a_trace(tmp_path: Path, made_cluster: Path) -> None:
    chosen = [CHOSEN[number % len(CHOSEN)] for number in range(100)]
    async with collector() as traces, backing(tmp_path, made_cluster, [KILLED]) as servers:
        fleet = Fleet(tmp_path, await servers.settings(), servers.local)
        exports = {"telemetry.otlp_endpoint": traces.url}
        async with (
            fleet.governed(**exports) as control,
            fleet.node("first", "eu") as first,
            fleet.node("second", "eu") as second,
        ):
            await fleet.deploy(KILLED, ["eu"])
            await control.put("/_stub/script", {"rules": [{"latency_ms": 300}]}, "anthropic")
            senders = await _sent(control, chosen, KILLED)

            async def half_done() -> bool:
                return sum(run["status"] == "completed" for run in await control.runs()) >= 30

            await eventually(half_done, within_s=60, every_s=0.05)
            await nobody_lives(await first.kill())
            await nobody_lives(await control.kill())
            ports = {
                f"control.{kind}_port": control.addresses[kind].rpartition(":")[2]
                for kind in ("grpc", "http")
            }
            async with fleet.governed(**exports, **ports) as successor:
                runs = await successor.ended_of(senders, within_s=90)
                assert {run["status"] for run in runs.values()} == {"completed"}

                async def all_there() -> bool:
                    ends = {span.trace_id for span in traces.spans if span.name == "complete"}
                    return ends >= set(senders)

                await eventually(all_there, within_s=30)
                attempts = [
                    the_trace_has_no_hole(traces.of_trace(trace), sender, runs[trace]["runId"])
                    for trace, sender in senders.items()
                ]
                assert max(attempts) > 1, "no run lost an attempt: the kills hit nothing"
                traced = {run["runId"]: trace for trace, run in runs.items()}
                for process in (first, second, control, successor):
                    lines = [line for line in process.log_lines() if "run_id" in line]
                    assert lines
                    assert {(line["run_id"], line["trace_id"]) for line in lines} <= traced.items()


def the_trace_has_no_hole(spans: list[Span], sender_id: str, run_id: str) -> int:
    """Check that all spans hang together below the sender's; return the number of attempts."""
    known: dict[str, Span] = {}
    for span in spans:  # what was sent again is the same
        assert known.setdefault(span.span_id, span) == span
    roots = [span for span in known.values() if span.parent_id not in known]
    assert [(span.name, span.parent_id) for span in roots] == [("receive", sender_id)]
    for span in known.values():
        assert span.attributes["bpa.run.id"] == run_id
        if span.name != "receive":
            assert known[span.parent_id].name == PARENTS[span.name]
    names = Counter(span.name for span in known.values())
    assert names.keys() == {"receive", *PARENTS}
    assert (names["receive"], names["complete"]) == (1, 1)
    return names["think"]


async def _sent(server: Bpa, chosen: list[Document], queue: str) -> dict[str, str]:
    """Send documents; return the sender's span by trace."""
    parents = [new_trace()[0] for _ in chosen]
    messages = [
        OutgoingMessage(body=d.body, content_type=d.content_type, traceparent=parent)
        for d, parent in zip(chosen, parents, strict=True)
    ]
    async with ServiceBusPublisher(server.addresses["service_bus"], queue) as publisher:
        await publisher.send(messages)
    return {trace_id: span_id for _, trace_id, span_id, _ in (p.split("-") for p in parents)}


def every_line_of_a_run_names_its_span(
    server: Bpa, run_id: str, trace_id: str, spans: set[str]
) -> None:
    lines = server.log_lines()
    assert len(lines) == len(server.log_text().splitlines()), "each line is one JSON document"
    told = [line for line in lines if run_id in str(line)]
    assert {line["event"] for line in told} >= EVENTS
    assert {(line.get("run_id"), line.get("trace_id")) for line in told} == {(run_id, trace_id)}
    assert {line["span_id"] for line in told} <= spans
    assert not [line for line in lines if "run_id" in line and "trace_id" not in line]

"""What a model that fails, babbles or dawdles makes of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.e2e.queues import dead_letters, documents, emptied, send, send_documents
from tests.e2e.server import Bpa, serving

ROOT = Path(__file__).parents[2]
TEMPLATE = next(d for d in documents() if d.name.startswith("006-lindner"))
OVER_BUDGET = next(
    d for d in documents("dead_lettered") if d.expected["reason"] == "BudgetExceeded"
)


def invoice(number: str) -> tuple[bytes, str]:
    """Return a document of its own, known to scripts by its invoice id."""
    body = TEMPLATE.body.replace(TEMPLATE.expected["invoice_id"].encode(), number.encode())
    assert number.encode() in body
    return body, TEMPLATE.content_type


async def script(server: Bpa, *rules: dict[str, Any]) -> None:
    await server.put("/_stub/script", {"rules": rules}, "anthropic")


async def failed_with(server: Bpa, trace_id: str, reason: str) -> dict[str, Any]:
    """Wait for the run's end; check its reason, its dead letter and that nothing was posted."""
    bus = server.addresses["service_bus"]
    await server.ended_of([trace_id])
    await emptied(bus)
    run = await server.run_of(trace_id)
    assert (run["status"], run["reason"]) == ("dead_lettered", reason), run["detail"]
    letter = (await dead_letters(bus))[trace_id]
    assert (letter.reason, letter.description) == (reason, run["detail"])
    assert not [key for key in await server.tries() if key.startswith(run["runId"])]
    return run


async def test_a_model_that_is_busy_is_asked_again_when_it_said(server: Bpa) -> None:
    await script(server, {"match": {"contains": "M-429"}, "status": 429, "times": 2,
                          "retry_after_s": 0})  # fmt: skip
    before = await server.model_requests()

    (trace_id,) = await send(server.addresses["service_bus"], [invoice("M-429")])
    run = (await server.ended_of([trace_id]))[trace_id]

    assert (run["status"], run["executions"]) == ("completed", 1)
    assert await server.model_requests() - before == 3
    await emptied(server.addresses["service_bus"])


async def test_a_model_that_stays_overloaded_is_asked_four_times(server: Bpa) -> None:
    await script(server, {"match": {"contains": "M-529"}, "status": 529})
    before = await server.model_requests()

    (trace_id,) = await send(server.addresses["service_bus"], [invoice("M-529")])

    run = await failed_with(server, trace_id, "RetriesExhausted")
    assert "529" in run["detail"]
    assert run["executions"] == 1
    assert await server.model_requests() - before == 4
    assert run["tokensUsed"] == 0


async def test_wrong_arguments_end_the_run_at_once_and_post_nothing(server: Bpa) -> None:
    await script(server, {"match": {"contains": "M-ARGS"}, "behave": "wrong_arguments"})
    before = await server.model_requests()

    (trace_id,) = await send(server.addresses["service_bus"], [invoice("M-ARGS")])

    run = await failed_with(server, trace_id, "SchemaValidationFailed")
    assert "route" in run["detail"]
    assert run["executions"] == 1
    assert await server.model_requests() - before == 1
    assert [step["kind"] for step in run["steps"]] == ["model"]
    assert run["tokensUsed"] > 0  # the answer was wrong, and paid for


async def test_a_model_that_only_talks_has_three_executions(server: Bpa) -> None:
    await script(server, {"match": {"contains": "M-TALK"}, "behave": "text"})

    (trace_id,) = await send(server.addresses["service_bus"], [invoice("M-TALK")])

    run = await failed_with(server, trace_id, "AttemptsExhausted")
    assert (run["executions"], run["agentFailures"], run["infraFailures"]) == (3, 3, 0)


async def test_a_document_over_the_token_budget_costs_no_model_call(server: Bpa) -> None:
    before = await server.model_requests()

    (trace_id,) = await send_documents(server.addresses["service_bus"], [OVER_BUDGET])

    run = await failed_with(server, trace_id, "BudgetExceeded")
    assert "4000" in run["detail"]
    assert run["tokensUsed"] == 0
    assert await server.model_requests() == before


async def test_a_run_over_its_deadline_is_ended(old_data_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    shutil.copytree(ROOT / "config", config)
    (path,) = (config / "deployments").glob("*.json")
    spec = json.loads(path.read_text("utf-8"))
    spec["budgets"]["maxDuration"] = "1s"
    path.write_text(json.dumps(spec), "utf-8")

    async with serving(old_data_dir, config_dir=str(config)) as server:
        await script(server, {"match": {"contains": "M-SLOW"}, "latency_ms": 4_000})
        bus = server.addresses["service_bus"]
        slow, quick = await send(bus, [invoice("M-SLOW"), invoice("M-QUICK")])

        run = await failed_with(server, slow, "DeadlineExceeded")

        assert "1s" in run["detail"]
        assert 1.0 <= run["workedS"] < 4.0
        assert (await server.ended_of([quick]))[quick]["status"] == "completed"

"""A node where gRPC cannot go: its whole life over REST, placed by the real scheduler."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from bpa.control.rooms import Rooms
from bpa.domain.journal import StepKind
from bpa.scheduler.commit import Committer
from bpa.scheduler.holds import Holds
from bpa.scheduler.loop import Scheduler
from bpa.scheduler.snapshot import SnapshotReader
from bpa.valkey import open_valkey
from tests.eventually import eventually
from tests.integration.control.fleet import Fleet, arrival
from tests.integration.control.rest import PROBLEM, Rest, rest_over

NODE = {"nodeId": "node-1", "bootId": "boot-1", "slots": 2, "labels": {"region": "aus-east"}}
USAGE = {"input_tokens": 900, "output_tokens": 80, "cost_usd": "0.0039"}


class Unmeasured:
    """An observer that looks away."""

    def placed(self, grants):
        """Take grants."""

    def gated(self, gates):
        """Take breakers."""

    def waiting(self, runs):
        """Take counts."""


@pytest.fixture
async def scheduler(fleet: Fleet, valkey_url: str) -> AsyncIterator[Scheduler]:
    valkey = await open_valkey(valkey_url, client_name="scheduler")
    try:
        holds = Holds(valkey, ttl_s=15.0)
        committer = Committer(fleet.pool, holds, offer_ttl_s=15.0)
        await committer.refresh()
        yield Scheduler(
            SnapshotReader(fleet.pool, "dev", silent_after_s=10.0),
            committer,
            holds,
            fleet.offers,
            Rooms(),
            Unmeasured(),
        )
    finally:
        await valkey.aclose()


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


async def pulled(rest: Rest, wait_s: float = 10.0):
    body = {"nodeId": "node-1", "bootId": "boot-1", "waitS": wait_s, "max": 8}
    answer = await rest.post("/v1/lease/pull", body)
    assert answer.status == 200, answer.text
    return answer.json["leases"]


async def running(rest: Rest, fleet: Fleet, scheduler: Scheduler, number: int = 1):
    await rest.post("/v1/nodes:register", NODE)
    run_id = (await fleet.runs.receive(arrival(number))).run_id
    await scheduler.one_pass()
    [lease] = await pulled(rest)
    assert lease["run"]["runId"] == run_id
    epoch = lease["epoch"]
    assert (await rest.post(f"/v1/runs/{run_id}:acknowledge", {"epoch": epoch})).status == 204
    return run_id, epoch


async def test_a_node_lives_its_whole_life_over_rest_alone(
    rest: Rest, fleet: Fleet, scheduler: Scheduler
):
    registered = await rest.post("/v1/nodes:register", NODE)
    assert registered.status == 200
    assert registered.json == {
        "heartbeatEveryS": 3.0,
        "leaseTtlS": 15,
        "cordoned": False,
        "draining": False,
    }
    assert rest.told == ["woken"]

    poll = asyncio.ensure_future(pulled(rest))
    await eventually(lambda: fleet.offers.connected("node-1"))
    run_id = (await fleet.runs.receive(arrival(7, document=b'{"total": "1"}'))).run_id
    assert (await scheduler.one_pass()).granted == 1
    [lease] = await poll
    run, epoch = lease["run"], lease["epoch"]
    assert (run["runId"], run["execution"], run["routes"]) == (run_id, 1, ["it", "general"])
    assert base64.b64decode(run["document"]) == b'{"total": "1"}'
    assert run["effectKey"] == f"{run_id}:7"
    assert lease["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")

    path = f"/v1/runs/{run_id}"
    assert (await rest.post(f"{path}:acknowledge", {"epoch": epoch})).status == 204
    assert (await rest.get(path)).json["status"] == "running"
    assert (await rest.post(f"{path}:progress", {"epoch": epoch, "stage": "think"})).status == 204
    think = {"seq": 0, "kind": "model", "digest": "aa", "reserved_tokens": 1400}
    answered = {**think, "answer": base64.b64encode(b"{}").decode(), "usage": USAGE}
    effect = {"seq": 1, "kind": "effect", "digest": "bb", "effect_key": run["effectKey"]}
    effect["intent"] = base64.b64encode(b'{"route":"it"}').decode()
    posted = {**effect, "answer": base64.b64encode(b'{"status":201}').decode()}
    for step in (think, answered, effect, posted):
        assert (await rest.post(f"{path}/steps", {"epoch": epoch, "step": step})).status == 204

    beat = await rest.post(
        "/v1/nodes/node-1:heartbeat",
        {"bootId": "boot-1", "held": [{"runId": run_id, "epoch": epoch}]},
    )
    assert beat.json == {
        "renewed": [{"runId": run_id, "epoch": epoch}],
        "lost": [],
        "cancel": [],
        "cordoned": False,
        "draining": False,
        "handBack": False,
    }

    outcome = {"kind": "completed", "result": {"status": 201, "route": "it"}, "worked_s": 0.2}
    for _ in range(2):  # its answer may be lost on the way, so it is reported again
        done = await rest.post(f"{path}:complete", {"epoch": epoch, "outcome": outcome})
        assert (done.status, done.text) == (204, "")
    ended = (await rest.get(path)).json
    assert (ended["status"], ended["outcome"]) == ("completed", outcome["result"])
    assert (ended["costUsd"], ended["tokensUsed"]) == ("0.0039", 980)
    assert ended["timings"]["stage"] == "think"
    assert [step["answered"] for step in ended["steps"]] == [True, True]
    assert ended["steps"][1]["effectKey"] == f"{run_id}:7"
    async with fleet.pool.connection() as connection:
        rows = await (await connection.execute("select intent from steps order by seq")).fetchall()
    assert [row["intent"] for row in rows] == [None, b'{"route":"it"}']


async def test_what_comes_under_a_stale_epoch_is_refused_and_counted(
    rest: Rest, fleet: Fleet, scheduler: Scheduler
):
    run_id, epoch = await running(rest, fleet, scheduler)
    await fleet.expire(run_id)
    assert await fleet.leases.reap() == 1
    step = {"seq": 0, "kind": "model", "digest": "aa"}
    reports = {
        f"/v1/runs/{run_id}:complete": {"outcome": {"kind": "completed"}},
        f"/v1/runs/{run_id}:fail": {"outcome": {"kind": "crashed"}},
        f"/v1/runs/{run_id}/steps": {"step": step},
        f"/v1/runs/{run_id}:progress": {"stage": "think"},
        f"/v1/runs/{run_id}:acknowledge": {},
        f"/v1/runs/{run_id}:refuse": {"why": "full"},
    }
    for count, (path, body) in enumerate(reports.items(), 1):
        answer = await rest.post(path, {"epoch": epoch, **body})
        assert (answer.status, answer.json["code"]) == (409, "stale_lease"), path
        assert answer.headers["Content-Type"] == PROBLEM
        assert answer.json["instance"] == path
        assert rest.fenced() == count
    run = (await rest.get(f"/v1/runs/{run_id}")).json
    assert (run["status"], run["steps"], run["infraFailures"]) == ("queued", [], 1)


async def test_a_step_that_is_recorded_otherwise_is_a_conflict_that_is_not_counted_as_a_fence(
    rest: Rest, fleet: Fleet, scheduler: Scheduler
):
    run_id, epoch = await running(rest, fleet, scheduler)
    path, step = f"/v1/runs/{run_id}/steps", {"seq": 0, "kind": "model", "digest": "d"}
    assert (await rest.post(path, {"epoch": epoch, "step": step})).status == 204
    answer = await rest.post(path, {"epoch": epoch, "step": {**step, "digest": "other"}})
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    assert "start over from the recorded journal" in answer.json["detail"]
    assert rest.fenced() == 0


async def test_a_failed_execution_says_how_and_a_rejected_one_ends_the_run(
    rest: Rest, fleet: Fleet, scheduler: Scheduler
):
    run_id, epoch = await running(rest, fleet, scheduler)
    outcome = {"kind": "rejected", "reason": "BudgetExceeded", "detail": "4000 tokens"}
    wrong = await rest.post(f"/v1/runs/{run_id}:complete", {"epoch": epoch, "outcome": outcome})
    assert (wrong.status, wrong.json["code"]) == (400, "invalid_request")
    unknown = {**outcome, "reason": "BadMood"}
    wrong = await rest.post(f"/v1/runs/{run_id}:fail", {"epoch": epoch, "outcome": unknown})
    assert (wrong.status, wrong.json["code"]) == (400, "invalid_request")
    done = await rest.post(f"/v1/runs/{run_id}:fail", {"epoch": epoch, "outcome": outcome})
    assert done.status == 204
    run = (await rest.get(f"/v1/runs/{run_id}")).json
    assert (run["status"], run["reason"]) == ("dead_lettered", "BudgetExceeded")


async def test_an_offer_that_was_not_acknowledged_comes_with_the_next_poll(
    rest: Rest, fleet: Fleet, scheduler: Scheduler
):
    await rest.post("/v1/nodes:register", NODE)
    run_id = (await fleet.runs.receive(arrival())).run_id
    await scheduler.one_pass()
    first, second = await pulled(rest), await pulled(rest)
    assert [lease["run"]["runId"] for lease in first] == [run_id]
    assert first == second
    refused = {"epoch": first[0]["epoch"], "why": "all slots are taken"}
    assert (await rest.post(f"/v1/runs/{run_id}:refuse", refused)).status == 204
    run = (await rest.get(f"/v1/runs/{run_id}")).json
    assert (run["status"], run["infraFailures"]) == ("queued", 0)
    assert "all slots are taken" in run["waitingReason"]


async def test_a_poll_without_work_is_answered_empty(rest: Rest):
    await rest.post("/v1/nodes:register", NODE)
    assert await pulled(rest, wait_s=0) == []
    assert await pulled(rest, wait_s=0.05) == []


async def test_a_node_that_is_unknown_or_of_another_boot_is_sent_to_register(rest: Rest):
    body = {"nodeId": "node-1", "bootId": "boot-2", "waitS": 0}
    assert (await rest.post("/v1/lease/pull", body)).status == 404
    await rest.post("/v1/nodes:register", NODE)
    assert (await rest.post("/v1/lease/pull", body)).status == 404
    beat = await rest.post("/v1/nodes/node-1:heartbeat", {"bootId": "boot-2"})
    assert (beat.status, beat.json["code"]) == (404, "not_found")


async def test_a_node_that_hangs_up_during_a_poll_may_be_replaced_at_once(
    rest: Rest, fleet: Fleet, listening: None
):
    await rest.post("/v1/nodes:register", NODE)
    poll = asyncio.ensure_future(pulled(rest, wait_s=30))
    await eventually(lambda: fleet.offers.connected("node-1"))
    second = {**NODE, "bootId": "boot-2"}
    assert (await rest.post("/v1/nodes:register", second)).status == 409
    poll.cancel()
    await asyncio.wait({poll})

    async def replaced():
        return (await rest.post("/v1/nodes:register", second)).status == 200

    await eventually(replaced)


async def test_the_newest_of_two_polls_gets_the_work_and_the_older_ends_in_peace(
    rest: Rest, fleet: Fleet, scheduler: Scheduler
):
    await rest.post("/v1/nodes:register", NODE)
    older = asyncio.ensure_future(pulled(rest, wait_s=0.5))
    await eventually(lambda: fleet.offers.connected("node-1"))
    first = fleet.offers._streams["node-1"]
    newer = asyncio.ensure_future(pulled(rest))
    await eventually(lambda: fleet.offers._streams["node-1"] is not first)
    run_id = (await fleet.runs.receive(arrival())).run_id
    await scheduler.one_pass()
    assert [lease["run"]["runId"] for lease in await newer] == [run_id]
    assert await older == []


async def test_a_report_out_of_range_fails_alone(rest: Rest, fleet: Fleet, scheduler: Scheduler):
    run_id, epoch = await running(rest, fleet, scheduler)
    path = f"/v1/runs/{run_id}/steps"
    steps = [
        {"seq": 0, "kind": "model", "digest": "aa"},
        {"seq": 2**40, "kind": "model", "digest": "bb"},
        {"seq": 1, "kind": "model", "digest": "cc", "usage": {"cost_usd": "a lot"}, "answer": ""},
        {"seq": 2, "kind": "effect", "digest": "dd", "effect_key": "k", "intent": "e30="},
        {"seq": 3, "kind": "effect", "digest": "ee", "effect_key": "k", "intent": "e30="},
        {"seq": 4, "kind": "model", "digest": "ff", "started_at_ms": 2**62},
        {
            "seq": 5,
            "kind": "effect",
            "digest": "gg",
            "effect_key": random.Random(1).randbytes(5000).hex(),
        },
    ]
    answers = await asyncio.gather(
        *(rest.post(path, {"epoch": epoch, "step": step}) for step in steps)
    )
    assert [answer.status for answer in answers] == [204, 400, 400, 204, 409, 400, 400]
    journal = (await rest.get(path)).json
    assert [(step["seq"], step["kind"]) for step in journal] == [(0, "model"), (2, StepKind.EFFECT)]


async def test_an_open_poll_ends_at_once_and_empty_when_control_stops(fleet: Fleet):
    async with AsyncExitStack() as stack:
        async with rest_over(fleet) as rest:
            await rest.post("/v1/nodes:register", NODE)
            session = await stack.enter_async_context(aiohttp.ClientSession(rest.url))
            body = {"nodeId": "node-1", "bootId": "boot-1", "waitS": 30}
            poll = asyncio.ensure_future(session.post("/v1/lease/pull", json=body))
            await eventually(lambda: fleet.offers.connected("node-1"))
            closing_at = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - closing_at < 1.5
        answer = await poll
        assert (answer.status, await answer.json()) == (200, {"leases": []})
    assert fleet.offers.connected("node-1") is None

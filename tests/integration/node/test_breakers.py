"""Runs of one node whose target fails: who is parked, and what the target is sent."""

import asyncio
import dataclasses
import time

import pytest
import pytest_asyncio
import structlog

from bpa.connectors.http_out import HttpOut
from bpa.domain.executions import Admission
from bpa.domain.journal import StepKind
from bpa.domain.specs import HttpOutSpec
from bpa.errors import Reason, RunEnded
from bpa.node.breakers import EndedAtTarget, Parked
from bpa.node.broker import Broker
from bpa.node.frames import Call
from bpa.retry import RetryPolicy
from tests.eventually import eventually
from tests.integration.node.control_server import an_offer
from tests.integration.node.outside import DOCUMENT, ROUTES, WIRE, RecordingLease, outside

POST = Call(
    1,
    "tool",
    {
        "name": "post_invoice",
        "arguments": {
            "vendor": "Nordbyte Cloud Hosting GmbH", "route": "hosting", "confidence": 0.9,
            "reason": "It says hosting.",
        },
    },
)  # fmt: skip
PROBE = Admission(probe=True, watched=True)
CLOSED_SINCE = Admission(closings=1)


@pytest_asyncio.fixture
async def world():
    async with outside() as world:
        yield world


def broker(world, run="r1", *, journal=(), deadline_s=30.0, **spec):
    """Return a run's broker, with its lease under ``lease``."""
    spec = {"document": WIRE, "routes": ROUTES, "journal": list(journal)} | spec
    lease = RecordingLease(an_offer(run, **spec))
    made = Broker(
        world.outlets,
        lease,
        document=DOCUMENT,
        deadline_s=time.monotonic() + deadline_s,
        log=structlog.get_logger(),
    )
    return made, lease


async def post(world, run="r1", **spec):
    """Let a run post; return its outcome, or what ended it."""
    made, _ = broker(world, run, **spec)
    try:
        await made.serve(POST)
    except (RunEnded, Parked) as ended:
        return ended
    return made.completed


async def outage(world, runs=8):
    """Have runs post at once to a target that fails; return how each ended."""
    # All first requests are under way before one is answered: the tenth failure is a second try.
    first = {"status": 503, "latency_ms": 200, "times": runs}
    await world.script_target(first, {"status": 503})
    return await asyncio.gather(*(post(world, f"r{n}") for n in range(runs)))


async def sent(world):
    return sum(tried["tries"] for tried in await world.tries())


async def test_runs_that_fail_together_are_parked_in_the_midst_of_their_tries(world):
    ended = await outage(world)
    assert {type(one) for one in ended} == {Parked}
    (seen,) = {(one.seen.host, one.seen.closings, one.seen.error) for one in ended}
    assert seen == (world.target.url, 0, "HTTP 503")
    assert 10 <= await sent(world) < 32
    assert await world.received() == []


async def test_nothing_is_sent_while_it_is_open_but_the_intent_is_recorded(world):
    await outage(world)
    before = await sent(world)
    made, lease = broker(world, "late")
    with pytest.raises(Parked):
        made.must_admit()
    with pytest.raises(Parked):
        await made.serve(POST)
    intent, unapplied = lease.reported
    assert (intent.kind, intent.effect_key, intent.answer) == (StepKind.EFFECT, "late:1", None)
    assert (intent.ended_at_ms, unapplied.ended_at_ms > 0) == (0, True), "it may go elsewhere"
    assert await sent(world) == before


async def test_a_parked_run_goes_on_with_the_same_key_and_bytes_once_it_is_closed(world):
    await outage(world)
    made, lease = broker(world, "late")
    with pytest.raises(Parked):
        await made.serve(POST)
    await world.script_target()
    again, again_lease = broker(world, "late", journal=lease.journal, admission=CLOSED_SINCE)
    await again.serve(POST)
    assert [step.ended_at_ms for step in again_lease.reported] == [0]
    assert again.completed.target is None, "nobody needs to hear of it"
    (received,) = await world.received()
    assert received["key"] == "late:1"
    assert again.completed.effect.intent == lease.journal[0].intent
    assert (await post(world, "r9")).kind == "completed"


@pytest.mark.parametrize("runs", [1, 2])
async def test_a_run_alone_gets_its_tries_and_then_ends(world, runs):
    ended = await outage(world, runs)
    ended += [await post(world, f"r{n}") for n in range(runs)]
    assert {(type(one), one.reason) for one in ended} == {(EndedAtTarget, Reason.RETRIES_EXHAUSTED)}
    assert {one.seen.tries for one in ended} == {4}
    assert await sent(world) == 8 * runs


async def test_a_probe_sends_one_request_and_nobody_else_any(world):
    await outage(world)
    before = await sent(world)
    probe = await post(world, "r1", admission=PROBE)
    assert isinstance(probe, Parked)
    assert isinstance(await post(world, "r2", admission=Admission(watched=True)), Parked)
    assert await sent(world) == before + 1
    assert [t["tries"] for t in await world.tries() if t["key"] == "r1:1"] != []


async def test_a_node_that_saw_no_outage_sends_one_request_for_a_probe_as_well(world):
    await world.script_target({"status": 503})
    assert isinstance(await post(world, admission=PROBE), Parked)
    assert await sent(world) == 1


async def test_an_answered_probe_says_so_and_opens_the_way_for_no_other_run_of_the_node(world):
    await outage(world)
    await world.script_target()
    probe = await post(world, "r1", admission=PROBE)
    assert (probe.kind, probe.target.host, probe.target.error) == (
        "completed", world.target.url, ""
    )  # fmt: skip
    assert isinstance(await post(world, "r2", admission=Admission(watched=True)), Parked)


async def test_a_target_that_refuses_a_probe_has_answered(world):
    await world.script_target({"status": 422})
    probe = await post(world, admission=PROBE)
    assert isinstance(probe, EndedAtTarget)
    assert (probe.reason, probe.seen.error) == (Reason.NON_RETRYABLE_HTTP_STATUS, "")


@pytest.mark.parametrize("rule", [{"status": 429}, {"drop": "before"}, {"drop": "after"}])
async def test_throttling_and_no_answer_count_as_well(world, rule):
    await world.script_target(rule)
    ended = await asyncio.gather(*(post(world, f"r{n}") for n in range(8)))
    assert {type(one) for one in ended} <= {Parked, EndedAtTarget}
    assert Parked in {type(one) for one in ended}


async def test_a_target_that_nobody_serves_counts_as_well(world, unused_tcp_port):
    spec = {"http_out": HttpOutSpec(base_url=f"http://127.0.0.1:{unused_tcp_port}/invoices")}
    ended = await asyncio.gather(*(post(world, f"r{n}", **spec) for n in range(8)))
    assert {(type(one), one.seen.error) for one in ended} == {(Parked, "no answer")}
    assert (await post(world, "r9")).kind == "completed", "another host has another breaker"


async def test_a_target_that_refuses_requests_opens_nothing(world):
    await world.script_target({"status": 400})
    ended = [await post(world, f"r{n}") for n in range(12)]
    assert {one.reason for one in ended} == {Reason.NON_RETRYABLE_HTTP_STATUS}
    await world.script_target()
    assert (await post(world, "r9")).kind == "completed"


async def test_runs_that_pause_for_a_long_retry_after_are_parked_as_soon_as_it_opens(world):
    patient = RetryPolicy(base_s=0.01, cap_s=0.02, retry_after_cap_s=60.0)
    sink = HttpOut(world.session, policy=patient, timeout_s=5.0)
    world.outlets = dataclasses.replace(world.outlets, sink=sink)
    await world.script_target({"status": 503, "retry_after_s": 60, "times": 9}, {"status": 503})
    pausing = [asyncio.create_task(post(world, f"r{n}", deadline_s=120.0)) for n in range(9)]

    async def all_pause():
        return await sent(world) == 9

    await eventually(all_pause)
    assert not any(one.done() for one in pausing)
    assert isinstance(await post(world, "tenth"), Parked)
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*pausing)
    assert {type(one) for one in ended} == {Parked}
    assert await sent(world) == 10


async def test_requests_that_a_run_s_own_deadline_cut_short_do_not_count(world):
    await world.script_target({"latency_ms": 2_000})
    ended = await asyncio.gather(*(post(world, f"r{n}", deadline_s=0.05) for n in range(12)))
    assert {getattr(one, "reason", one) for one in ended} == {Reason.DEADLINE_EXCEEDED}
    await world.script_target()
    assert (await post(world, "r99")).kind == "completed"


@pytest.mark.parametrize("admission", [PROBE, Admission()])
async def test_control_hears_of_a_target_that_leaves_an_outcome_unknown(world, admission):
    await world.script_target({"drop": "after"})
    unsafe = HttpOutSpec(idempotent=False)
    ended = await post(world, "r1", http_out=unsafe, admission=admission)
    assert (type(ended), ended.reason) == (EndedAtTarget, Reason.OUTCOME_UNKNOWN)
    assert (ended.seen.host, ended.seen.tries, ended.seen.error) == (
        world.target.url,
        1,
        "no answer",
    )


async def in_flight(world, run):
    """Return an execution that dies over its request, and wait until the target works on it."""
    await world.script_target({"latency_ms": 1_000, "times": 1})
    made, lease = broker(world, run)
    killed = asyncio.create_task(made.serve(POST))
    await eventually(lambda: sent(world), within_s=5)
    killed.cancel()
    await asyncio.wait({killed})
    return lease.journal


@pytest.mark.parametrize("admission", [Admission(), PROBE])
async def test_a_run_waits_for_what_its_killed_execution_has_sent(world, admission):
    journal = await in_flight(world, "r1")
    completed = await post(world, "r1", journal=journal, admission=admission)
    assert (completed.kind, completed.result["tries"]) == ("completed", 1)
    (tried,) = await world.tries()
    assert tried["outcomes"].pop("in_flight:409") > 4, "more often than there are tries"
    assert (tried["outcomes"], tried["bodies"]) == ({"applied": 1, "replayed": 1}, 1)

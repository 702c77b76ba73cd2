"""Executions in real sandboxes, against the real stub and target."""

import asyncio
import dataclasses
import json

import msgspec
import psutil
import pytest
import pytest_asyncio
import structlog

from bpa.connectors.http_out import HttpOut
from bpa.control.prompts import Declared, prompts
from bpa.documents.decoding import MAX_TEXT_BYTES, decode
from bpa.documents.wire import from_wire, to_wire
from bpa.domain.executions import BudgetKind, Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind
from bpa.domain.specs import Budgets, HttpOutSpec
from bpa.errors import Conflict, Reason, StaleLease, Unavailable
from bpa.node.executor import Executor, ExecutorOptions
from bpa.node.lease import HeldLease, Stop
from bpa.node.runtime import boottime_s
from bpa.node.sandbox import SandboxLimits
from bpa.node.zygote import Zygote
from tests.eventually import eventually
from tests.integration.node.control_server import an_offer
from tests.integration.node.outside import ROUTES, WIRE, outside
from tests.integration.node.scripted import PROBES

ROOMY = Budgets(max_tokens=50_000)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygote():
    async with Zygote(limits=SandboxLimits()) as zygote:
        yield zygote


@pytest_asyncio.fixture(loop_scope="module")
async def world():
    async with outside() as world:
        yield world


class Ledger:
    """Where a lease's reports end up."""

    def __init__(self):
        self.steps: list[Step] = []
        self.outcomes: list[Outcome] = []
        self.stored = asyncio.Event()
        self.stored.set()
        self.on_report = lambda what: None

    async def report(self, run_id, epoch, what, *, gone=None):
        self.on_report(what)
        await self.stored.wait()
        (self.outcomes if isinstance(what, Outcome) else self.steps).append(what)


class Run:
    """One lease and what came of it."""

    def __init__(self, world, spawner, *, deadline_s=30.0, grace_s=0.2, **spec):
        spec = {"document": WIRE, "routes": ROUTES} | spec
        self.ledger = Ledger()
        self.lease = HeldLease(
            an_offer("r1", deadline_s=deadline_s, **spec),
            reports=self.ledger,
            clock=boottime_s,
            draw=lambda: 0.5,
        )
        self.lease.confirm(boottime_s())
        self.executor = Executor(
            spawner=spawner,
            outlets=world.outlets,
            log=structlog.get_logger(),
            options=ExecutorOptions(grace_s=grace_s),
        )

    async def execute(self):
        await self.executor.execute(self.lease)
        (outcome,) = self.ledger.outcomes or [None]
        return outcome

    async def execute_and(self, stop, when):
        async with asyncio.TaskGroup() as group:
            execution = group.create_task(self.execute())
            await eventually(when)
            self.lease.stop(stop)
        return execution.result()


async def test_a_run_is_thought_posted_and_completed(world, zygote):
    run = Run(world, zygote)
    outcome = await run.execute()
    assert outcome.kind is OutcomeKind.COMPLETED
    assert outcome.result["invoice_id"] == "NB-2026-0117"
    assert outcome.result["route"] in ROUTES
    assert set(outcome.timings) == {"sandbox_start", "model", "http_out", "total"}
    assert outcome.replayed == []
    assert 0 < outcome.worked_s < 30
    (received,) = await world.received()
    assert received["body"]["total"] == "1234.50"
    kinds = [(s.kind, s.answer is not None) for s in run.ledger.steps]
    assert kinds == [
        (StepKind.MODEL, False),
        (StepKind.MODEL, True),
        (StepKind.EFFECT, False),
    ]
    assert json.loads(outcome.effect.answer) == outcome.result


async def test_a_new_execution_after_a_crash_pays_for_nothing_twice(world, zygote):
    first = Run(world, zygote)

    def lose_the_outcome(what):
        if isinstance(what, Outcome):
            raise StaleLease("the node died")

    first.ledger.on_report = lose_the_outcome
    with pytest.raises(StaleLease):
        await first.execute()
    steps = {s.seq: s for s in first.ledger.steps}
    again = Run(world, zygote, journal=list(steps.values()), execution=2)
    outcome = await again.execute()
    assert outcome.kind is OutcomeKind.COMPLETED
    assert outcome.replayed == [0]
    assert len(await world.received()) == 1
    assert len(await world.model_requests()) == 1


async def test_a_run_whose_effect_is_recorded_is_only_completed(world):
    class NoSpawner:
        async def spawn(self, task):
            raise AssertionError("no sandbox is needed")

    result = {"status": 201, "tries": 1}
    applied = Step(
        seq=3, kind=StepKind.EFFECT, digest="d", intent=b"x", answer=json.dumps(result).encode()
    )
    outcome = await Run(world, NoSpawner(), journal=[applied]).execute()
    assert (outcome.kind, outcome.result) == (OutcomeKind.COMPLETED, result)
    assert outcome.replayed == [3]
    assert await world.model_requests() == []


async def test_a_broken_rule_ends_the_run_with_its_reason(world, zygote):
    outcome = await Run(world, zygote, budgets=Budgets(max_tokens=10)).execute()
    assert (outcome.kind, outcome.reason) == (OutcomeKind.REJECTED, Reason.BUDGET_EXCEEDED)
    assert "tokens budget of 10" in outcome.detail
    excess = outcome.excess
    assert excess is not None
    assert (excess.kind, excess.limit, excess.consumed) == (BudgetKind.TOKENS, "10", "0")
    assert int(excess.refused) > 10


async def test_the_largest_document_is_judged_by_the_budget(world, zygote):
    document = decode(b"two words " * (MAX_TEXT_BYTES // 10), "text/plain", max_bytes=4 << 20)
    outcome = await Run(world, zygote, document=to_wire(document)).execute()
    assert (outcome.kind, outcome.reason) == (OutcomeKind.REJECTED, Reason.BUDGET_EXCEEDED)
    assert "tokens budget of 4000" in outcome.detail
    assert [endpoint for endpoint, _ in await world.model_requests()] == ["messages/count_tokens"]


async def test_wrong_arguments_end_the_run_at_once_by_the_judgement_of_the_broker(world, zygote):
    await world.script_model({"behave": "wrong_arguments"})
    run = Run(world, zygote)
    outcome = await run.execute()
    assert (outcome.kind, outcome.reason) == (
        OutcomeKind.REJECTED,
        Reason.SCHEMA_VALIDATION_FAILED,
    )
    assert [s.kind for s in run.ledger.steps] == [StepKind.MODEL, StepKind.MODEL]
    assert await world.model_requests() == [("messages", "tool_use")]
    assert await world.tries() == []


async def test_an_agent_that_may_post_twice_posts_twice_and_the_run_ends(world, zygote):
    again = {"match": {"after_tool_result": True}, "behave": "another_call", "times": 1}
    await world.script_model(again)
    run = Run(world, zygote, max_effects=2, budgets=ROOMY)
    outcome = await run.execute()
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    assert [r["key"] for r in await world.received()] == ["r1:1", "r1:1:2"]
    assert outcome.result["route"] != outcome.result["further"][0]["route"]
    assert len(await world.model_requests()) == 2


async def test_an_agent_that_may_post_more_ends_when_it_has_said_so(world, zygote):
    run = Run(world, zygote, max_effects=2, budgets=ROOMY)
    outcome = await run.execute()
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    assert [r["key"] for r in await world.received()] == ["r1:1"]
    assert len(await world.model_requests()) == 2


async def test_a_deployment_that_allows_less_than_was_applied_has_nothing_left_to_do(world):
    applied = [
        Step(seq=n, kind=StepKind.EFFECT, digest=f"d{n}", intent=b"x", answer=b'{"status": 201}')
        for n in (1, 3)
    ]
    outcome = await Run(world, None, max_effects=1, journal=applied).execute()
    assert (outcome.kind, outcome.replayed) == (OutcomeKind.COMPLETED, [1, 3])
    assert outcome.result == {"status": 201, "further": [{"status": 201}]}


async def test_what_a_model_was_asked_can_be_derived_to_the_byte(world, zygote):
    again = {"match": {"after_tool_result": True}, "behave": "another_call", "times": 1}
    await world.script_model(again)
    run = Run(world, zygote, max_effects=3, budgets=ROOMY)
    outcome = await run.execute()
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    steps = {step.seq: msgspec.structs.asdict(step) for step in run.ledger.steps}
    spec = run.lease.offer.run
    declared = Declared(spec.agent, spec.routes, spec.max_effects)
    asked = list(prompts(declared, from_wire(WIRE), steps.values()))
    assert [len(one.request.messages) for _, one in asked] == [1, 3, 5]
    assert all(one.is_exact for _, one in asked)
    changed = dataclasses.replace(declared, routes=["other"])
    assert not any(one.is_exact for _, one in prompts(changed, from_wire(WIRE), steps.values()))


async def test_a_second_execution_replays_the_first_effect_and_sends_the_second(world, zygote):
    again = {"match": {"after_tool_result": True}, "behave": "another_call", "times": 1}
    await world.script_model(again)
    first = Run(world, zygote, max_effects=2, budgets=ROOMY)

    def die_over_the_second_effect(what):
        if isinstance(what, Step) and what.effect_key == "r1:1:2":
            raise StaleLease("the node died")

    first.ledger.on_report = die_over_the_second_effect
    assert await first.execute() is None
    assert [r["key"] for r in await world.received()] == ["r1:1"]
    steps = list({s.seq: s for s in first.ledger.steps}.values())
    outcome = await Run(world, zygote, max_effects=2, budgets=ROOMY, journal=steps).execute()
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    assert outcome.replayed == [0, 1, 2]
    assert [r["key"] for r in await world.received()] == ["r1:1", "r1:1:2"]
    assert {tried["tries"] for tried in await world.tries()} == {1}
    assert len(await world.model_requests()) == 2


async def test_an_agent_of_other_instructions_diverges_after_the_intent_and_sends_nothing(
    world, zygote
):
    await world.script_target({"drop": "before"})
    first = Run(world, zygote)

    def lose_the_outcome(what):
        if isinstance(what, Outcome):
            raise StaleLease("the node died")

    first.ledger.on_report = lose_the_outcome
    with pytest.raises(StaleLease):
        await first.execute()
    steps = list({s.seq: s for s in first.ledger.steps}.values())
    tried = await world.tries()
    assert [s.kind for s in steps] == [StepKind.MODEL, StepKind.EFFECT]
    agent = msgspec.structs.replace(first.lease.offer.run.agent, instructions="Decide otherwise.")
    outcome = await Run(world, zygote, journal=steps, agent=agent, execution=2).execute()
    assert (outcome.kind, outcome.reason) == (OutcomeKind.REJECTED, Reason.AGENT_ERROR)
    assert "diverged after an effect" in outcome.detail
    assert await world.tries() == tried
    assert len(await world.model_requests()) == 1


async def test_an_effect_that_time_ran_out_over_is_unknown_where_a_repeat_would_double_it(
    world, zygote
):
    await world.script_target({"latency_ms": 60_000})
    run = Run(world, zygote, deadline_s=2.0, http_out=HttpOutSpec(idempotent=False))
    outcome = await run.execute()
    assert (outcome.kind, outcome.reason) == (OutcomeKind.REJECTED, Reason.OUTCOME_UNKNOWN)
    assert [tried["tries"] for tried in await world.tries()] == [1]
    assert run.ledger.steps[-1].ended_at_ms == 0


async def test_an_agent_that_failed_over_an_answer_fails_alike_and_pays_once(world, zygote):
    await world.script_model({"behave": "text"})
    first = Run(world, zygote)
    failed = await first.execute()
    steps = list({s.seq: s for s in first.ledger.steps}.values())
    again = await Run(world, zygote, journal=steps, execution=2).execute()
    assert (again.kind, again.detail) == (failed.kind, failed.detail)
    assert again.kind is OutcomeKind.AGENT_FAILED
    assert (again.replayed, len(await world.model_requests())) == ([0], 1)


async def test_an_agent_that_never_posts_has_failed(world, zygote):
    await world.script_model({"behave": "text"})
    outcome = await Run(world, zygote).execute()
    assert outcome.kind is OutcomeKind.AGENT_FAILED
    assert outcome.detail == "the agent finished without post_invoice"


async def test_a_sandbox_that_dies_has_crashed(world, zygote):
    class Killer:
        async def spawn(self, task):
            sandbox = await zygote.spawn(task)
            sandbox._signal_kill()
            return sandbox

    await world.script_model({"latency_ms": 200})
    outcome = await Run(world, Killer()).execute()
    assert outcome.kind is OutcomeKind.CRASHED
    assert "killed by SIGKILL" in outcome.detail


async def test_a_sandbox_that_hangs_up_and_lives_on_is_killed_after_the_grace(world):
    class HangsUp:
        async def spawn(self, task):
            return await probes.spawn(msgspec.structs.replace(task, document="hang_up"))

    async with Zygote(limits=SandboxLimits(), entry=PROBES) as probes:
        outcome = await Run(world, HangsUp(), grace_s=0.1).execute()
    assert outcome.kind is OutcomeKind.CRASHED
    assert "killed by SIGKILL" in outcome.detail
    assert 0.1 <= outcome.worked_s < 10


async def test_time_is_up_for_a_model_that_is_too_slow(world, zygote):
    await world.script_model({"latency_ms": 60_000})
    outcome = await Run(world, zygote, deadline_s=0.2).execute()
    assert (outcome.kind, outcome.reason) == (OutcomeKind.REJECTED, Reason.DEADLINE_EXCEEDED)
    assert "60s" in outcome.detail
    assert outcome.worked_s < 10


async def test_a_run_without_working_time_left_is_not_started(world, zygote):
    outcome = await Run(world, zygote, deadline_s=0.0).execute()
    assert outcome.reason == Reason.DEADLINE_EXCEEDED
    assert await world.model_requests() == []


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (Stop.LOST, None),
        (Stop.EXPIRED, None),
        (Stop.HAND_BACK, (OutcomeKind.HANDED_BACK, "")),
        (Stop.CANCELLED, (OutcomeKind.REJECTED, "Cancelled")),
    ],
)
async def test_a_run_that_is_stopped_from_outside_ends_as_it_should(world, zygote, stop, expected):
    await world.script_model({"latency_ms": 60_000})
    run = Run(world, zygote)
    outcome = await run.execute_and(stop, when=lambda: run.ledger.steps)
    assert (outcome and (outcome.kind, outcome.reason)) == expected
    assert await world.tries() == []


async def test_an_effect_that_is_done_stands_although_the_run_was_cancelled(world, zygote):
    await world.script_target({"latency_ms": 100})
    run = Run(world, zygote, grace_s=20.0)
    outcome = await run.execute_and(Stop.CANCELLED, when=lambda: len(run.ledger.steps) == 3)
    assert outcome.kind is OutcomeKind.COMPLETED


@pytest.mark.parametrize("stop", [Stop.CANCELLED, Stop.HAND_BACK])
async def test_a_run_that_is_stopped_hears_the_target_out_before_it_says_how_it_ended(
    world, zygote, stop
):
    await world.script_target({"latency_ms": 1500})
    run = Run(world, zygote, grace_s=0.01)
    outcome = await run.execute_and(stop, when=world.tries)
    assert outcome.kind is OutcomeKind.COMPLETED
    assert len(await world.received()) == 1


async def test_a_cancelled_run_whose_target_is_silent_says_that_its_effect_is_in_doubt(
    world, zygote
):
    await world.script_target({"latency_ms": 60_000})
    run = Run(world, zygote, grace_s=0.01, http_out=HttpOutSpec(timeout_s=0.2))
    outcome = await run.execute_and(Stop.CANCELLED, when=lambda: len(run.ledger.steps) == 3)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.REJECTED, Reason.CANCELLED)
    assert "whether it was applied is not known" in outcome.detail


async def test_a_run_whose_target_is_silent_is_handed_back_after_the_time_of_one_try(world, zygote):
    await world.script_target({"latency_ms": 60_000})
    run = Run(world, zygote, http_out=HttpOutSpec(timeout_s=0.2))
    outcome = await run.execute_and(Stop.HAND_BACK, when=lambda: len(run.ledger.steps) == 3)
    assert outcome.kind is OutcomeKind.HANDED_BACK


async def test_a_run_that_waits_for_another_try_is_handed_back_as_one_that_may_be_sent(
    world, zygote
):
    patient = dataclasses.replace(world.outlets, sink=HttpOut(world.session))
    quick, world.outlets = world.outlets, patient
    await world.script_target({"status": 503, "retry_after_s": 20, "times": 1})
    spec = {"http_out": HttpOutSpec(timeout_s=1.0, idempotent=False)}
    run = Run(world, zygote, **spec)
    outcome = await run.execute_and(Stop.HAND_BACK, when=world.tries)
    assert outcome.kind is OutcomeKind.HANDED_BACK
    assert run.ledger.steps[-1].ended_at_ms > 0, "known not to be applied"
    world.outlets = quick
    steps = list({step.seq: step for step in run.ledger.steps}.values())
    again = await Run(world, zygote, journal=steps, execution=2, **spec).execute()
    assert again.kind is OutcomeKind.COMPLETED, again.detail
    (tried,) = await world.tries()
    assert tried["outcomes"] == {"scripted:503": 1, "applied": 1}


async def test_the_outcome_is_reported_although_the_execution_is_cancelled(world, zygote):
    run = Run(world, zygote)

    def hold_the_outcome(what):
        if isinstance(what, Outcome):
            reporting.set()
            run.ledger.stored.clear()

    reporting = asyncio.Event()
    run.ledger.on_report = hold_the_outcome
    execution = asyncio.ensure_future(run.executor.execute(run.lease))
    await reporting.wait()
    execution.cancel()
    asyncio.get_running_loop().call_later(0.05, run.ledger.stored.set)
    await asyncio.wait({execution})
    assert execution.cancelled()
    assert [o.kind for o in run.ledger.outcomes] == [OutcomeKind.COMPLETED]


async def test_no_child_outlives_its_execution(world, zygote):
    spawned = []

    class Watched:
        async def spawn(self, task):
            spawned.append(await zygote.spawn(task))
            return spawned[-1]

    await Run(world, Watched()).execute()
    await eventually(lambda: not psutil.pid_exists(spawned[0].pid))


async def test_a_node_without_sandboxes_says_that_it_failed(world):
    class Gone:
        async def spawn(self, task):
            raise Unavailable("the zygote is gone")

    outcome = await Run(world, Gone()).execute()
    assert (outcome.kind, outcome.detail) == (
        OutcomeKind.NODE_FAILED,
        "no sandbox: the zygote is gone",
    )


async def test_a_mistake_of_the_node_crashes_one_run_and_not_the_node(world):
    class Broken:
        async def spawn(self, task):
            raise ZeroDivisionError("secret")

    outcome = await Run(world, Broken()).execute()
    assert outcome.kind is OutcomeKind.CRASHED
    assert outcome.detail == "the node failed: ZeroDivisionError"


async def test_a_journal_that_says_otherwise_ends_one_execution_and_sends_nothing(world, zygote):
    run = Run(world, zygote)

    def contradict(what):
        if isinstance(what, Step):
            raise Conflict("step 0 is recorded with another request")

    run.ledger.on_report = contradict
    outcome = await run.execute()
    assert outcome.kind is OutcomeKind.CRASHED
    assert "the journal says otherwise: step 0 is recorded" in outcome.detail
    assert (await world.model_requests(), await world.tries()) == ([], [])


async def test_a_document_that_cannot_be_read_is_rejected(world, zygote):
    outcome = await Run(world, zygote, document=b"\xff").execute()
    assert outcome.reason == Reason.DESERIALIZATION_ERROR


async def test_eight_runs_at_once_are_each_posted_once(world, zygote):
    runs = [Run(world, zygote, run_id=f"r{n}", effect_key=f"r{n}:1") for n in range(8)]
    outcomes = await asyncio.gather(*(run.execute() for run in runs))
    assert {o.kind for o in outcomes} == {OutcomeKind.COMPLETED}
    assert {r["key"] for r in await world.received()} == {f"r{n}:1" for n in range(8)}

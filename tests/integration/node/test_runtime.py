import asyncio
import contextlib
import time

import pytest
import structlog

from bpa.clocks import Clocks, boottime_s
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.specs import NodeSpec
from bpa.errors import NotFound, StaleLease, Unavailable
from bpa.node.lease import HeldLease, Stop
from bpa.node.link import ControlLink
from bpa.node.runtime import NodeRuntime
from bpa.protos.bpa.v1 import RegisterReply
from tests.eventually import eventually
from tests.integration.node.control_server import (
    ControlServer,
    an_offer,
    serving,
    unavailable,
)

COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)


class Clock:
    """Time as a test wants it to pass, on top of real time."""

    def __init__(self):
        self.ahead_s = 0.0

    def __call__(self):
        return boottime_s() + self.ahead_s


class HeldExecutor:
    """Executes until it is told how, or until its lease stops."""

    def __init__(self):
        self.running: dict[str, HeldLease] = {}
        self.stops: list[tuple[str, Stop]] = []
        self.started_good: list[bool] = []
        self.finish = asyncio.Event()

    async def execute(self, lease):
        self.running[lease.run_id] = lease
        self.started_good.append(lease.is_good)
        finish = asyncio.ensure_future(self.finish.wait())
        try:
            await asyncio.wait({finish, lease.stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            finish.cancel()
            del self.running[lease.run_id]
        if not lease.stopped.done():
            await lease.report(COMPLETED)
            return
        self.stops.append((lease.run_id, lease.stopped.result()))
        if lease.stopped.result() is Stop.HAND_BACK:
            await lease.report(Outcome(kind=OutcomeKind.HANDED_BACK))


class Wall:
    """A wall clock that a test sets wrong."""

    def __init__(self):
        self.off_s = 0.0

    def __call__(self):
        return time.time() + self.off_s


class Node:
    def __init__(self, runtime, executor, clock, wall):
        self.runtime, self.executor, self.clock, self.wall = runtime, executor, clock, wall


@pytest.fixture
def address(tmp_path):
    return str(tmp_path / "link")


@pytest.fixture
async def node(address):
    spec = NodeSpec(node_id="n1", boot_id="b1", slots=2)
    log, clock, executor, wall = structlog.get_logger(), Clock(), HeldExecutor(), Wall()
    clocks = Clocks(3.0, wall, boottime_s)
    async with ControlLink(address=address, node=spec, log=log, clocks=clocks) as link:
        runtime = NodeRuntime(
            link=link, executor=executor, log=log, clock=clock, watch_every_s=0.02
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(runtime.run())
            yield Node(runtime, executor, clock, wall)
            running.cancel()


@contextlib.asynccontextmanager
async def control_at(address, control=None):
    control = control or ControlServer()
    async with serving(control, address):
        yield control


async def test_a_run_is_acknowledged_executed_and_its_slot_is_freed(node, address):
    async with control_at(address) as control:
        control.offer(an_offer())
        await eventually(lambda: node.executor.running)
        assert control.acknowledged == [("r1", 1)]
        assert node.runtime.state.held == (("r1", 1),)
        assert node.runtime.state.slots_used == 1
        assert node.executor.started_good == [True]
        node.executor.finish.set()
        await eventually(lambda: not node.runtime.state.held)
        assert control.outcomes == [("r1", 1, COMPLETED)]


async def test_what_exceeds_the_slots_is_refused(node, address):
    async with control_at(address) as control:
        for name in ("r1", "r2", "r3"):
            control.offer(an_offer(name))
        await eventually(lambda: control.refused)
        assert control.refused == [("r3", 1, "all 2 slots are taken")]
        await eventually(lambda: set(node.executor.running) == {"r1", "r2"})


async def test_a_node_whose_clock_is_wrong_takes_no_leases_and_goes_on_with_those_it_has(
    node, address
):
    async with control_at(address) as control:
        control.clock = time.time
        control.offer(an_offer("r1"))
        await eventually(lambda: node.executor.running)
        await eventually(lambda: len(control.beats) > 1)
        assert node.runtime.state.clock is None
        assert not control.beats[-1].draining

        node.wall.off_s = 60.0
        assert "60 s ahead of control's" in node.runtime.state.clock
        await eventually(lambda: control.beats[-1].draining)
        control.offer(an_offer("r2"))
        await eventually(lambda: control.refused)
        assert "60 s ahead of control's" in control.refused[0][2]
        assert node.runtime.state.held == (("r1", 1),)
        assert [h.run_id for h in control.beats[-1].held] == ["r1"]
        assert not node.executor.stops

        node.wall.off_s = 0.0
        await eventually(lambda: not control.beats[-1].draining)
        control.offer(an_offer("r3"))
        await eventually(lambda: set(node.executor.running) == {"r1", "r3"})


async def test_a_slot_is_free_as_soon_as_the_outcome_is_on_its_way(node, address):
    control = ControlServer()
    async with control_at(address, control):
        for name in ("r1", "r2"):
            control.offer(an_offer(name))
        await eventually(lambda: len(node.executor.running) == 2)
        control.mute.set()
        node.executor.finish.set()
        await eventually(lambda: node.runtime.state.slots_used == 0)
        assert len(node.runtime.state.held) == 2
        node.executor.finish.clear()
        control.mute.clear()
        control.offer(an_offer("r1", epoch=2))
        await eventually(lambda: node.executor.running)
        assert control.refused == []
        assert node.runtime.state.held[0] == ("r1", 2)


async def test_an_offer_made_twice_is_taken_once(node, address):
    async with control_at(address) as control:
        control.offer(an_offer("r1"))
        control.offer(an_offer("r1"))
        control.offer(an_offer("r2"))
        await eventually(lambda: len(node.executor.running) == 2)
        assert control.acknowledged == [("r1", 1), ("r2", 1)]
        assert control.refused == []


async def test_a_newer_epoch_stops_the_older_execution(node, address):
    async with control_at(address) as control:
        control.offer(an_offer("r1", epoch=1))
        await eventually(lambda: node.executor.running)
        control.offer(an_offer("r1", epoch=2))
        await eventually(lambda: control.refused)
        assert node.executor.stops == [("r1", Stop.LOST)]


async def test_nothing_is_executed_before_the_acknowledgement_is_confirmed(node, address):
    control = ControlServer()
    control.mute.set()
    async with control_at(address, control):
        control.offer(an_offer())
        await eventually(lambda: control.report_ids)
        assert not node.executor.running
        assert node.runtime.state.slots_used == 1
    async with control_at(address):
        await eventually(lambda: node.executor.running)


async def test_an_acknowledgement_that_is_stale_frees_the_slot(node, address):
    control = ControlServer()

    def stale(request):
        raise StaleLease("moved on")

    control.on_report = stale
    async with control_at(address, control):
        control.offer(an_offer())
        await eventually(lambda: control.report_ids)
        await eventually(lambda: not node.runtime.state.held)
        assert not node.executor.started_good


async def test_a_report_that_control_answers_with_an_error_costs_its_own_run_alone(node, address):
    control = ControlServer()

    def unknown(request):
        if request.run_id == "r1":
            raise NotFound("no such run")

    control.on_report = unknown
    async with control_at(address, control):
        control.offer(an_offer("r1"))
        await eventually(lambda: control.report_ids)
        control.offer(an_offer("r2"))
        await eventually(lambda: set(node.executor.running) == {"r2"})
        assert node.runtime.state.held == (("r2", 1),)


async def test_a_report_that_control_cannot_store_is_repeated(node, address):
    control, failures = ControlServer(), iter([Unavailable("postgres is away")] * 2)

    def fail_twice(request):
        for failure in failures:
            raise failure

    control.on_report = fail_twice
    async with control_at(address, control):
        control.offer(an_offer())
        await eventually(lambda: node.executor.running)
        assert len(control.report_ids) == 3


async def test_heartbeats_list_what_is_held_and_renew_it(node, address):
    async with control_at(address) as control:
        control.offer(an_offer())
        await eventually(lambda: any(b.held for b in control.beats) and node.executor.running)
        lease = node.executor.running["r1"]
        good_until = lease._good_until_s
        await eventually(lambda: lease._good_until_s > good_until)
        assert [(h.run_id, h.epoch) for h in control.beats[-1].held] == [("r1", 1)]


async def test_a_lease_that_is_not_renewed_stops_itself(node, address):
    control = ControlServer()
    control.renews = False
    async with control_at(address, control):
        control.offer(an_offer(ttl_s=40.0))
        await eventually(lambda: node.executor.running)
        node.clock.ahead_s = 34.0
        assert node.executor.running["r1"].is_good
        node.clock.ahead_s = 36.0
        assert not node.executor.running["r1"].is_good
        await eventually(lambda: node.executor.stops == [("r1", Stop.EXPIRED)])
        assert control.outcomes == []


async def test_time_that_passed_while_suspended_ends_a_lease(node, address):
    control = ControlServer()
    async with control_at(address, control):
        control.offer(an_offer(ttl_s=40.0))
        await eventually(lambda: node.executor.running)
        control.renews = False
        node.clock.ahead_s = 3600.0
        await eventually(lambda: node.executor.stops == [("r1", Stop.EXPIRED)])


async def test_a_lost_lease_and_a_cancelled_run_are_stopped(node, address):
    async with control_at(address) as control:
        control.offer(an_offer("r1"))
        control.offer(an_offer("r2"))
        await eventually(lambda: len(node.executor.running) == 2)
        control.lost, control.cancel = {"r1"}, {"r2"}
        await eventually(lambda: len(node.executor.stops) == 2)
        assert dict(node.executor.stops) == {"r1": Stop.LOST, "r2": Stop.CANCELLED}


async def test_a_lease_in_hand_is_listed_before_its_acknowledgement_is_confirmed(node, address):
    async with control_at(address) as control:
        control.mute.set()
        control.lost = {"r1"}  # what control says of it means nothing yet
        control.offer(an_offer("r1"))
        await eventually(lambda: any(h.run_id == "r1" for b in control.beats for h in b.held))
        assert not node.executor.running
        control.lost = set()
        control.mute.clear()
    async with control_at(address) as control:
        await eventually(lambda: node.executor.running)
        assert control.acknowledged == [("r1", 1)]


async def test_a_heartbeat_that_fails_is_tried_again_before_the_next_is_due(node, address):
    async with control_at(address) as control:
        await eventually(lambda: control.beats)
        control.terms = RegisterReply(heartbeat_every_s=3600.0, lease_ttl_s=5.0)
        control.failing = 3
        control.forgotten = True  # it registers anew, and learns of the long interval
        await eventually(lambda: len(control.registrations) == 2)
        beats = len(control.beats)
        await eventually(lambda: len(control.beats) == beats + 1)
        assert control.failing == 0


async def test_a_node_registers_again_when_control_comes_back(node, address):
    async with control_at(address) as first:
        first.offer(an_offer())
        await eventually(lambda: node.executor.running)
    await eventually(lambda: not node.runtime.state.registered)
    async with control_at(address) as second:
        await eventually(lambda: second.registrations and second.beats)
        assert second.registrations[0] == first.registrations[0]
        assert [h.run_id for h in second.beats[0].held] == ["r1"]
        node.executor.finish.set()
        await eventually(lambda: second.outcomes == [("r1", 1, COMPLETED)])


async def test_a_node_that_control_has_forgotten_registers_again(node, address):
    async with control_at(address) as control:
        control.offer(an_offer())
        await eventually(lambda: node.executor.running)
        control.forgotten = True
        await eventually(lambda: len(control.registrations) == 2)
        await eventually(lambda: any(b.held for b in control.beats))
        assert node.runtime.state.registered
        assert node.executor.stops == []


async def test_a_refused_registration_is_tried_again(node, address):
    control = ControlServer()
    control.refuse_registration = unavailable("another process has this id")
    async with control_at(address, control):
        await eventually(lambda: control.refuse_registration is not None)
        assert not node.runtime.state.registered
        control.refuse_registration = None
        await eventually(lambda: node.runtime.state.registered)


async def test_a_node_that_an_operator_drains_says_so_until_it_is_called_off(node, address):
    async with control_at(address) as control:
        control.cordoned = control.draining = True
        await eventually(lambda: node.runtime.state.draining and node.runtime.state.cordoned)
        control.draining = False
        await eventually(lambda: not node.runtime.state.draining)
        assert node.runtime.state.cordoned
        control.cordoned = False
        await eventually(lambda: not node.runtime.state.cordoned)
        assert control.outcomes == [], "a drain before its deadline stops nothing"


async def test_an_offer_to_a_drained_node_is_for_control_to_judge(node, address):
    async with control_at(address) as control:
        control.cordoned = control.draining = True
        await eventually(lambda: node.runtime.state.draining)
        control.offer(an_offer())  # uncordoned meanwhile: the next heartbeat will tell
        await eventually(lambda: node.executor.running)
        assert control.refused == []


async def test_what_is_left_at_the_deadline_of_an_operator_is_handed_back(node, address):
    async with control_at(address) as control:
        control.offer(an_offer("r1"))
        control.offer(an_offer("r2"))
        await eventually(lambda: len(node.executor.running) == 2)
        control.cordoned = control.draining = control.hand_back = True
        await eventually(lambda: len(control.outcomes) == 2)
        assert {(run, o.kind) for run, _, o in control.outcomes} == {
            ("r1", OutcomeKind.HANDED_BACK),
            ("r2", OutcomeKind.HANDED_BACK),
        }
        assert set(node.executor.stops) == {("r1", Stop.HAND_BACK), ("r2", Stop.HAND_BACK)}
        control.cordoned = control.draining = control.hand_back = False
        control.offer(an_offer("r3"))
        await eventually(lambda: set(node.executor.running) == {"r3"})


async def test_a_node_that_starts_drained_knows_it_from_its_registration(node, address):
    control = ControlServer()
    control.terms = RegisterReply(
        heartbeat_every_s=60.0, lease_ttl_s=15.0, cordoned=True, draining=True
    )
    async with control_at(address, control):
        await eventually(lambda: node.runtime.state.registered)
        assert (node.runtime.state.cordoned, node.runtime.state.draining) == (True, True)


async def test_drain_waits_for_what_runs(node, address):
    async with control_at(address) as control:
        control.offer(an_offer())
        await eventually(lambda: node.executor.running)
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(node.runtime.drain(30.0))
            await eventually(lambda: node.runtime.state.draining)
            assert not drained.done()
            node.executor.finish.set()
        assert control.outcomes == [("r1", 1, COMPLETED)]
        assert node.runtime.state.held == ()


async def test_drain_hands_back_what_is_left_at_its_deadline(node, address):
    async with control_at(address) as control:
        control.offer(an_offer())
        await eventually(lambda: node.executor.running)
        await node.runtime.drain(0.05)
        assert [o.kind for _, _, o in control.outcomes] == [OutcomeKind.HANDED_BACK]
        assert node.executor.stops == [("r1", Stop.HAND_BACK)]


async def test_drain_ends_while_control_is_away(node, address):
    control = ControlServer()
    control.terms = RegisterReply(heartbeat_every_s=0.05, lease_ttl_s=1.0)
    async with control_at(address, control):
        control.offer(an_offer(ttl_s=1.0))
        await eventually(lambda: node.executor.running)
    await node.runtime.drain(0.05)
    assert node.runtime.state.held == ()


async def test_drain_ends_although_a_refusal_was_never_answered(node, address):
    control = ControlServer()
    async with control_at(address, control):
        for name in ("r1", "r2"):
            control.offer(an_offer(name, ttl_s=0.5))
        await eventually(lambda: len(node.executor.running) == 2)
        control.mute.set()
        control.offer(an_offer("r3", ttl_s=0.5))
        await eventually(lambda: len(control.report_ids) == 3)
    async with asyncio.timeout(10):
        await node.runtime.drain(0.05)

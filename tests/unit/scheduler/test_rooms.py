import pytest

from bpa.domain.runs import DeploymentId
from bpa.scheduler.breakers import BreakerState
from bpa.scheduler.fleet import Needs
from bpa.scheduler.rooms import room, rooms
from tests.unit.scheduler.fleets import NOW, deployment, gate, node, snapshot

DEP = DeploymentId("dep-1")


def room_of(nodes, **more):
    return room(snapshot(nodes, [deployment(**more)], []), DEP)


def test_the_room_is_the_free_slots_within_the_limit():
    assert room_of([node(slots=8, used_slots=3)], budget=99) == 5
    assert room_of([node(slots=8)], budget=6, leased=4) == 2


def test_runs_that_wait_already_take_their_part_of_the_room():
    assert room_of([node(slots=8)], budget=99, waiting=5) == 3
    assert room_of([node(slots=8)], budget=99, waiting=50) == 0


def test_one_run_may_always_come_in_to_say_why_it_waits():
    assert room_of([]) == 1
    assert room_of([], waiting=1) == 0
    assert room_of([node(draining=True), node(age_s=60)]) == 1
    assert room_of([node(slots=8)], budget=4, leased=4) == 1


def test_only_nodes_that_may_take_the_run_count():
    needs = Needs((("region", ("x",)),), cpu_millis=300, memory_bytes=100)
    nodes = [
        node("a", 8, labels={"region": "x"}, cpu_millis=1000, used_cpu_millis=150),
        node("b", 8, labels={"region": "x"}, memory_bytes=350),
        node("c", 8, labels={"region": "y"}),
        node("d", 2, labels={"region": "x"}),
    ]
    assert room_of(nodes, budget=99, needs=needs) == 2 + 3 + 2


def test_a_paused_and_an_unknown_deployment_have_no_room():
    assert room_of([node()], active=False) == 0
    assert room(snapshot([node()], [], []), DEP) == 0


def test_rooms_say_as_of_when_they_hold():
    [found] = rooms(snapshot([node()], [deployment()], [])).values()
    assert found.as_of == NOW


@pytest.mark.parametrize(
    ("running", "ahead"), [(0, 1), (3, 1), (4, 1), (8, 2), (40, 10), (64, 16), (1000, 16)]
)
def test_a_few_may_wait_ahead_of_a_full_fleet(running, ahead):
    full = [node(slots=running, used_slots=running)]
    assert room_of(full, budget=2000, leased=running) == ahead


def test_an_open_target_has_no_room_but_for_a_new_run_to_probe_with():
    nodes = [node(slots=8)]
    assert room_of(nodes, gate=gate(BreakerState.OPEN, 1)) == 0
    assert room_of(nodes, gate=gate(BreakerState.OPEN, 0, untried=False), waiting=9) == 1


def test_a_target_that_answers_again_has_room_for_what_may_go_there_at_once():
    closing = gate(BreakerState.CLOSING, 4, ramp=4)
    assert room_of([node(slots=8)], budget=8, gate=closing) == 4
    assert room_of([node(slots=8)], budget=8, gate=closing, waiting=6) == 0

"""Runs that have to be alone on their node, because they may be what kills it."""

import random

import pytest

from bpa.scheduler.constraints import Why
from bpa.scheduler.planner import plan
from bpa.scheduler.rooms import rooms
from tests.unit.scheduler.fleets import deployment, node, runs, snapshot

LONER = runs(1, alone=True)


def test_it_takes_an_empty_node_and_nothing_is_placed_beside_it():
    others = runs(20, first=1)
    made = plan(snapshot([node("a", 4), node("b", 4)], [deployment(budget=99)], LONER + others))
    by_node = {n: [p.run for p in made.proposals if p.node.node_id == n] for n in ("a", "b")}
    [alone_on] = [n for n, placed in by_node.items() if LONER[0] in placed]
    assert by_node[alone_on] == LONER
    assert sorted(len(placed) for placed in by_node.values()) == [1, 4]
    reasons = {left.explanation.nodes[alone_on] for left in made.unplaced}
    assert reasons == {"a run works there that has to be alone"}


def test_nothing_joins_one_that_works():
    nodes = [node("a", 4, used_slots=1, has_loner=True)]
    [left] = plan(snapshot(nodes, [deployment()], runs(1))).unplaced
    assert left.explanation.why is Why.ALONE
    assert left.explanation.summary == (
        "no node may be shared: a a run works there that has to be alone"
    )


def test_one_node_is_emptied_for_it_while_the_others_go_on():
    nodes = [node("a", 4, used_slots=2), node("b", 4, used_slots=1), node("c", 4, used_slots=3)]
    made = plan(snapshot(nodes, [deployment(budget=99)], LONER + runs(9, first=1)))
    assert {p.node.node_id for p in made.proposals} == {"a", "c"}
    [left] = [left for left in made.unplaced if left.run in LONER]
    assert left.explanation.summary.startswith(
        "must be alone on a node after 3 infrastructure failures; no node may be shared: "
    )
    assert left.explanation.nodes["b"] == "other runs work there"
    [other] = {left.explanation.nodes["b"] for left in made.unplaced if left.run not in LONER}
    assert other == "kept free for a run that has to be alone"


def test_no_node_is_kept_for_a_run_that_its_deployment_holds_back():
    nodes = [node("a", 4, used_slots=1)]
    full = deployment("full", budget=1, leased=1)
    waiting = runs(1, "full", alone=True) + runs(2)
    made = plan(snapshot(nodes, [full, deployment()], waiting))
    assert len(made.proposals) == 2


def passes_until_placed(loner, names, *, budget, slots=3, most=200):
    """Return how many runs of a full fleet end, whichever, before the loner gets a place."""
    ends = random.Random(1)
    fresh = {dep: iter(runs(999, dep, first=1)) for dep in ("dep-1", "other")}
    waiting = [next(queue) for queue in fresh.values() for _ in range(20)]
    leases: list[tuple[str, str]] = []
    for ended in range(most):
        nodes = [node(n, slots, used_slots=sum(on == n for on, _ in leases)) for n in names]
        leased = sum(dep == "dep-1" for _, dep in leases)
        deployments = [deployment(budget=budget, leased=leased), deployment("other", budget=99)]
        for proposal in plan(snapshot(nodes, deployments, waiting, seed=ended)).proposals:
            if proposal.run is loner:
                return ended
            dep = proposal.deployment.dep_id
            leases.append((proposal.node.node_id, dep))
            waiting[waiting.index(proposal.run)] = next(fresh[dep])
        waiting = waiting if loner in waiting else [loner, *waiting]
        leases.pop(ends.randrange(len(leases)))
    return most


@pytest.mark.parametrize("budget", [1, 2])
def test_in_a_busy_fleet_the_runs_of_its_own_deployment_do_not_keep_it_waiting_for_ever(budget):
    busy = runs(1, alone=True)[0]
    names = ("a", "b", "c")
    assert 0 < passes_until_placed(busy, names, budget=budget) < 60


def test_a_node_that_it_could_not_have_is_not_kept():
    nodes = [node("silent", 4, age_s=99), node("b", 4, used_slots=3)]
    made = plan(snapshot(nodes, [deployment()], LONER + runs(1, first=1)))
    assert made.proposals == (), "the only node that answers is emptied"


def test_it_does_not_hold_up_those_behind_it():
    nodes = [node("a", 4, used_slots=1), node("b", 4, used_slots=2)]
    made = plan(snapshot(nodes, [deployment()], LONER + runs(1, first=1)))
    assert [p.node.node_id for p in made.proposals] == ["b"]


def test_a_node_that_is_taken_or_kept_for_it_is_no_room_for_others():
    seen = snapshot([node("a", 4)], [deployment(budget=99, waiting=1)], LONER)
    assert rooms(seen)["dep-1"].runs == 0
    made = plan(seen)
    assert len(made.proposals) == 1
    assert rooms(seen, made.proposals)["dep-1"].runs == 1, "one may wait ahead"

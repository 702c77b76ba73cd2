from collections import Counter
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from bpa.domain.runs import NodeId
from bpa.domain.specs import DeploymentSpec, Placement, Resources, Target
from bpa.scheduler.breakers import BreakerState
from bpa.scheduler.constraints import Why
from bpa.scheduler.fleet import Needs, needs_of
from bpa.scheduler.planner import plan
from tests.unit.scheduler.fleets import deployment, gate, node, runs, snapshot

AUSTRALIA = Needs((("region", ("aus-east",)),))


def placed_on(plan_):
    return Counter(proposal.node.node_id for proposal in plan_.proposals)


def test_runs_go_to_the_node_with_the_smallest_share_of_used_slots():
    nodes = [node("big", 8), node("small", 4, used_slots=1), node("full", 2, used_slots=2)]
    assert placed_on(plan(snapshot(nodes, [deployment(budget=9)], runs(6)))) == {
        "big": 5,
        "small": 1,
    }


def test_the_oldest_runs_of_a_deployment_go_first():
    made = plan(snapshot([node(slots=2)], [deployment()], runs(5)))
    assert [proposal.run.run_id for proposal in made.proposals] == ["dep-1-0", "dep-1-1"]
    assert [left.run_id for left in made.unplaced] == ["dep-1-2", "dep-1-3", "dep-1-4"]


def test_a_long_backlog_of_one_deployment_does_not_starve_another():
    waiting = [*runs(100, "old"), *runs(3, "new", first=500)]
    deployments = [deployment("old", budget=100, leased=7), deployment("new", budget=100)]
    made = plan(snapshot([node(slots=12, used_slots=7)], deployments, waiting))
    assert Counter(p.run.dep_id for p in made.proposals) == {"new": 3, "old": 2}


def test_of_two_deployments_that_use_as_much_the_one_that_waits_longer_goes_first():
    waiting = [*runs(1, "b"), *runs(1, "a", first=5)]
    made = plan(snapshot([node(slots=1)], [deployment("a"), deployment("b")], waiting))
    assert [proposal.run.dep_id for proposal in made.proposals] == ["b"]


def test_a_run_without_an_admissible_region_says_which_nodes_have_which():
    nodes = [node("node-1", labels={"region": "eu-west"}), node("node-2")]
    [left] = plan(snapshot(nodes, [deployment(needs=AUSTRALIA)], runs(1))).unplaced
    assert left.explanation.why is Why.LABELS
    assert left.explanation.summary == (
        "no node has region in [aus-east]: node-1 region=eu-west, node-2 no region"
    )
    assert left.explanation.nodes == {"node-1": "region=eu-west", "node-2": "no region"}


def test_a_run_goes_only_where_its_labels_allow():
    nodes = [
        node("here", 1, labels={"region": "aus-east"}),
        node("there", 9, labels={"region": "eu"}),
    ]
    made = plan(snapshot(nodes, [deployment(needs=AUSTRALIA)], runs(3)))
    assert placed_on(made) == {"here": 1}
    assert made.unplaced[0].explanation.summary == (
        "no node fits: 1 with other labels, 1 without a free slot"
    )


def test_a_draining_a_cordoned_and_a_silent_node_get_nothing():
    nodes = [
        node("leaving", cordoned=True, draining=True),
        node("kept", cordoned=True),
        node("gone", age_s=10.5),
        node("late", age_s=9.5),
    ]
    made = plan(snapshot(nodes, [deployment(budget=20)], runs(9)))
    assert placed_on(made) == {"late": 8}
    assert made.unplaced[0].explanation.nodes == {
        "leaving": "draining",
        "kept": "cordoned",
        "gone": "no heartbeat since 2026-03-01T11:59:49Z",
        "late": "all 8 slots used",
    }


def test_the_slot_budget_limits_what_runs_at_once_and_says_so():
    made = plan(snapshot([node(slots=99)], [deployment(budget=4, leased=3)], runs(3)))
    assert len(made.proposals) == 1
    assert {left.explanation.summary for left in made.unplaced} == {"slot budget of 4 is used"}
    assert made.unplaced[0].explanation.why is Why.SLOT_BUDGET


def test_replicas_multiply_the_slot_budget():
    made = plan(snapshot([node(slots=99)], [deployment(budget=2, replicas=3)], runs(7)))
    assert len(made.proposals) == 6
    assert made.unplaced[0].explanation.summary == "slot budget of 2 x 3 replicas is used"


def test_a_paused_deployment_starts_nothing():
    made = plan(snapshot([node()], [deployment(active=False)], runs(2)))
    assert not made.proposals
    assert made.unplaced[0].explanation.summary == "the deployment is paused"


def test_a_node_gives_no_more_cpu_and_memory_than_it_declares():
    needs = Needs(cpu_millis=500, memory_bytes=2**30)
    nodes = [
        node("cpu", 9, cpu_millis=1200, used_cpu_millis=100),
        node("memory", 9, memory_bytes=3 * 2**30, used_memory_bytes=2**29),
    ]
    made = plan(snapshot(nodes, [deployment(budget=20, needs=needs)], runs(9)))
    assert placed_on(made) == {"cpu": 2, "memory": 2}
    assert made.unplaced[0].explanation.nodes == {
        "cpu": "cpu: needs 500m of 1200m, too little is free",
        "memory": "memory: needs 1024Mi of 3072Mi, too little is free",
    }


def test_an_empty_fleet_is_a_reason_too():
    [left] = plan(snapshot([], [deployment()], runs(1))).unplaced
    assert (left.explanation.why, left.explanation.summary) == (
        Why.NO_NODES,
        "no node is registered",
    )


def test_a_summary_of_a_large_fleet_stays_one_short_line():
    nodes = [node(f"node-{n:03}", 1, used_slots=1) for n in range(200)]
    [left] = plan(snapshot(nodes, [deployment()], runs(1))).unplaced
    assert left.explanation.summary.endswith("node-002 all 1 slots used and 197 more")
    assert len(left.explanation.nodes) == 200


def test_ties_are_broken_by_the_seed_alone():
    nodes = [node(f"node-{n}") for n in range(10)]
    first = {
        plan(snapshot(nodes, [deployment()], runs(1), seed=seed)).proposals[0].node.node_id
        for seed in range(40)
    }
    assert len(first) > 3
    again = [plan(snapshot(nodes, [deployment()], runs(4), seed=3)) for _ in range(2)]
    assert again[0] == again[1]


def test_the_needs_of_a_deployment_come_from_its_placement_and_resources():
    spec = DeploymentSpec(
        agent_id="a",
        version="1",
        environment="dev",
        target=Target(resources=Resources(cpu="500m", memory="1Gi")),
        placement=Placement(affinity={"region": ["aus-east", "aus-west"], "disk": ["ssd"]}),
    )
    affinity = (("disk", ("ssd",)), ("region", ("aus-east", "aus-west")))
    assert needs_of(spec) == Needs(affinity, 500, 2**30)


LABELS = st.dictionaries(st.sampled_from(["region", "disk"]), st.sampled_from(["x", "y"]))
AFFINITY = st.dictionaries(
    st.sampled_from(["region", "disk"]),
    st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=2, unique=True),
)


@st.composite
def snapshots(draw):
    nodes = [
        node(
            f"node-{n}",
            draw(st.integers(0, 4)),
            age_s=draw(st.sampled_from([0, 60])),
            labels=draw(LABELS),
            cordoned=draw(st.booleans()),
            draining=draw(st.booleans()),
            used_slots=draw(st.integers(0, 3)),
            cpu_millis=draw(st.sampled_from([0, 1000, 2000])),
            used_cpu_millis=draw(st.sampled_from([0, 500])),
            memory_bytes=draw(st.sampled_from([0, 2**30])),
        )
        for n in range(draw(st.integers(0, 6)))
    ]
    deployments, waiting = [], []
    for n in range(draw(st.integers(1, 4))):
        affinity = tuple(sorted((k, tuple(v)) for k, v in draw(AFFINITY).items()))
        needs = Needs(affinity, draw(st.sampled_from([0, 500])), draw(st.sampled_from([0, 2**29])))
        deployments.append(
            deployment(
                f"dep-{n}",
                budget=draw(st.integers(0, 5)),
                replicas=draw(st.integers(0, 2)),
                active=draw(st.booleans()),
                leased=draw(st.integers(0, 3)),
                needs=needs,
            )
        )
        waiting += runs(draw(st.integers(0, 8)), f"dep-{n}", first=draw(st.integers(0, 9)))
    return snapshot(nodes, deployments, waiting, seed=draw(st.integers(0, 2**32)))


@given(snapshots())
def test_every_waiting_run_is_either_placed_once_or_says_why_not(given_):
    made = plan(given_)
    ids = [p.run.run_id for p in made.proposals] + [u.run_id for u in made.unplaced]
    assert sorted(ids) == sorted(run.run_id for run in given_.waiting)
    for left in made.unplaced:
        explanation = left.explanation
        assert explanation.summary
        if explanation.why not in {Why.SLOT_BUDGET, Why.PAUSED}:
            assert explanation.nodes.keys() == {n.node_id for n in given_.nodes}
            assert all(explanation.nodes.values())


@given(snapshots())
def test_no_plan_exceeds_a_node_or_a_deployment(given_):
    made = plan(given_)
    for one in given_.nodes:
        mine = [p for p in made.proposals if p.node is one]
        if not mine:
            continue
        assert not one.draining
        assert not one.cordoned
        assert given_.now - one.heartbeat_at <= timedelta(seconds=10)
        assert one.used_slots + len(mine) <= one.slots
        cpu = one.used_cpu_millis + sum(p.deployment.needs.cpu_millis for p in mine)
        memory = one.used_memory_bytes + sum(p.deployment.needs.memory_bytes for p in mine)
        assert cpu <= one.cpu_millis or not one.cpu_millis
        assert memory <= one.memory_bytes or not one.memory_bytes
        for p in mine:
            for label, values in p.deployment.needs.affinity:
                assert one.labels[label] in values
    for dep_id, count in Counter(p.run.dep_id for p in made.proposals).items():
        dep = given_.deployments[dep_id]
        assert dep.active
        assert dep.leased + count <= dep.run_limit


@given(snapshots())
def test_a_plan_is_a_function_of_its_snapshot(given_):
    assert plan(given_) == plan(given_)


@given(snapshots())
def test_no_run_waits_for_nodes_while_one_of_them_would_take_it(given_):
    made = plan(given_)
    used = Counter(p.node.node_id for p in made.proposals)
    for left in made.unplaced:
        for node_id, text in left.explanation.nodes.items():
            one = next(n for n in given_.nodes if n.node_id == NodeId(node_id))
            if text.startswith("all "):
                assert one.used_slots + used[node_id] >= one.slots
            if text in ("draining", "cordoned"):
                assert getattr(one, text)


def test_deployments_of_one_failing_host_share_what_its_breaker_leaves_them():
    deployments = [
        deployment("a", budget=9, gate=gate(BreakerState.CLOSING, 2, ramp=4)),
        deployment("b", budget=9, gate=gate(BreakerState.CLOSING, 2, ramp=4)),
        deployment("c", budget=9, gate=gate(BreakerState.CLOSING, 3, ramp=4, host="http://other")),
        deployment("d", budget=9),
    ]
    waiting = [run for name in "abcd" for run in runs(5, name)]
    made = plan(snapshot([node(slots=99)], deployments, waiting))
    placed = Counter(proposal.run.dep_id for proposal in made.proposals)
    assert placed == {"a": 1, "b": 1, "c": 3, "d": 5}
    assert {left.explanation.why for left in made.unplaced} == {Why.TARGET}


def test_a_run_of_a_failing_target_says_so_with_the_time_of_the_next_probe():
    parked = deployment(gate=gate(BreakerState.OPEN, 0))
    [left] = plan(snapshot([node()], [parked], runs(1))).unplaced
    assert left.explanation.summary == (
        "parked: target http://target:80 fails (HTTP 503); probed next at 2026-03-01T12:00:05Z"
    )

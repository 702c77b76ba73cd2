"""What an edit would mean for the fleet, judged as the planner judges."""

from datetime import UTC, datetime, timedelta

from bpa.domain.runs import NodeId
from bpa.domain.specs import DeploymentSpec, Placement, Resources, Target
from bpa.scheduler.fleet import Node, Snapshot
from bpa.scheduler.simulation import simulate

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def node(name: str, **more: object) -> Node:
    values = {"slots": 4, "heartbeat_at": NOW, "labels": {"region": "east"}, **more}
    return Node(NodeId(name), f"boot-{name}", **values)  # type: ignore[arg-type]


def fleet(*nodes: Node) -> Snapshot:
    return Snapshot(NOW, 1, nodes, {}, ())


def spec(slots: int = 4, *, region: str = "", cpu: str = "0", replicas: int = 1) -> DeploymentSpec:
    return DeploymentSpec(
        agent_id="a",
        version="1",
        environment="dev",
        target=Target(slot_budget=slots, replicas=replicas, resources=Resources(cpu=cpu)),
        placement=Placement({"region": [region]} if region else {}),
    )


def test_a_node_that_is_full_qualifies_and_says_that_it_is_full():
    effect = simulate(fleet(node("n1", used_slots=4), node("n2")), spec(), spec(8), {"n1": 4})
    full, free = effect.nodes
    assert (full.after.refuses, full.after.waits) == (None, "all 4 slots used")
    assert (full.after.places, full.after.free, full.at_work) == (4, 0, 4)
    assert (free.after.waits, free.after.free) == (None, 4)
    assert (effect.before.free, effect.after.free) == (0, 4)
    assert (effect.before.at_once, effect.after.at_once) == (4, 8)


def test_each_node_that_would_refuse_says_why():
    effect = simulate(
        fleet(
            node("west", labels={"region": "west"}),
            node("bare", labels={}),
            node("mute", heartbeat_at=NOW - timedelta(minutes=1)),
            node("leaving", draining=True),
            node("closed", cordoned=True),
            node("small", cpu_millis=500),
            node("good"),
        ),
        spec(),
        spec(region="east", cpu="1"),
        {},
    )
    assert {one.node_id: one.after.refuses for one in effect.nodes} == {
        "west": "region=west",
        "bare": "no region",
        "mute": "no heartbeat since 2026-02-28T23:59:00Z",
        "leaving": "draining",
        "closed": "cordoned",
        "small": "cpu: needs 1000m of 500m, too little is free",
        "good": None,
    }
    assert [one.node_id for one in effect.nodes if one.before.refuses is None] == [
        "west", "bare", "small", "good",
    ]  # fmt: skip
    assert (effect.before.places, effect.after.places) == (16, 4)


def test_runs_beyond_the_new_limit_and_on_nodes_that_qualify_no_more_are_counted():
    nodes = fleet(node("e", used_slots=3), node("w", labels={"region": "west"}, used_slots=2))
    effect = simulate(nodes, spec(3, replicas=2), spec(2, region="west"), {"e": 3, "w": 2})
    assert (effect.at_work, effect.over, effect.stranded) == (5, 3, 3)
    assert (effect.before.limit, effect.after.limit, effect.after.free) == (6, 2, 0)


def test_resources_bound_what_a_node_can_hold():
    effect = simulate(fleet(node("n", cpu_millis=2000, slots=8)), spec(8), spec(8, cpu="500m"), {})
    assert (effect.before.places, effect.after.places, effect.after.at_once) == (8, 4, 4)


def test_a_run_that_has_to_be_alone_hides_no_node_that_qualifies():
    effect = simulate(fleet(node("n", used_slots=1, has_loner=True)), spec(), spec(), {})
    (one,) = effect.nodes
    assert (one.after.refuses, one.after.places, one.after.free) == (None, 4, 0)
    assert one.after.waits == "a run works there that has to be alone"

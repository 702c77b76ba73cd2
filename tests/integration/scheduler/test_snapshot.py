from bpa.domain.runs import DeploymentId
from bpa.scheduler.fleet import Needs
from bpa.scheduler.planner import plan


async def test_a_snapshot_holds_nodes_with_what_their_leases_take(fleet, replica):
    await fleet.deployment(cpu="250m", memory="64Mi", affinity={"region": ["x"]})
    await fleet.node("n", 8, labels={"region": "x"}, cpu_millis=4000, memory_bytes=2**30)
    await fleet.runs(3)
    await replica.committer.commit(plan(await replica.reader.read()))
    await fleet.runs(2)
    seen = await replica.reader.read()
    [node] = seen.nodes
    assert (node.node_id, node.boot_id, node.slots) == ("n", "boot-1", 8)
    assert (node.cpu_millis, node.memory_bytes, dict(node.labels)) == (4000, 2**30, {"region": "x"})
    assert (node.used_slots, node.used_cpu_millis, node.used_memory_bytes) == (3, 750, 3 * 2**26)
    deployment = seen.deployments[DeploymentId("dep-1")]
    assert deployment.needs == Needs((("region", ("x",)),), 250, 2**26)
    assert (deployment.run_limit, deployment.leased, deployment.waiting) == (4, 3, 2)
    assert len(seen.waiting) == 2


async def test_runs_that_back_off_count_as_waiting_but_are_not_planned(fleet, replica):
    await fleet.deployment()
    later, due = await fleet.runs(2)
    await fleet.rows(
        "update runs set not_before = now() + interval '1 hour' where run_id = %(id)s::uuid",
        id=later,
    )
    seen = await replica.reader.read()
    assert [run.run_id for run in seen.waiting] == [due]
    assert seen.deployments[DeploymentId("dep-1")].waiting == 2


async def test_a_snapshot_is_cut_fairly_between_deployments_and_oldest_first(fleet, replica):
    await fleet.deployment("long")
    await fleet.deployment("short")
    old = await fleet.runs(300, "long")
    new = await fleet.runs(5, "short")
    waiting = [run.run_id for run in (await replica.reader.read()).waiting]
    assert len(waiting) == 256
    assert set(new) <= set(waiting)
    assert [run_id for run_id in waiting if run_id in set(old)] == old[:251]


async def test_other_environments_are_left_alone_and_paused_deployments_seen(fleet, replica):
    await fleet.deployment("mine")
    await fleet.deployment("other", env="prod")
    await fleet.runs(1, "mine")
    await fleet.runs(1, "other")
    await fleet.rows("update deployments set status = '{\"active\": false}' where dep_id = 'mine'")
    seen = await replica.reader.read()
    assert {d.dep_id: d.active for d in seen.deployments.values()} == {"mine": False}
    assert len(seen.waiting) == 1


async def test_a_changed_deployment_is_read_again(fleet, replica):
    await fleet.deployment(budget=4)
    assert (await replica.reader.read()).deployments[DeploymentId("dep-1")].run_limit == 4
    await fleet.deployment(budget=9)
    changed = (await replica.reader.read()).deployments[DeploymentId("dep-1")]
    assert (changed.run_limit, changed.revision) == (9, 2)


async def test_draining_cordoned_and_long_silent_nodes_are_told_apart(fleet, replica):
    for name in ("here", "kept", "emptied", "leaving", "gone"):
        await fleet.node(name)
    for change, name in (
        ("cordoned_at = now()", "kept"),
        ("cordoned_at = now(), drain_started_at = now(), drain_deadline_at = now()", "emptied"),
        ("status = '{\"closing\": true}'", "leaving"),
        ("heartbeat_at = now() - interval '2 hours'", "gone"),
    ):
        await fleet.rows(f"update nodes set {change} where node_id = %(name)s", name=name)
    seen = await replica.reader.read()
    assert {node.node_id: (node.cordoned, node.draining) for node in seen.nodes} == {
        "here": (False, False),
        "kept": (True, False),
        "emptied": (True, True),
        "leaving": (False, True),
    }

"""What the census counts, and for how long it shows a node."""

from __future__ import annotations

import pytest

from bpa.control.census import Census
from bpa.domain.specs import NodeSpec
from bpa.telemetry.metrics import Metrics, exposition
from tests.integration.control.fleet import Fleet


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def census(fleet: Fleet, metrics: Metrics) -> Census:
    return Census(fleet.pool, metrics, silent_after_s=10.0, gone_after_s=900.0)


def shown(metrics: Metrics) -> dict[str, float]:
    lines = exposition(metrics).decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if line[0] != "#")
    return {name: float(value) for name, value in samples if "node" in name or "leases_" in name}


async def change(fleet: Fleet, what: str) -> None:
    async with fleet.pool.connection() as connection:
        await connection.execute(f"update nodes set {what} where node_id = 'node-1'")


async def a_node(fleet: Fleet) -> None:
    await fleet.nodes.register(NodeSpec(node_id="node-1", boot_id="boot-1", slots=4))


async def test_a_node_shows_its_slots_and_when_it_was_heard_of(
    fleet: Fleet, census: Census, metrics: Metrics
) -> None:
    await a_node(fleet)
    await fleet.running(1)
    await change(fleet, "heartbeat_at = now() - interval '7 s'")
    assert await census.one_pass() == 1
    series = shown(metrics)
    assert series['node_slots_used{node="node-1"}'] == 1
    assert series['bpa_node_slots_capacity{node="node-1"}'] == 4
    assert 7 <= series['bpa_node_heartbeat_age_seconds{node="node-1"}'] < 17
    assert series['bpa_node_drain_overdue_seconds{node="node-1"}'] == 0
    assert series["bpa_leases_active"] == 1


async def test_a_drain_is_overdue_while_leases_are_held_beyond_its_deadline(
    fleet: Fleet, census: Census, metrics: Metrics
) -> None:
    ago = "now() - interval '30 s'"
    await a_node(fleet)
    await change(fleet, f"cordoned_at = {ago}, drain_started_at = {ago}, drain_deadline_at = {ago}")
    await census.one_pass()
    assert shown(metrics)['bpa_node_drain_overdue_seconds{node="node-1"}'] == 0, "it is empty"
    await fleet.running(1)
    await census.one_pass()
    assert 30 <= shown(metrics)['bpa_node_drain_overdue_seconds{node="node-1"}'] < 40


@pytest.mark.parametrize(
    "change_made",
    [
        "heartbeat_at = now() - interval '16 min'",
        "status = '{\"closing\": true}', stream_ended_at = now() + interval '1 s'",
        "status = '{\"closing\": true}', heartbeat_at = now() - interval '11 s'",
    ],
    ids=["silent for long", "closed", "closed over REST"],
)
async def test_a_node_that_is_gone_keeps_no_series_unless_it_holds_leases(
    fleet: Fleet, census: Census, metrics: Metrics, change_made: str
) -> None:
    await a_node(fleet)
    await fleet.running(1)
    await census.one_pass()
    await change(fleet, change_made)
    assert await census.one_pass() == 1, "somebody has to hear that its leases are still there"
    async with fleet.pool.connection() as connection:
        await connection.execute("delete from leases")
    assert await census.one_pass() == 0
    assert [name for name in shown(metrics) if "node=" in name] == []


async def test_a_node_that_goes_silent_stays_shown_while_it_may_come_back(
    fleet: Fleet, census: Census, metrics: Metrics
) -> None:
    await a_node(fleet)
    await change(fleet, "heartbeat_at = now() - interval '5 min', stream_ended_at = now()")
    await census.one_pass()
    assert shown(metrics)['bpa_node_heartbeat_age_seconds{node="node-1"}'] >= 300

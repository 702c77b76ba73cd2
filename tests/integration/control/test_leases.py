"""Offers, acknowledgements, renewals and lapses."""

import asyncio

import pytest

from bpa.control.leases import _QUERIES, _over
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind, Usage
from bpa.domain.specs import DeploymentSpec, HttpOutSpec, NodeSpec
from bpa.errors import NotFound, StaleLease
from bpa.postgres import fetch_all
from bpa.scheduler.snapshot import SnapshotReader
from tests.eventually import eventually
from tests.integration.control.fleet import AGENT, PRICE, Fleet, arrival


async def test_an_offer_reaches_the_stream_of_its_node(fleet: Fleet):
    await fleet.register()
    run_id = await fleet.queued()
    epoch = await fleet.granted(run_id)
    stream = fleet.offers.stream("node-1", "boot-1")
    offer = await anext(stream)
    await stream.aclose()
    assert (offer.run.run_id, offer.epoch, offer.run.execution) == (run_id, epoch, 1)
    assert offer.run.agent.agent_id == "invoice-classifier"
    assert offer.run.routes == ["it", "general"]
    assert offer.run.document == b"{}"
    assert offer.deadline_s == 60.0


async def test_an_offer_says_what_the_deployment_allows_its_effects(fleet: Fleet):
    strict = DeploymentSpec(
        agent_id=AGENT.agent_id,
        version=AGENT.version,
        environment="prod",
        http_out=HttpOutSpec(idempotent=False),
        max_effects=3,
    )
    await fleet.deployments.create(strict)
    await fleet.register()
    run_id = (await fleet.runs.receive(arrival(dep_id=f"{AGENT.agent_id}-prod"))).run_id
    await fleet.granted(run_id)
    (offer,) = await fleet.offers.pull("node-1", "boot-1", 5, 8)
    assert offer.run.max_effects == 3
    assert not offer.run.http_out.idempotent


async def test_an_offer_of_another_boot_is_not_sent(fleet: Fleet):
    await fleet.register()
    await fleet.granted(await fleet.queued())
    with pytest.raises(NotFound, match="register"):
        await fleet.offers.pull("node-1", "boot-2", 0.05, 8)
    assert len(await fleet.offers.pull("node-1", "boot-1", 5, 8)) == 1


async def test_a_long_poll_ends_when_an_offer_comes(fleet: Fleet):
    await fleet.register()
    poll = asyncio.ensure_future(fleet.offers.pull("node-1", "boot-1", 30, 8))
    while not fleet.offers.connected("node-1"):
        await asyncio.wait({poll}, timeout=0.01)
    await fleet.granted(await fleet.queued())
    await fleet.offers.offer_pending("node-1")
    assert len(await asyncio.wait_for(poll, 5)) == 1


async def test_an_acknowledged_lease_is_renewed_and_an_unknown_one_lost(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    renewal = await fleet.leases.renew("node-1", "boot-1", [(run_id, epoch), (run_id, 99)])
    assert renewal.known
    assert renewal.renewed == [(run_id, epoch)]
    assert renewal.lost == [(run_id, 99)]


async def test_a_heartbeat_of_an_unknown_boot_is_told_so(fleet: Fleet):
    await fleet.register()
    assert not (await fleet.leases.renew("node-1", "boot-0", [])).known
    assert (await fleet.leases.renew("node-1", "boot-1", [])).known


async def test_an_expired_lease_is_not_renewed(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.expire(run_id)
    renewal = await fleet.leases.renew("node-1", "boot-1", [(run_id, epoch)])
    assert (renewal.renewed, renewal.lost) == ([], [(run_id, epoch)])


async def test_a_living_lease_is_not_reaped(fleet: Fleet):
    await fleet.register()
    run_id, _ = await fleet.running()
    assert await fleet.leases.reap() == 0
    assert await fleet.status(run_id) == "running"


async def test_a_lapsed_lease_counts_against_infrastructure_alone(fleet: Fleet):
    await fleet.register()
    run_id, _ = await fleet.running()
    await fleet.expire(run_id)
    assert await fleet.leases.reap() == 1
    run = await fleet.history.get(run_id)
    assert (run["status"], run["infra_failures"]) == ("queued", 1)
    assert (run["crashes"], run["agent_failures"]) == (0, 0)
    assert "node-1 was lost" in run["waiting_reason"]


async def test_a_run_whose_lease_lapses_for_ever_ends_as_a_crash_loop(fleet: Fleet):
    await fleet.register()
    run_id = await fleet.queued()
    ended = []
    fleet.leases.on_ended(ended.append)
    for _ in range(20):
        await fleet.granted(run_id)
        await fleet.expire(run_id)
        await fleet.leases.reap()
    run = await fleet.history.get(run_id)
    assert (run["status"], run["reason"]) == ("dead_lettered", "CrashLoop")
    assert ended[-1].verdict.reason == "CrashLoop"


async def test_the_leases_of_an_earlier_boot_last_as_long_as_it_may_believe_in_them(fleet: Fleet):
    await fleet.register(boot_id="boot-1")
    run_id, epoch = await fleet.running()
    await fetch_all(fleet.pool, "update nodes set stream_ended_at = now() returning 1")
    await fleet.nodes.register(NodeSpec(node_id="node-1", boot_id="boot-2", slots=8))
    assert await fleet.leases.reap() == 0
    assert await fleet.status(run_id) == "running"
    lost = await fleet.leases.renew("node-1", "boot-1", [(run_id, epoch)])
    assert lost.lost == [(run_id, epoch)], "but they are not prolonged"
    await fleet.expire(run_id)
    assert await fleet.leases.reap() == 1
    assert await fleet.status(run_id) == "queued"


async def test_what_a_process_held_that_is_known_to_be_gone_waits_for_nothing(fleet: Fleet):
    await fleet.register(boot_id="boot-1")
    run_id, epoch = await fleet.running()
    await fleet.nodes.gone("node-1")
    assert await fleet.leases.reap() == 1
    assert await fleet.status(run_id) == "queued"
    with pytest.raises(StaleLease):
        await fleet.leases.acknowledge(run_id, epoch)


async def test_a_renewal_that_comes_before_the_reaper_wins(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.expire(run_id)
    [found] = await fetch_all(fleet.pool, _QUERIES.over, most=9)
    await fetch_all(fleet.pool, "update leases set expires_at = now() + interval '1 s'")
    assert await fleet.leases._lapse([_over(found)]) == 0
    assert await fleet.status(run_id) == "running"
    assert (await fleet.leases.renew("node-1", "boot-1", [(run_id, epoch)])).renewed


async def test_a_refused_offer_goes_back_at_no_cost(fleet: Fleet):
    await fleet.register()
    run_id = await fleet.queued()
    epoch = await fleet.granted(run_id)
    await fleet.leases.refuse(run_id, epoch, "all slots are taken")
    run = await fleet.history.get(run_id)
    assert (run["status"], run["infra_failures"], run["executions"]) == ("queued", 0, 0)
    assert "all slots are taken" in run["waiting_reason"]
    with pytest.raises(StaleLease):
        await fleet.leases.refuse(run_id, epoch, "again")


async def test_an_acknowledgement_may_come_twice(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.leases.acknowledge(run_id, epoch)
    assert (await fleet.history.get(run_id))["executions"] == 1


async def test_offers_whose_end_came_about_elsewhere_are_forgotten(fleet: Fleet):
    offers = fleet.offers
    offers.ttl_s = -1.0  # every offer is over at once
    await fleet.register()
    for number in range(1, 6):
        await fleet.granted(await fleet.queued(number))
    stream = offers.stream("node-1", "boot-1")
    for _ in range(5):
        await anext(stream)
    await stream.aclose()
    assert len(offers._offered) <= 1


async def test_a_node_that_closes_is_shown_as_draining_until_its_next_boot(fleet: Fleet):
    reader = SnapshotReader(fleet.pool, "dev", silent_after_s=10)

    async def draining() -> bool:
        [node] = (await reader.read()).nodes
        return node.draining

    await fleet.register()
    assert not await draining()
    renewal = await fleet.leases.renew("node-1", "boot-1", [], closing=True)
    assert not renewal.draining  # nobody but the node itself wants it
    assert await draining()
    await fleet.register(boot_id="boot-2")
    assert not await draining()


async def test_a_run_that_lapsed_shows_what_it_spent(fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    usage = Usage(input_tokens=100, output_tokens=20, cost_usd="0.0006", price=PRICE)
    step = Step(seq=0, kind=StepKind.MODEL, digest="d", answer=b"{}", usage=usage)
    await fleet.runs.record_step(run_id, epoch, step)
    await fleet.expire(run_id)
    await fleet.leases.reap()
    run = await fleet.history.get(run_id)
    assert (run["status"], run["cost_usd"], run["tokens_used"]) == ("queued", "0.0006", 120)


async def test_a_lease_that_two_heartbeats_do_not_list_is_over(fleet: Fleet):
    leases = fleet.leases
    leases.heartbeat_every_s = 0.0  # two in a row count as far enough apart
    await fleet.register()
    kept, forgotten = await fleet.running(1), await fleet.running(2)
    offered = await fleet.queued(3)
    await fleet.granted(offered)
    for _ in range(2):
        assert await leases.reap() == 0
        assert (await leases.renew("node-1", "boot-1", [kept])).renewed == [kept]
    assert await leases.reap() == 1
    assert await fleet.status(kept[0]) == "running"
    assert await fleet.status(offered) == "offered", "nobody has acknowledged it"
    run = await fleet.history.get(forgotten[0])
    assert (run["status"], run["infra_failures"]) == ("queued", 1)
    assert run["waiting_reason"].startswith("node node-1 does not know the lease any more")
    with pytest.raises(StaleLease):
        await fleet.runs.finish(*forgotten, Outcome(kind=OutcomeKind.COMPLETED))


async def test_a_lease_that_one_heartbeat_came_too_early_for_is_not_missing(fleet: Fleet):
    leases = fleet.leases
    leases.heartbeat_every_s = 0.0
    await fleet.register()
    lease = await fleet.running()
    for _ in range(3):
        await leases.renew("node-1", "boot-1", [])
        assert (await leases.renew("node-1", "boot-1", [lease])).renewed == [lease]
    assert await leases.reap() == 0
    leases.heartbeat_every_s = 3600.0
    for _ in range(3):  # sent before the lease, and heard one after the other
        await leases.renew("node-1", "boot-1", [])
    assert await leases.reap() == 0


async def test_an_offer_in_hand_is_neither_renewed_nor_missing(fleet: Fleet):
    await fleet.register()
    run_id = await fleet.queued()
    epoch = await fleet.granted(run_id)
    before = await fetch_all(fleet.pool, "select expires_at, missing_at from leases")
    renewal = await fleet.leases.renew("node-1", "boot-1", [(run_id, epoch)])
    assert renewal.renewed == []
    assert await fetch_all(fleet.pool, "select expires_at, missing_at from leases") == before


async def test_a_grant_that_nobody_could_offer_is_offered_by_whoever_has_the_stream(fleet: Fleet):
    await fleet.register()
    stream = fleet.offers.stream("node-1", "boot-1")
    waiting = asyncio.ensure_future(anext(stream))
    await eventually(lambda: fleet.offers.connected("node-1"))
    run_id = await fleet.queued()
    await fleet.granted(run_id)
    assert await fleet.offers.offer_unanswered() == 0, "its offer may be under way"
    await fetch_all(fleet.pool, "update leases set granted_at = now() - interval '2 s'")
    assert await fleet.offers.offer_unanswered() == 1
    assert (await asyncio.wait_for(waiting, 10)).run.run_id == run_id
    assert await fleet.offers.offer_unanswered() == 0, "this stream has had it"
    await stream.aclose()


async def test_offers_that_were_answered_elsewhere_are_forgotten_without_new_ones(fleet: Fleet):
    offers = fleet.offers
    await fleet.register()
    for number in range(1, 6):
        await fleet.granted(await fleet.queued(number))
    stream = offers.stream("node-1", "boot-1")
    for _ in range(5):
        await anext(stream)
    assert len(offers._offered) == 5
    offers.ttl_s = -1.0  # all of them are over
    for _ in range(3):
        await offers.offer_unanswered()
    assert not offers._offered
    await stream.aclose()

"""The node link's server, with the node's own client."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
import structlog
from grpclib.client import Channel
from grpclib.exceptions import GRPCError
from grpclib.server import Server
from structlog.testing import capture_logs

from bpa.clocks import Clocks, boottime_s
from bpa.control.grpc import NodeLink
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind
from bpa.domain.specs import NodeSpec
from bpa.errors import BpaError, Conflict, InvalidRequest, NotFound, StaleLease
from bpa.message_cap import MESSAGE_BYTES_MAX
from bpa.node.link import ControlLink
from bpa.protos.bpa.v1 import Acknowledge, NodeLinkStub, Progress, Refuse, RegisterRequest
from bpa.telemetry.metrics import Metrics
from tests.integration.control.fleet import Fleet

NODE = NodeSpec(node_id="node-1", boot_id="boot-1", slots=8)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest_asyncio.fixture
async def address(fleet: Fleet, metrics: Metrics) -> AsyncIterator[str]:
    service = NodeLink(
        fleet.nodes, fleet.leases, fleet.offers, fleet.runs, metrics, 3.0, lambda: None
    )
    server = Server([service])
    await server.start("127.0.0.1", 0)
    assert server._server is not None
    port = server._server.sockets[0].getsockname()[1]
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.close()
        await server.wait_closed()


@pytest_asyncio.fixture
async def link(address: str) -> AsyncIterator[ControlLink]:
    async with ControlLink(address=address, node=NODE, log=structlog.get_logger()) as link:
        reports = asyncio.ensure_future(link.run())
        yield link
        reports.cancel()
        await asyncio.wait({reports})


async def test_a_run_goes_from_offer_to_outcome_over_the_link(fleet: Fleet, link: ControlLink):
    terms = await link.register()
    assert (terms.heartbeat_every_s, terms.lease_ttl_s) == (3.0, 15.0)
    run_id = await fleet.queued()
    epoch = await fleet.granted(run_id)
    offers = link.pull()
    offer = await anext(offers)
    assert (offer.run.run_id, offer.epoch) == (run_id, epoch)
    assert offer.traceparent
    await link.report(run_id, epoch, Acknowledge())
    assert await fleet.status(run_id) == "running"
    step = Step(seq=0, kind=StepKind.MODEL, digest="d", started_at_ms=1)
    await link.report(run_id, epoch, step)
    beat = await link.heartbeat([(run_id, epoch)], draining=False, timeout_s=5)
    assert beat.renewed == {(run_id, epoch)}
    await link.report(run_id, epoch, Outcome(kind=OutcomeKind.COMPLETED, result={"status": 201}))
    run = await fleet.history.get(run_id)
    assert (run["status"], run["outcome"]) == ("completed", {"status": 201})
    await offers.aclose()  # type: ignore[attr-defined]


async def test_a_stale_report_is_refused_and_counted(
    fleet: Fleet, link: ControlLink, metrics: Metrics
):
    await link.register()
    run_id, epoch = await fleet.running()
    await fleet.expire(run_id)
    await fleet.leases.reap()
    with pytest.raises(StaleLease):
        await link.report(run_id, epoch, Outcome(kind=OutcomeKind.COMPLETED))
    assert metrics.registry.get_sample_value("bpa_leases_fenced_total") == 1


async def test_a_step_that_is_recorded_otherwise_is_a_conflict_and_no_fence(
    fleet: Fleet, link: ControlLink, metrics: Metrics
):
    await link.register()
    run_id, epoch = await fleet.running()
    step = Step(seq=0, kind=StepKind.MODEL, digest="d", started_at_ms=1)
    await link.report(run_id, epoch, step)
    with pytest.raises(Conflict) as caught:
        await link.report(run_id, epoch, msgspec.structs.replace(step, digest="other"))
    assert type(caught.value) is Conflict
    assert metrics.registry.get_sample_value("bpa_leases_fenced_total") == 0


async def test_a_refused_offer_waits_for_another_node(fleet: Fleet, link: ControlLink):
    await link.register()
    run_id = await fleet.queued()
    epoch = await fleet.granted(run_id)
    await link.report(run_id, epoch, Refuse(why="all 8 slots are taken"))
    assert await fleet.status(run_id) == "queued"


async def test_an_unknown_node_is_told_to_register(fleet: Fleet, link: ControlLink):
    with pytest.raises(NotFound, match="register"):
        await link.heartbeat([], draining=False, timeout_s=5)


async def test_a_node_that_drains_says_so_with_its_heartbeat(fleet: Fleet, link: ControlLink):
    await link.register()
    await link.heartbeat([], draining=True, timeout_s=5)
    assert (await fleet.nodes.get("node-1"))["status"] == {"closing": True}


async def test_nonsense_is_refused_and_harms_nobody(fleet: Fleet, link: ControlLink, address: str):
    host, port = address.split(":")
    async with Channel(host, int(port)) as channel:
        stub = NodeLinkStub(channel)
        for raw in (b"", b"\xff\xfe", b"[" * 100_000, b"{}"):
            with pytest.raises(GRPCError, match="NodeSpec"):
                await stub.register(RegisterRequest(node=raw))
    with pytest.raises(InvalidRequest):
        await link.report("0", 1, Outcome(kind=OutcomeKind.REJECTED, reason="Bored"))
    await link.register()


async def test_a_message_over_the_cap_is_refused_before_it_is_read(address: str):
    host, port = address.split(":")
    async with Channel(host, int(port)) as channel:
        stub = NodeLinkStub(channel)
        with pytest.raises(GRPCError, match="exceeds the cap"):
            await stub.register(RegisterRequest(node=b"x" * (MESSAGE_BYTES_MAX + 1)), timeout=10)


async def test_a_fault_of_ours_with_one_report_leaves_the_others_their_stream(
    fleet: Fleet, link: ControlLink, monkeypatch
):
    await link.register()
    run_id, epoch = await fleet.running()

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(fleet.runs, "progress", broken)
    with capture_logs() as logged, pytest.raises(BpaError, match="fault of control"):
        await link.report(run_id, epoch, Progress(stage="think"))
    (failed,) = [line for line in logged if line["event"] == "report_failed"]
    trace_id = (await fleet.history.get(run_id))["trace_id"]
    assert (failed["run_id"], failed["trace_id"]) == (run_id, trace_id)
    with capture_logs() as logged, pytest.raises(BpaError, match="fault of control"):
        await link.report("no run", epoch, Progress(stage="think"))
    assert [line["trace_id"] for line in logged if line["event"] == "report_failed"] == [""]
    await link.report(run_id, epoch, Outcome(kind=OutcomeKind.COMPLETED))
    assert await fleet.status(run_id) == "completed"


@pytest.mark.parametrize(("off_s", "says"), [(60.0, "60 s ahead of"), (-60.0, "60 s behind")])
async def test_a_node_learns_from_control_that_its_clock_is_wrong(
    address: str, off_s: float, says: str
):
    def wall() -> float:
        return time.time() + off_s

    for clocks, expected in (
        (Clocks(3.0, wall, boottime_s), f"our clock is {says} control's"),
        (Clocks(3.0, time.time, boottime_s), "None"),
    ):
        node = ControlLink(address=address, node=NODE, log=structlog.get_logger(), clocks=clocks)
        async with node:
            await node.register()
            assert str(node.clock_trouble()).startswith(expected)
            await node.heartbeat([], draining=False, timeout_s=5)
            assert str(node.clock_trouble()).startswith(expected)

import asyncio
import contextlib
import socket

import msgspec
import pytest
import structlog

from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind
from bpa.domain.specs import NodeSpec
from bpa.errors import Conflict, InvalidRequest, StaleLease, Unavailable
from bpa.node.grpc_channel import MESSAGE_BYTES_MAX
from bpa.node.link import ControlLink
from bpa.protos.bpa.v1 import Acknowledge, Lease, Progress
from tests.eventually import eventually
from tests.integration.node.control_server import (
    ControlServer,
    an_offer,
    serving,
    unavailable,
)

NODE = NodeSpec(node_id="n1", boot_id="b1", slots=2)


@pytest.fixture
def address(tmp_path):
    return str(tmp_path / "link")


@pytest.fixture
async def link(address):
    opened = ControlLink(address=address, node=NODE, log=structlog.get_logger(), draw=lambda: 0.1)
    async with opened, asyncio.TaskGroup() as group:
        running = group.create_task(opened.run())
        yield opened
        running.cancel()


def a_step(seq=0, **fields):
    return Step(seq=seq, kind=StepKind.MODEL, digest="d", **fields)


async def test_a_node_registers_with_what_it_says_of_itself(link, address):
    control = ControlServer()
    async with serving(control, address):
        terms = await link.register()
    assert control.registrations == [NODE]
    assert (terms.heartbeat_every_s, terms.lease_ttl_s) == (0.05, 5.0)


async def test_an_offer_arrives_as_it_was_made(link, address):
    control = ControlServer()
    offer = an_offer(document=b"\x00\xff", journal=[a_step(answer=b"\x01")])
    async with serving(control, address):
        control.offer(offer)
        async with contextlib.aclosing(link.pull()) as offers:
            assert await anext(offers) == offer


async def test_an_offer_that_cannot_be_read_does_not_end_the_stream(link, address):
    control = ControlServer()
    control.offers.put_nowait(Lease(run_spec=b"{", epoch=1))
    control.offer(an_offer("r2"))
    async with serving(control, address), contextlib.aclosing(link.pull()) as offers:
        assert (await anext(offers)).run.run_id == "r2"


async def test_reports_of_several_runs_share_one_stream_and_are_answered_each(link, address):
    control = ControlServer()
    async with serving(control, address):
        await asyncio.gather(
            link.report("r1", 1, Acknowledge()),
            link.report("r1", 1, a_step()),
            link.report("r2", 4, Progress(stage="think")),
            link.report("r2", 4, Outcome(kind=OutcomeKind.COMPLETED)),
        )
    assert control.acknowledged == [("r1", 1)]
    assert control.steps == [("r1", 1, a_step())]
    assert control.outcomes == [("r2", 4, Outcome(kind=OutcomeKind.COMPLETED))]
    assert len(set(control.report_ids)) == 4


@pytest.mark.parametrize("error", [StaleLease("moved on"), Unavailable("db"), Conflict("no")])
async def test_an_error_that_control_names_is_raised_as_itself(link, address, error):
    control = ControlServer()

    def refuse(_request):
        raise error

    control.on_report = refuse
    async with serving(control, address):
        with pytest.raises(type(error)) as caught:
            await link.report("r1", 1, a_step())
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


async def test_a_report_without_an_answer_is_sent_again_to_the_next_control(link, address):
    first, second = ControlServer(), ControlServer()
    first.mute.set()
    async with asyncio.TaskGroup() as group:
        async with serving(first, address):
            report = group.create_task(link.report("r1", 1, a_step()))
            await eventually(lambda: first.report_ids)
        assert not report.done()
        async with serving(second, address):
            await report
    assert second.steps == [("r1", 1, a_step())]
    assert second.report_ids == first.report_ids


async def test_a_report_is_given_up_when_its_lease_is_gone(link):
    gone = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(gone.set_result, None)
    with pytest.raises(StaleLease):
        await link.report("r1", 1, a_step(), gone=gone)


async def test_a_control_that_is_away_is_unavailable(link):
    with pytest.raises(Unavailable):
        await link.register()


async def test_a_connection_that_closes_as_it_opens_is_unavailable(address):
    """It was accepted into the backlog of a server that ended before it took it."""

    async def register(link):
        with pytest.raises(Unavailable, match="closed as it was opened"):
            await link.register()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    async with (
        ControlLink(address=address, node=NODE, log=structlog.get_logger()) as link,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(register(link))
        asyncio.get_running_loop().call_soon(listener.close)


async def test_a_control_that_does_not_answer_in_time_is_unavailable(link, address):
    class Silent(ControlServer):
        async def heartbeat(self, message):
            await asyncio.Event().wait()

    async with serving(Silent(), address):
        with pytest.raises(Unavailable, match="Heartbeat in"):
            await link.heartbeat([], draining=False, timeout_s=0.05)
        await link.register()


async def test_a_control_that_is_gone_without_a_word_is_noticed(address, tmp_path):
    """As a cable that is pulled: nothing is answered any more, and nothing is closed."""
    frozen, ends = asyncio.Event(), []

    async def forward(reader, writer):
        while data := await reader.read(65_536):
            if not frozen.is_set():
                writer.write(data)

    async def proxy(reader, writer):
        upstream, downstream = await asyncio.open_unix_connection(address)
        ends.extend((writer, downstream))
        async with asyncio.TaskGroup() as group:
            group.create_task(forward(reader, downstream))
            group.create_task(forward(upstream, writer))

    control, path = ControlServer(), str(tmp_path / "proxy")
    async with serving(control, address), await asyncio.start_unix_server(proxy, path):
        async with ControlLink(
            address=path, node=NODE, log=structlog.get_logger(), keepalive_s=0.2
        ) as link:
            control.offer(an_offer())
            async with contextlib.aclosing(link.pull()) as offers:
                await anext(offers)
                frozen.set()
                with pytest.raises(Unavailable, match="broke"):
                    await anext(offers)
        for end in ends:
            end.close()


async def test_a_broken_call_leaves_no_cancellation_behind(link, address):
    """Else the caller's next timeout or task group would take itself for cancelled."""

    class Silent(ControlServer):
        async def heartbeat(self, message):
            called.set()
            await asyncio.Event().wait()

    called = asyncio.Event()

    async def call():
        with pytest.raises(Unavailable):
            await link.heartbeat([], draining=False, timeout_s=5)
        return asyncio.current_task().cancelling()

    async with asyncio.TaskGroup() as group, serving(Silent(), address):
        cancelling = group.create_task(call())
        await called.wait()
        link._channel.close()
        assert await cancelling == 0


async def test_a_cancellation_in_the_moment_of_the_break_is_not_forgotten(link, address):
    class Silent(ControlServer):
        async def heartbeat(self, message):
            called.set()
            await asyncio.Event().wait()

    called = asyncio.Event()
    async with asyncio.TaskGroup() as group, serving(Silent(), address):
        call = group.create_task(link.heartbeat([], draining=False, timeout_s=5))
        await called.wait()
        link._channel.close()
        call.cancel()
        await asyncio.wait({call})
    assert call.cancelled()


async def test_grpc_statuses_become_our_errors(link, address):
    control = ControlServer()
    async with serving(control, address):
        control.refuse_registration = unavailable()
        with pytest.raises(Unavailable, match="not now"):
            await link.register()
        control.refuse_registration = unavailable()
        control.refuse_registration.status = type(control.refuse_registration.status)(9)
        with pytest.raises(Conflict):
            await link.register()


async def test_a_message_over_the_cap_is_refused_before_it_is_read(link, address):
    control = ControlServer()
    async with serving(control, address):
        control.offer(an_offer(document=bytes(MESSAGE_BYTES_MAX)))
        async with contextlib.aclosing(link.pull()) as offers:
            with pytest.raises(Unavailable, match="exceeds the cap"):
                await anext(offers)
        control.offer(an_offer("r2", document=bytes(MESSAGE_BYTES_MAX // 2)))
        async with contextlib.aclosing(link.pull()) as offers:
            assert (await anext(offers)).run.run_id == "r2"


async def test_a_report_over_the_cap_is_refused_before_it_is_sent(link, address):
    control = ControlServer()
    async with serving(control, address):
        with pytest.raises(InvalidRequest, match="exceeds the cap"):
            await link.report("r1", 1, a_step(answer=bytes(MESSAGE_BYTES_MAX)))
        large = a_step(answer=bytes(2 << 20))
        await link.report("r1", 1, large)
    assert msgspec.json.encode(control.steps[0][2]) == msgspec.json.encode(large)


async def test_a_heartbeat_brings_back_what_was_renewed_lost_and_cancelled(link, address):
    control = ControlServer()
    control.lost, control.cancel, control.draining = {"r2"}, {"r3"}, True
    async with serving(control, address):
        beat = await link.heartbeat([("r1", 1), ("r2", 2), ("r3", 3)], draining=True, timeout_s=5.0)
    assert ("r1", 1) in beat.renewed
    assert beat.lost == {("r2", 2)}
    assert beat.cancel == {"r3"}
    assert beat.draining
    assert control.beats[0].draining


async def test_closing_the_link_fails_what_still_waits(address):
    async def report():
        with pytest.raises(Unavailable):
            await link.report("r1", 1, a_step())

    link = ControlLink(address=address, node=NODE, log=structlog.get_logger())
    async with asyncio.TaskGroup() as group, link:
        group.create_task(report())
        await eventually(lambda: link._pending)

"""One living process per node id, judged by Postgres, whatever replica a node speaks to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import structlog

from bpa.control.grpc import LinkServer, NodeLink
from bpa.control.nodes import Nodes
from bpa.control.rest.node_schemas import Node
from bpa.domain.specs import NodeSpec
from bpa.errors import Conflict, InvalidRequest, NotFound
from bpa.node.link import ControlLink
from bpa.postgres import fetch_all
from bpa.scheduler.snapshot import SnapshotReader
from bpa.telemetry.metrics import Metrics
from tests.eventually import eventually
from tests.integration.control.fleet import Fleet, hearing

KEEPALIVE_S = 0.2


def spec(boot: str) -> NodeSpec:
    return NodeSpec(node_id="node-1", boot_id=boot, slots=8)


@pytest.fixture
def elsewhere(fleet: Fleet) -> Nodes:
    """Registrations at another replica."""
    return Nodes(fleet.pool)


async def silent(fleet: Fleet, seconds: float) -> None:
    """Let a node's last heartbeat be so long ago."""
    await fetch_all(
        fleet.pool,
        "update nodes set heartbeat_at = now() - make_interval(secs => %(s)s)",
        s=seconds,
    )


def replaced(nodes: Nodes) -> Callable[[], Awaitable[bool]]:
    async def register() -> bool:
        try:
            await nodes.register(spec("boot-2"))
        except Conflict:
            return False
        return True

    return register


async def test_what_confines_a_node_s_sandboxes_is_published_with_its_registration(fleet: Fleet):
    await fleet.nodes.register(spec("boot-1"))
    node = Node.of(await fleet.nodes.get("node-1"))
    assert node.sandbox is None, "a node of an earlier release does not say"
    held = ["opens_nothing", "own_user"]
    await fleet.nodes.register(msgspec.structs.replace(spec("boot-1"), protections=held))
    node = Node.of(await fleet.nodes.get("node-1"))
    assert node.sandbox is not None
    assert node.sandbox.protections == held
    assert "seccomp" in node.sandbox.missing
    for wrong in (["<b>"], ["a"] * 65):
        with pytest.raises(InvalidRequest, match="protections"):
            await fleet.nodes.register(msgspec.structs.replace(spec("boot-1"), protections=wrong))


def test_a_node_of_a_later_release_may_say_more_than_is_known_here():
    said = b'{"nodeId": "n", "bootId": "b", "slots": 1, "later": {"a": 1}}'
    assert msgspec.json.decode(said, type=NodeSpec).slots == 1


async def test_a_second_process_is_refused_at_any_replica_while_the_first_lives(
    fleet: Fleet, elsewhere: Nodes
):
    await fleet.nodes.register(spec("boot-1"))
    for nodes in (fleet.nodes, elsewhere):
        with pytest.raises(Conflict, match=r"its own node\.id.* 10 s after its last heartbeat"):
            await nodes.register(spec("boot-2"))
        await nodes.register(spec("boot-1"))
    await silent(fleet, 9)
    with pytest.raises(Conflict):
        await elsewhere.register(spec("boot-2"))


async def test_a_node_that_missed_two_heartbeats_may_be_replaced(fleet: Fleet, elsewhere: Nodes):
    await fleet.nodes.register(spec("boot-1"))
    run_id, epoch = await fleet.running()
    await silent(fleet, 10.1)
    await elsewhere.register(spec("boot-2"))
    assert await fleet.status(run_id) == "running", "its process may still believe in the lease"
    assert not (await fleet.leases.renew("node-1", "boot-1", [(run_id, epoch)])).known
    with pytest.raises(Conflict):
        await fleet.nodes.register(spec("boot-1"))
    with pytest.raises(NotFound):
        await anext(fleet.offers.stream("node-1", "boot-1"))


async def test_only_the_latest_stream_of_a_boot_tells_of_its_end(
    fleet: Fleet, elsewhere: Nodes, listening: None
):
    await fleet.nodes.register(spec("boot-1"))
    reader = SnapshotReader(fleet.pool, "dev", silent_after_s=10)

    async def opened() -> asyncio.Future[object]:
        before = await fetch_all(fleet.pool, "select stream from nodes")
        waiting = asyncio.ensure_future(anext(fleet.offers.stream("node-1", "boot-1")))

        async def noted() -> bool:
            return await fetch_all(fleet.pool, "select stream from nodes") != before

        await eventually(noted)
        return waiting

    async def disconnected() -> bool:
        [node] = (await reader.read()).nodes
        return node.disconnected

    older, newer = await opened(), await opened()
    older.cancel()
    await eventually(fleet.offers._broken.empty)
    with pytest.raises(Conflict):
        await elsewhere.register(spec("boot-2"))
    assert not await disconnected()
    newer.cancel()
    await eventually(disconnected)
    await fleet.leases.renew("node-1", "boot-1", [])
    assert not await disconnected(), "a heartbeat after the break says that it lives"
    with pytest.raises(Conflict):
        await elsewhere.register(spec("boot-2"))
    latest = await opened()
    latest.cancel()
    await eventually(replaced(elsewhere))


class Wire:
    """A TCP relay that can go dead: nothing passes any more, and nothing is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.dead = False
        self.swallowed = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, onward]
        await asyncio.gather(self._pump(reader, onward), self._pump(onward_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.dead:
                self.swallowed += len(data)
            else:
                writer.write(data)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def wired(fleet: Fleet) -> AsyncIterator[tuple[Wire, str]]:
    """Serve the node link behind a wire; yield it and the address of its near end."""
    service = NodeLink(
        fleet.nodes, fleet.leases, fleet.offers, fleet.runs, Metrics(), 5.0, lambda: None
    )
    server = LinkServer([service], keepalive_s=KEEPALIVE_S)
    await server.start("127.0.0.1", 0)
    assert server._server is not None
    wire = Wire(server._server.sockets[0].getsockname()[1])
    relay = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    try:
        yield wire, f"127.0.0.1:{relay.sockets[0].getsockname()[1]}"
    finally:
        wire.close()
        relay.close()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def pulling(fleet: Fleet, address: str) -> AsyncIterator[ControlLink]:
    """Register the first boot and hold its stream of offers open."""
    async with ControlLink(
        address=address, node=spec("boot-1"), log=structlog.get_logger(), keepalive_s=3600
    ) as link:
        await link.register()
        offers = asyncio.ensure_future(anext(link.pull()))
        await eventually(lambda: fleet.offers.connected("node-1") == "boot-1")
        yield link
        offers.cancel()
        await asyncio.wait({offers})


async def test_a_process_that_died_is_replaced_at_once(
    fleet: Fleet, elsewhere: Nodes, listening: None
):
    async with wired(fleet) as (wire, address), pulling(fleet, address):
        with pytest.raises(Conflict):
            await elsewhere.register(spec("boot-2"))
        wire.close()
        await eventually(replaced(elsewhere))


async def test_a_connection_that_goes_dead_without_a_word_is_ended(
    fleet: Fleet, elsewhere: Nodes, listening: None
):
    async with wired(fleet) as (wire, address), pulling(fleet, address):
        wire.dead = True
        await eventually(replaced(elsewhere))
        assert wire.swallowed, "control's ping went into the dead wire"


async def test_a_replica_that_closes_does_not_take_its_nodes_for_dead(
    fleet: Fleet, elsewhere: Nodes, database: str
):
    async with hearing(fleet.offers, database), wired(fleet) as (_, address):
        async with pulling(fleet, address):
            fleet.offers.closing()
        await eventually(lambda: fleet.offers.connected("node-1") is None)
        assert fleet.offers._broken.empty()
    with pytest.raises(Conflict):
        await elsewhere.register(msgspec.structs.replace(spec("boot-2")))

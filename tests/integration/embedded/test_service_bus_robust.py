"""Peers that mean harm, or are merely broken: each ends alone, and gives back what it held."""

import asyncio
import contextlib
import resource
import socket

import proton
import psutil
import pytest

from bpa.embedded.service_bus import connection as connections
from tests.eventually import eventually
from tests.integration.embedded.conformance.peer import peer_of
from tests.integration.embedded.service_bus import body_of, bus, client_of, receive_one
from tests.integration.embedded.test_service_bus_durability import emulator_process

SASL_HEADER = b"AMQP\x03\x01\x00\x00"
AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
MOST_IDLE = 10_000
FEWEST_IDLE = 2_000
AT_ONCE = 200


def frame(body, channel=0):
    return (8 + len(body)).to_bytes(4, "big") + b"\x02\x00" + channel.to_bytes(2, "big") + body


OPEN = frame(bytes.fromhex("005310c00401a10163"))
BEGIN = frame(bytes.fromhex("005311c007044043527f527f"))
END = frame(bytes.fromhex("00531745"))


async def still_serves(one):
    """The positive control: an ordinary client is served as ever."""
    async with one.receiver() as receiver:
        await one.send("still here")
        message = await receive_one(receiver)
        assert body_of(message) == b"still here"
        await receiver.complete_message(message)


@contextlib.asynccontextmanager
async def raw(one):
    reader, writer = await asyncio.open_connection("127.0.0.1", one.emulator.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def hung_up(reader):
    """Wait until the emulator has closed the connection."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass


async def test_a_well_behaved_raw_peer_is_answered():
    async with bus() as one, raw(one) as (reader, writer):
        writer.write(AMQP_HEADER + OPEN + BEGIN + END)
        async with asyncio.timeout(5):
            assert await reader.readexactly(8) == AMQP_HEADER
            for code in (b"\x10", b"\x11", b"\x17"):
                size = int.from_bytes(await reader.readexactly(4), "big")
                answer = await reader.readexactly(size - 4)
                assert answer[4:7] == b"\x00\x53" + code
        assert len(one.emulator._connections) == 1


async def test_a_peer_that_says_nothing_at_all_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connections, "_HANDSHAKE_S", 0.1)
    async with bus() as one, raw(one) as (reader, _):
        await hung_up(reader)
        await still_serves(one)


async def test_a_peer_that_drips_its_greeting_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connections, "_HANDSHAKE_S", 0.3)
    taken, take = asyncio.Event(), connections.Connection.data_received

    def take_and_tell(served, data):
        take(served, data)
        taken.set()

    monkeypatch.setattr(connections.Connection, "data_received", take_and_tell)
    async with bus() as one, raw(one) as (reader, writer):
        ended = asyncio.ensure_future(hung_up(reader))
        ended.add_done_callback(lambda _: taken.set())
        await eventually(lambda: one.emulator._connections)
        (served,) = one.emulator._connections
        for byte in AMQP_HEADER + frame(bytes(200_000)):
            writer.write(bytes([byte]))
            await taken.wait()
            taken.clear()
            if ended.done():
                break
        await ended
        assert served._end_reason == "no open frame in time"
        await still_serves(one)


async def test_frames_that_come_byte_by_byte_are_understood():
    async with bus() as one, raw(one) as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in AMQP_HEADER + OPEN + BEGIN:
            writer.write(bytes([byte]))
            await writer.drain()
        async with asyncio.timeout(5):
            await reader.readuntil(b"\x00\x53\x11")


@pytest.mark.parametrize("size", [262_145, 0x7FFF_FFFF, 0xFFFF_FFFF, 7, 0])
async def test_a_frame_of_an_impossible_size_ends_its_connection_alone(size):
    async with bus() as one, raw(one) as (reader, writer):
        writer.write(AMQP_HEADER + OPEN + size.to_bytes(4, "big") + b"\x02\x00\x00\x00" + b"x" * 64)
        await hung_up(reader)
        await still_serves(one)
        await eventually(lambda: len(one.emulator._connections) == 1)


@pytest.mark.parametrize("header", [SASL_HEADER, AMQP_HEADER, b""])
async def test_garbage_of_every_kind_ends_its_connection_alone(header):
    pieces = [bytes([n]) * 300 for n in (0x00, 0x53, 0x80, 0xD0, 0xFF)]
    pieces += [frame(bytes(range(start, start + 64))) for start in range(0, 192, 32)]
    async with bus() as one:
        for piece in pieces:
            async with raw(one) as (reader, writer):
                writer.write(header + piece)
                writer.write_eof()
                await hung_up(reader)
        await still_serves(one)


async def test_a_half_open_connection_is_given_up_when_its_peer_is_silent(monkeypatch):
    monkeypatch.setattr(connections, "IDLE_TIMEOUT_MS", 200)
    async with bus() as one:
        async with raw(one) as (reader, writer):
            writer.write(AMQP_HEADER + OPEN)
            await hung_up(reader)
        await eventually(lambda: not one.emulator._connections)


async def test_a_peer_that_asks_and_never_reads_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connections, "_UNREAD_BYTES", 64 * 1024)
    async with bus() as one:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", one.emulator.port))
            await loop.sock_sendall(sock, AMQP_HEADER + OPEN)
            await eventually(lambda: one.emulator._connections)
            (served,) = one.emulator._connections
            ours = served._transport.get_extra_info("socket")
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            async with asyncio.timeout(30):
                with contextlib.suppress(ConnectionError):
                    while True:
                        await loop.sock_sendall(sock, (BEGIN + END) * 100)
        assert served._end_reason == "the peer asks, and does not read the answers"
        await still_serves(one)


async def test_a_peer_that_asks_and_gives_no_credit_for_the_answers_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connections, "_UNREAD_BYTES", 256 * 1024)
    peek = {"from-sequence-number": 1, "message-count": proton.int32(1)}
    async with bus() as one:
        await one.send(b"x" * 60_000)
        async with peer_of(one.emulator) as peer:
            sender = peer.sender("invoices/$management", "ask")
            receivers = [peer.receiver("invoices/$management", name) for name in ("ask", "also")]
            for link in (sender, *receivers):
                assert await peer.attached(link) is None
            (served,) = [c for c in one.emulator._connections if c._links]
            for n in range(40):
                request = proton.Message(
                    properties={"operation": "com.microsoft:peek-message"},
                    reply_to=("ask", "also")[n % 2],
                    body=peek,
                )
                peer.begin(sender)
                sender.send(request.encode())
                sender.advance()
            with pytest.raises((AssertionError, ConnectionError), match=r"hung up|reset"):
                await peer.until(lambda: False)
        assert served._end_reason == "the peer asks, and does not read the answers"
        assert served._held_bytes == 0
        async with one.receiver() as receiver:
            await receiver.complete_message(await receive_one(receiver))
        await still_serves(one)


async def idle_connections(port, count):
    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(AMQP_HEADER + OPEN)
        await reader.readuntil(b"\x00\x53\x10")
        return writer

    found = []
    while len(found) < count:
        found += await asyncio.gather(*(one() for _ in range(min(AT_ONCE, count - len(found)))))
    return found


async def test_thousands_of_idle_connections_are_borne_and_their_memory_serves_the_next():
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(MOST_IDLE, most - 500)
    if count < FEWEST_IDLE:
        pytest.skip(f"this machine allows {most} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        async with emulator_process() as (process, ready):
            logs = asyncio.ensure_future(process.stderr.read())
            server = psutil.Process(process.pid)
            at_start = server.memory_info().rss
            peaks = []
            for _ in range(2):
                writers = await idle_connections(ready["port"], count)
                assert server.num_fds() > count
                peaks.append(server.memory_info().rss - at_start)
                async with (
                    client_of(ready["connection_string"]) as client,
                    client.get_queue_receiver("invoices") as receiver,
                ):
                    assert await receiver.peek_messages(1) == []
                for writer in writers:
                    writer.close()
                await asyncio.gather(*(writer.wait_closed() for writer in writers))
                await eventually(lambda: server.num_fds() < 50)
            process.kill()
            await logs
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    assert peaks[0] / count < 40_000, "an idle connection is too dear"
    assert peaks[1] < 1.4 * peaks[0], "memory of closed connections is not used again"


async def test_a_log_that_nobody_reads_holds_up_no_client():
    async with emulator_process() as (process, ready):
        for _ in range(5):  # two lines each: more than the pipe and this reader's buffer hold
            for writer in await idle_connections(ready["port"], AT_ONCE):
                writer.close()
                await writer.wait_closed()
        async with (
            client_of(ready["connection_string"]) as client,
            client.get_queue_receiver("invoices") as receiver,
        ):
            assert await receiver.peek_messages(1) == []
        process.kill()
        lines = (await process.stderr.read()).splitlines()
    assert 100 < len(lines) < 2 * 5 * AT_ONCE

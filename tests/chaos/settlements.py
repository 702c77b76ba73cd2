"""A way to the broker that loses settlements, in the four ways in which one can be lost.

It understands just enough of AMQP 1.0 (OASIS, part 2, sections 2.3 and 2.7.6): frames are cut by
their size, and of performatives only ``disposition`` is told from the others. A receiver's
disposition that is not settled is a settlement in peek-lock, which the broker answers with one of
its own, for the same delivery.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import StrEnum

from bpa import amqp
from bpa.embedded.service_bus.refusals import MessageLockLost

_PIECE = 64 * 1024
_DISPOSITION = b"\x00\x53\x15"
_TRUE = (b"\x41", b"\x56\x01")
_ACCEPTED_OR_REJECTED = (b"\x00\x53\x24", b"\x00\x53\x25")


class Loss(StrEnum):
    """How a settlement is lost."""

    BEFORE_APPLYING = "link dropped before applying"
    AFTER_APPLYING = "link dropped after applying"
    LOCK_LOST = "lock lost"
    NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class Disposition:
    """A settlement on its way to the broker, or the answer to one."""

    channel: bytes
    first: int
    is_settlement: bool


class LossyBus:
    """A port that leads to the broker.

    Args:
        broker_port: Where the broker listens.
    """

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._planned: deque[Loss] = deque()
        self.lost: Counter[Loss] = Counter()
        self.settlements = 0
        """How many were seen, lost ones included."""
        self.port = 0
        self._open: set[asyncio.Task[None]] = set()

    def lose(self, *losses: Loss) -> None:
        """Lose the next settlements in these ways, one each."""
        self._planned.extend(losses)

    @property
    def still_to_lose(self) -> int:
        """How many losses have not found their settlement yet."""
        return len(self._planned)

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[LossyBus]:
        """Listen for as long as the context is open."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with contextlib.suppress(OSError):
                behind = await asyncio.open_connection("127.0.0.1", self._broker_port)
                try:
                    await _Connection(self, reader, writer, *behind).run()
                finally:
                    behind[1].transport.abort()
        except asyncio.CancelledError:
            pass  # taken down
        finally:
            self._open.discard(task)
            writer.transport.abort()

    def next_loss(self) -> Loss | None:
        """Return how the settlement at hand is to be lost, and count it; None lets it pass."""
        self.settlements += 1
        if not self._planned:
            return None
        loss = self._planned.popleft()
        self.lost[loss] += 1
        return loss


class _Connection:
    """One client's connection to the broker."""

    def __init__(
        self,
        bus: LossyBus,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        from_broker: asyncio.StreamReader,
        to_broker: asyncio.StreamWriter,
    ) -> None:
        self._bus = bus
        self._from_client, self._to_client = from_client, to_client
        self._from_broker, self._to_broker = from_broker, to_broker
        self._drop_at_answer: set[tuple[bytes, int]] = set()

    async def run(self) -> None:
        """Carry frames both ways until one way ends."""
        ways = [asyncio.create_task(self._up()), asyncio.create_task(self._down())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _up(self) -> None:
        frames = Frames()
        with contextlib.suppress(ConnectionError):
            while piece := await self._from_client.read(_PIECE):
                for frame in frames.feed(piece):
                    disposition = read_disposition(frame)
                    loss = None
                    if disposition is not None and disposition.is_settlement:
                        loss = self._bus.next_loss()
                    if disposition is None or loss is None:
                        self._to_broker.write(frame)
                    elif loss is Loss.BEFORE_APPLYING:
                        return
                    elif loss is Loss.AFTER_APPLYING:
                        self._drop_at_answer.add((disposition.channel, disposition.first))
                        self._to_broker.write(frame)
                    elif loss is Loss.LOCK_LOST:
                        self._to_client.write(lock_lost(disposition))
                await self._to_broker.drain()

    async def _down(self) -> None:
        frames = Frames()
        with contextlib.suppress(ConnectionError):
            while piece := await self._from_broker.read(_PIECE):
                for frame in frames.feed(piece):
                    answer = read_disposition(frame)
                    if answer and (answer.channel, answer.first) in self._drop_at_answer:
                        return
                    self._to_client.write(frame)
                await self._to_client.drain()


class Frames:
    """Cuts the bytes of a connection into frames; a protocol header counts as one."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the frames that are whole."""
        data = self._held + piece
        while len(data) >= 8:
            size = 8 if data.startswith(b"AMQP") else int.from_bytes(data[:4], "big")
            if len(data) < size:
                break
            yield data[:size]
            data = data[size:]
        self._held = data


def read_disposition(frame: bytes) -> Disposition | None:
    """Return what a frame settles, None if it is no disposition."""
    if frame.startswith(b"AMQP"):
        return None
    body = frame[4] * 4
    if frame[body : body + 3] != _DISPOSITION:
        return None
    role, first, _, settled, state, *_ = [*amqp.items(frame, body + 3), *[b"\x40"] * 5]
    return Disposition(
        channel=frame[6:8],
        first=amqp.number(first) or 0,
        is_settlement=role in _TRUE  # of a receiver
        and settled not in _TRUE
        and state.startswith(_ACCEPTED_OR_REJECTED),
    )


def lock_lost(asked: Disposition) -> bytes:
    """Return the broker's answer to a settlement whose lock is gone."""
    condition, text = MessageLockLost.condition.encode(), str(MessageLockLost()).encode()
    error = b"\x00\x53\x1d" + _list(
        b"\xa3" + bytes([len(condition)]) + condition,
        b"\xa1" + bytes([len(text)]) + text,
        b"\xc1\x01\x00",
    )
    number = b"\x70" + asked.first.to_bytes(4, "big")
    rejected = b"\x00\x53\x25" + _list(error)
    body = _DISPOSITION + _list(b"\x42", number, number, _TRUE[0], rejected)
    return (8 + len(body)).to_bytes(4, "big") + b"\x02\x00" + asked.channel + body


def _list(*items: bytes) -> bytes:
    inside = b"".join(items)
    size = (len(inside) + 4).to_bytes(4, "big")
    return b"\xd0" + size + len(items).to_bytes(4, "big") + inside

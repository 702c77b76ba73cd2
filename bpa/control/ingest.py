"""Ingest: takes from the queues as many messages as the fleet has room for (I9).

One feeder for each active deployment takes credit, receives that many messages, has ``intake``
record them, and asks for room again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from bpa.clocks import Clocks, of_message
from bpa.connectors import Message, SettlementLost, Source
from bpa.control.deployments import Deployments, Feeding
from bpa.control.intake import Intake, Origin
from bpa.control.rooms import Rooms
from bpa.control.runs import Received
from bpa.documents.schema_checks import SchemaCheck
from bpa.domain.runs import DeploymentId
from bpa.errors import BpaError, InvalidRequest, NotFound, StartupError, Unavailable
from bpa.retry import RetryPolicy, ceiling_s
from bpa.scheduler.credit import Credit
from bpa.scheduler.rooms import Room

_log = structlog.stdlib.get_logger(__name__)
_REFRESH_EVERY_S = 5.0
_RECEIVE_WAIT_S = 5.0
_NEXT_WAIT_S = 0.005
"""For the messages after the first: credit is not kept from others while none come."""
_RETRY_S = 1.0
_RETRY = RetryPolicy(base_s=_RETRY_S, cap_s=10.0)
_FOR_PEOPLE = (NotFound, StartupError)
"""A queue that is missing, or a key that is refused: somebody has to come, so it is asked less."""
RECEIVED_AT_MOST = 16
"""Messages of one deployment received and not yet recorded, for one replica."""


class Feeder:
    """The loop of one deployment: room, credit, receive, record, again.

    Args:
        origin: The queue and what works on its messages.
        intake: Records messages.
        rooms: What the planner last said of the room in the fleet.
        credit: The reservations of all replicas.
        replica_id: Who reserves.
        clocks: Ours has to be right to take a message, and each message says what the broker's is.
    """

    def __init__(
        self,
        origin: Origin,
        intake: Intake,
        rooms: Rooms,
        credit: Credit,
        replica_id: str,
        clocks: Clocks,
    ) -> None:
        self._origin = origin
        self._dep_id = origin.feeding.dep_id
        self._intake = intake
        self._rooms = rooms
        self._credit = credit
        self._replica_id = replica_id
        self._clocks = clocks
        self._full: Room | None = None
        self.trouble: str | None = None
        """Why it takes nothing from its queue, while that lasts."""

    async def run(self) -> None:
        """Feed until cancelled; an outage of the queue or of a store is waited out.

        What interrupts it is said once, until it changes.
        The source, once open, stays so then, and connects again by itself: what it received has yet
        to be settled over it.
        """
        log = _log.bind(deployment_id=self._dep_id, queue=self._origin.feeding.queue)
        is_open, said, in_vain = False, "", 0
        while True:
            try:
                if not is_open:
                    await self._origin.source.open()
                    is_open = True
                    log.info("feeding")
                self.trouble = None
                while True:
                    await self.one_pass()
                    if said:
                        log.info("feeding_resumed")
                        said, in_vain = "", 0
            except BpaError as error:
                self.trouble = f"queue {self._origin.feeding.queue!r}: {error}"
                if said != (said := str(error)):  # what goes on is no news
                    log.warning("feeding_interrupted", error=said)
                in_vain = in_vain + 1 if isinstance(error, _FOR_PEOPLE) else 0
            pause_s = ceiling_s(_RETRY, max(1, in_vain))
            await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - jitter

    async def one_pass(self) -> int:
        """Wait for room, receive at most that many messages, record them; return how many.

        After one that could not be recorded it takes a newer room to go on, which only a scheduler
        that reaches the stores finds: an outage must not use up the messages' deliveries.
        """
        if self._clocks.trouble():
            await asyncio.sleep(_RETRY_S)
            return 0
        room = await self._rooms.wait(self._dep_id, self._full)
        credit = await self._credit.reserve(self._dep_id, room, RECEIVED_AT_MOST, self._replica_id)
        self._full = None if credit else room
        accepting: list[tuple[Message, asyncio.Task[Received | None]]] = []
        interrupted: BpaError | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                while len(accepting) < credit and all(_of(t) for _, t in accepting if t.done()):
                    wait_s = _NEXT_WAIT_S if accepting else _RECEIVE_WAIT_S
                    try:
                        message = await self._origin.source.receive(wait_s)
                    except BpaError as error:
                        interrupted = error  # raised below: what was received is recorded first
                        break
                    self.trouble = None
                    if message is None:
                        break
                    self._compare_clocks(message)
                    accept = self._intake.accept(message, self._origin)
                    accepting.append((message, tasks.create_task(accept)))
        finally:
            await self._close_pass(accepting, room, credit)
        if interrupted:
            raise interrupted
        return len(accepting)

    def _compare_clocks(self, message: Message) -> None:
        offset = of_message(
            self._clocks.now_s(), message.enqueued_ms / 1000, message.locked_until.timestamp()
        )
        self._clocks.heard("the broker's", offset)

    async def _close_pass(
        self,
        accepting: Sequence[tuple[Message, asyncio.Task[Received | None]]],
        room: Room,
        credit: int,
    ) -> None:
        """Give back what was not recorded, a pass that was cancelled included, and the credit."""
        for message, task in accepting:
            if _of(task) is None:
                self._full = room
                await _give_back(message, self._origin.source)
        if credit:
            results = [_of(task) for _, task in accepting]
            recorded = [one.recorded_at for one in results if one and one.starts_a_run]
            await self._credit.release(self._dep_id, self._replica_id, recorded)


@dataclass(frozen=True, slots=True)
class _Fed:
    """A deployment that is fed, at one revision of it."""

    feeder: Feeder
    source: Source
    task: asyncio.Task[None]


class Ingest:
    """Keeps one feeder for each active deployment of one environment.

    Args:
        environment: Whose deployments are fed.
        namespace: The namespace's name, a part of every run id.
        deployments: What is active.
        sources: Builds the source of a queue.
        feeder: Builds the feeder of an origin.
        is_needed: Says whether something that a source received has yet to be settled over it.
    """

    def __init__(
        self,
        environment: str,
        namespace: str,
        deployments: Deployments,
        sources: Callable[[str], Source],
        feeder: Callable[[Origin], Feeder],
        is_needed: Callable[[Source], bool],
    ) -> None:
        self._environment = environment
        self._namespace = namespace
        self._deployments = deployments
        self._sources = sources
        self._feeder = feeder
        self._is_needed = is_needed
        self._changed = asyncio.Event()
        self._feeders: dict[tuple[DeploymentId, int], _Fed] = {}
        self._replaced: list[_Fed] = []
        self._refused: dict[tuple[DeploymentId, int], str] = {}

    def troubles(self) -> list[str]:
        """Say of each queue that cannot be read now why that is."""
        reading = (fed.feeder.trouble for fed in self._feeders.values())
        return [*(trouble for trouble in reading if trouble), *self._refused.values()]

    def deployments_changed(self) -> None:
        """Look at the deployments again at once."""
        self._changed.set()

    async def run(self) -> None:
        """Follow the deployments until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                await self._follow(tasks)
                await self._close_replaced()
                try:
                    async with asyncio.timeout(_REFRESH_EVERY_S):
                        await self._changed.wait()
                except TimeoutError:
                    continue  # another replica may have changed them

    async def aclose(self) -> None:
        """Disconnect from the queues, once what came from them is settled or given back."""
        opened = [*self._feeders.values(), *self._replaced]
        await asyncio.gather(*(fed.source.aclose() for fed in opened))
        self._feeders.clear()
        self._replaced.clear()

    async def _follow(self, tasks: asyncio.TaskGroup) -> None:
        try:
            feeding = await self._deployments.feeding(self._environment)
        except Unavailable as error:
            _log.warning("deployments_unavailable", error=str(error))
            return
        active = [one for one in feeding.values() if not one.paused]
        wanted = {(one.dep_id, one.revision): one for one in active}
        self._refused = {key: why for key, why in self._refused.items() if key in wanted}
        for key in self._feeders.keys() - wanted.keys():
            fed = self._feeders.pop(key)
            fed.task.cancel()
            self._replaced.append(fed)
        for key in wanted.keys() - self._feeders.keys():
            try:
                origin = self._origin(wanted[key])
            except InvalidRequest as error:  # an earlier release took it; it holds up no other
                self._refuse(key, str(error))
                continue
            feeder = self._feeder(origin)
            task = tasks.create_task(feeder.run())
            self._feeders[key] = _Fed(feeder, origin.source, task)

    def _refuse(self, key: tuple[DeploymentId, int], why: str) -> None:
        if key not in self._refused:
            _log.error("deployment_not_fed", deployment_id=key[0], why=why)
        self._refused[key] = f"deployment {key[0]!r} is not fed: {why}"

    async def _close_replaced(self) -> None:
        """Disconnect those that are fed no more, once all that they received is settled."""
        for fed in [*self._replaced]:
            if fed.task.done() and not self._is_needed(fed.source):
                self._replaced.remove(fed)
                await fed.source.aclose()

    def _origin(self, feeding: Feeding) -> Origin:
        schema = feeding.spec.input_schema
        check = SchemaCheck(schema) if schema else None
        return Origin(self._namespace, feeding, self._sources(feeding.queue), check)


def _of(task: asyncio.Task[Received | None]) -> Received | None:
    """Return what a message became; None too where recording it was cut off."""
    return None if task.cancelled() or task.exception() else task.result()


async def _give_back(message: Message, source: Source) -> None:
    try:
        await source.abandon(message)
    except (SettlementLost, Unavailable) as error:
        _log.warning(
            "give_back_failed",
            sequence_number=message.sequence_number,
            error=str(error),
            effect="it comes again when its lock runs out",
        )

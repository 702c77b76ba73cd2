"""Settlement: a message is settled once the end of its run is committed (I5).

The replica that received a message renews its lock and alone can settle it. It hears of a run's
end in its own process or over the channel ``run_ended``; a sweep finds what was missed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product

import structlog

from bpa.clocks import Clocks, of_renewal
from bpa.connectors import Message, SettlementLost, Source
from bpa.control.runs import Ended, Runs, Verdict
from bpa.domain.runs import RunId
from bpa.errors import Unavailable
from bpa.postgres import Notifications
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.spans import fields_of

_log = structlog.stdlib.get_logger(__name__)
_SWEEP_EVERY_S = 5.0
_RENEW_EVERY_S = 1.0
_RENEW_AFTER_MOST = timedelta(seconds=10)
_FLUSH_AT_MOST_S = 5.0
_COMES_AGAIN = "nothing is lost: the message comes again, joins its run and is settled with it"


@dataclass(slots=True)
class Held:
    """A delivery that waits for the end of its run."""

    run_id: RunId
    delivery_id: int
    source: Source
    message: Message
    trace_id: str
    queue: str = ""
    renew_at: datetime = field(init=False)
    renewing: bool = False

    def __post_init__(self) -> None:
        self.extend(self.message.locked_until)

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A logger that names the run and the span that the message was received in."""
        return _log.bind(**fields_of(self.run_id, self.trace_id, "receive"))

    @property
    def log_of_end(self) -> structlog.stdlib.BoundLogger:
        """A logger that names the run and the span that the message is settled in."""
        return _log.bind(**fields_of(self.run_id, self.trace_id, "complete"))

    def extend(self, locked_until: datetime) -> None:
        """Plan the next renewal halfway to the end of the lock, by the broker's clock.

        Ours may be behind it: then half of the lock would be too late, ten seconds hardly ever.
        """
        now = datetime.now(UTC)
        wait = max(timedelta(0), (locked_until - now) / 2)
        self.renew_at = now + min(wait, _RENEW_AFTER_MOST)


class Settlement:
    """Holds received messages until their runs end, then settles them.

    Args:
        runs: To read verdicts, to note dispositions, to tell other replicas.
        notifications: To hear from other replicas.
        replica_id: Who we are, as the owner of deliveries.
        metrics: Counts settlements and renewals.
        clocks: Hears what renewals tell of the broker's clock.
    """

    def __init__(
        self,
        runs: Runs,
        notifications: Notifications,
        replica_id: str,
        metrics: Metrics,
        clocks: Clocks,
    ) -> None:
        self._runs = runs
        self._notifications = notifications
        self._replica_id = replica_id
        self._metrics = metrics
        self._clocks = clocks
        for result in ("ok", "lost", "unavailable"):  # at 0: an increase then shows the first one
            metrics.lock_renewals.labels(result)
        metrics.settled.labels("lost", "lost")
        for disposition, result in product(("complete", "dead_letter"), ("ok", "unavailable")):
            metrics.settled.labels(disposition, result)
        self._held: dict[RunId, list[Held]] = {}
        self._settling: Counter[Source] = Counter()
        self._verdicts: asyncio.Queue[Verdict] = asyncio.Queue()
        self._elsewhere: asyncio.Queue[RunId] = asyncio.Queue()

    @property
    def holding(self) -> int:
        """Messages that wait for the end of their run."""
        return sum(len(deliveries) for deliveries in self._held.values())

    def needs(self, source: Source) -> bool:
        """Say whether something that ``source`` received has yet to be settled over it."""
        held = (one for deliveries in self._held.values() for one in deliveries)
        return self._settling[source] > 0 or any(one.source is source for one in held)

    def hold(self, held: Held) -> None:
        """Keep a message's lock until its run ends."""
        self._held.setdefault(held.run_id, []).append(held)

    def ended(self, ended: Ended) -> None:
        """Settle what is held here for a run that has ended, and tell the replica that owns it.

        Both: what is held here may be an earlier delivery, whose lock was lost without our knowing.
        """
        if ended.verdict is None:
            return
        if ended.verdict.run_id in self._held:
            self._verdicts.put_nowait(ended.verdict)
        if ended.owner is not None and ended.owner != self._replica_id:
            self._elsewhere.put_nowait(ended.verdict.run_id)

    async def run(self) -> None:
        """Settle, renew, listen and sweep until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell())
            tasks.create_task(self._listen())
            tasks.create_task(self._sweep())
            tasks.create_task(self._renew(tasks))
            while True:
                tasks.create_task(self._settle_all(await self._verdicts.get()))

    async def flush(self) -> None:
        """Return when every verdict known so far has been settled, or after 5 s.

        What is left then is settled with its next delivery; :meth:`run` may have died.
        """
        try:
            async with asyncio.timeout(_FLUSH_AT_MOST_S):
                await self._verdicts.join()
        except TimeoutError:
            _log.warning("verdicts_left_unsettled", count=self._verdicts.qsize())

    async def settle(self, held: Held, verdict: Verdict) -> None:
        """Settle one delivery with its run's verdict.

        A lost lock is no failure: the broker delivers again, and that delivery is settled at once.
        A broker too busy to answer has left the lock: the message is held for the next sweep.
        """
        disposition = "complete" if verdict.completed else "dead_letter"
        self._settling[held.source] += 1
        try:
            if verdict.completed:
                await held.source.complete(held.message)
            else:
                await held.source.dead_letter(held.message, verdict.reason, verdict.detail)
            result = "ok"
        except Unavailable as error:
            held.log_of_end.warning("settlement_waits", error=str(error), effect="tried again")
            self._metrics.settled.labels(disposition, "unavailable").inc()
            self.hold(held)
            return
        except SettlementLost as error:
            disposition, result = "lost", "lost"
            held.log_of_end.warning("settlement_lost", error=str(error), effect=_COMES_AGAIN)
        finally:
            self._settling -= Counter([held.source])  # which drops what is at zero
        self._metrics.settled.labels(disposition, result).inc()
        if disposition == "dead_letter":
            self._metrics.dead_lettered.labels(held.queue, verdict.reason).inc()
        held.log_of_end.info(
            "message_settled", disposition=disposition, reason=verdict.reason or None
        )
        try:
            await self._runs.settled(held.delivery_id, disposition)
        except Unavailable as error:
            held.log.warning("disposition_not_noted", error=str(error))

    async def abandon_all(self) -> None:
        """Give back what is still held, for another replica to take at once; within 5 s.

        Used at shutdown: a queue or a database that does not answer must not hold it up.
        """
        held = [one for deliveries in self._held.values() for one in deliveries]
        self._held.clear()
        try:
            async with asyncio.timeout(_FLUSH_AT_MOST_S):
                await asyncio.gather(*map(self._abandon, held))
        except TimeoutError:
            _log.warning("messages_left_locked", effect="they come again when their locks run out")

    async def _abandon(self, held: Held) -> None:
        try:
            await held.source.abandon(held.message)
            await self._runs.settled(held.delivery_id, "abandon")
        except (SettlementLost, Unavailable) as error:
            held.log.warning(
                "abandon_failed", error=str(error), effect="it comes again when its lock runs out"
            )

    async def _settle_all(self, verdict: Verdict) -> None:
        deliveries = self._held.pop(verdict.run_id, [])
        try:
            await asyncio.gather(*(self.settle(held, verdict) for held in deliveries))
        finally:
            self._verdicts.task_done()

    async def _tell(self) -> None:
        while True:
            run_id = await self._elsewhere.get()
            try:
                await self._runs.announce_end(run_id)
            except Unavailable as error:
                _log.warning(
                    "run_ended_not_announced",
                    run_id=run_id,
                    error=str(error),
                    effect=f"its message is settled up to {_SWEEP_EVERY_S:g} s later",
                )

    async def _listen(self) -> None:
        with self._notifications.subscribe("run_ended") as subscription:
            async for wakeup in subscription:
                ours = self._held if not wakeup.complete else wakeup.payloads
                await self._look_up(RunId(run_id) for run_id in ours)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            await self._look_up(list(self._held))

    async def _look_up(self, run_ids: Iterable[RunId]) -> None:
        held = [run_id for run_id in run_ids if run_id in self._held]
        if not held:
            return
        try:
            for verdict in await self._runs.verdicts(held):
                self._verdicts.put_nowait(verdict)
        except Unavailable as error:
            _log.warning("verdicts_unavailable", error=str(error))

    async def _renew(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await asyncio.sleep(_RENEW_EVERY_S)
            now = datetime.now(UTC)
            for deliveries in self._held.values():
                for held in deliveries:
                    if held.renew_at <= now and not held.renewing:
                        held.renewing = True
                        tasks.create_task(self._renew_one(held))

    async def _renew_one(self, held: Held) -> None:
        sent_s = self._clocks.now_s()
        try:
            locked_until = await held.source.renew(held.message)
            held.extend(locked_until)
            answer = of_renewal(sent_s, self._clocks.now_s(), locked_until.timestamp())
            self._clocks.heard("the broker's", answer)
            self._metrics.lock_renewals.labels("ok").inc()
        except SettlementLost:
            if self._dropped(held):  # else it was settled while the renewal waited for its turn
                self._metrics.lock_renewals.labels("lost").inc()
                held.log.warning("lock_lost", effect=_COMES_AGAIN)
                await self._note_lost(held)
        except Unavailable as error:
            self._metrics.lock_renewals.labels("unavailable").inc()
            held.log.warning("lock_not_renewed", error=str(error), effect="tried again")
        finally:
            held.renewing = False

    async def _note_lost(self, held: Held) -> None:
        try:
            await self._runs.settled(held.delivery_id, "lost")
        except Unavailable as error:
            held.log.warning("disposition_not_noted", error=str(error))

    def _dropped(self, held: Held) -> bool:
        """Hold it no longer; say if it was held."""
        deliveries = self._held.get(held.run_id, [])
        was_held = held in deliveries
        if was_held:
            deliveries.remove(held)
        if not deliveries:
            self._held.pop(held.run_id, None)
        return was_held

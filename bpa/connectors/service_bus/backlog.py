"""How much waits in a queue, how old the oldest is, and how far the numbers can be trusted.

The administration counts. Where it does not answer us, the first `ESTIMATE_AT_MOST` messages are
looked at instead, which needs no more than the Listen right, and the numbers are an estimate.
The administration knows no age: that is the enqueued time of the first active message, peeked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from azure.servicebus import ServiceBusSubQueue

from bpa import amqp
from bpa.connectors.service_bus.administration import Administration, Described
from bpa.connectors.service_bus.peeking import encoded_messages, peeking
from bpa.errors import BpaError, NotFound, StartupError

ESTIMATE_AT_MOST = 1000
"""Messages that are looked at for an estimate: beyond, it says "so many or more"."""
_PAGE = 100
_ACTIVE, _SCHEDULED = 0, 2
"""Values of ``x-opt-message-state``; 1 is deferred."""


class Trouble(StrEnum):
    """What is wrong with a reading."""

    NOT_FOUND = "queue_not_found"
    """There is no such queue."""
    NO_MANAGE = "administration_refused"
    """The numbers are estimated: the key lacks the Manage right."""
    ADMINISTRATION_AWAY = "administration_unreachable"
    """The numbers are estimated: the administration does not answer."""
    ADMINISTRATION_UNSET = "administration_not_set"
    """The numbers are estimated: no administration is named, and an emulator's has its own port."""
    AGE_UNKNOWN = "age_unknown"
    """The counts are true; none of the messages that were peeked at is active, or none could be."""
    UNREADABLE = "unreadable"
    """Neither way gave numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many messages there are."""

    active: int
    """Not settled yet: free, locked or deferred."""
    scheduled: int
    dead_letters: int
    estimated: bool = False
    active_at_least: bool = False
    """An estimate that ended before the queue did; scheduled ones may be more, too."""
    dead_letters_at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """One reading of a queue."""

    counts: Counts | None = None
    """None where nothing could be told."""
    oldest_enqueued_at: datetime | None = None
    """Of the first active message, by the broker's clock; None when there is none, or unknown."""
    max_delivery_count: int | None = None
    """None where the administration did not tell."""
    trouble: Trouble | None = None
    detail: str = ""
    """The trouble in words, and what to do."""


_NO_QUEUE = Backlog(
    trouble=Trouble.NOT_FOUND,
    detail="the namespace has no such queue: create it, or correct the name in the deployment",
)


class BacklogReader:
    """Reads the backlog of any queue of a namespace; nothing it meets is raised.

    Args:
        connection_string: For messages, with the Listen right.
        administration: What counts; None where there is none.
    """

    def __init__(self, connection_string: str, administration: Administration | None) -> None:
        self._connection_string = connection_string
        self._administration = administration

    async def read(self, queue: str) -> Backlog:
        """Read one queue; each part of it is bounded in time."""
        if self._administration is None:
            return await self._estimated(
                queue,
                Trouble.ADMINISTRATION_UNSET,
                "set service_bus.administration for true numbers",
            )
        try:
            described = await self._administration.describe(queue)
        except NotFound:
            return _NO_QUEUE
        except StartupError as error:
            return await self._estimated(queue, Trouble.NO_MANAGE, str(error))
        except BpaError as error:
            return await self._estimated(queue, Trouble.ADMINISTRATION_AWAY, str(error))
        return await self._counted(queue, described)

    async def aclose(self) -> None:
        """Disconnect."""
        if self._administration is not None:
            await self._administration.aclose()

    async def _counted(self, queue: str, described: Described) -> Backlog:
        oldest: datetime | None = None
        trouble, detail = None, ""
        if described.active:
            try:
                seen = await self._seen(queue, None, only_the_oldest=True)
            except BpaError as error:
                trouble, detail = Trouble.AGE_UNKNOWN, str(error)
            else:
                oldest = seen.oldest
                if oldest is None and seen.is_cut_off:
                    trouble = Trouble.AGE_UNKNOWN
                    detail = f"the first {seen.messages} messages are deferred or scheduled"
        return Backlog(
            counts=Counts(
                active=described.active,
                scheduled=described.scheduled,
                dead_letters=described.dead_letters,
            ),
            oldest_enqueued_at=oldest,
            max_delivery_count=described.max_delivery_count,
            trouble=trouble,
            detail=detail,
        )

    async def _estimated(self, queue: str, trouble: Trouble, why: str) -> Backlog:
        try:
            waiting = await self._seen(queue, None)
            dead = await self._seen(queue, ServiceBusSubQueue.DEAD_LETTER)
        except NotFound:
            return _NO_QUEUE
        except BpaError as error:
            return Backlog(trouble=Trouble.UNREADABLE, detail=f"{error}; {why}")
        counts = Counts(
            active=waiting.messages - waiting.scheduled,
            scheduled=waiting.scheduled,
            dead_letters=dead.messages,
            estimated=True,
            active_at_least=waiting.is_cut_off,
            dead_letters_at_least=dead.is_cut_off,
        )
        return Backlog(
            counts=counts, oldest_enqueued_at=waiting.oldest, trouble=trouble, detail=why
        )

    async def _seen(
        self, queue: str, sub_queue: ServiceBusSubQueue | None, *, only_the_oldest: bool = False
    ) -> _Seen:
        """Look at the first messages: at all that an estimate may, or until the oldest is found."""
        seen, following, size = _Seen(), 1, 1 if only_the_oldest else _PAGE
        async with peeking(self._connection_string, queue, sub_queue, with_bodies=False) as peek:
            while page := await peek(size, following, _annotations):
                seen.add(page)
                if seen.is_cut_off or (only_the_oldest and seen.oldest):
                    break
                following = page[-1].sequence_number + 1
                size = min(_PAGE, ESTIMATE_AT_MOST - seen.messages)
        return seen


class _Peeked(NamedTuple):
    """What the broker wrote on a message."""

    sequence_number: int
    enqueued_at: datetime
    state: int


@dataclass(slots=True)
class _Seen:
    """What the first messages of a queue are."""

    messages: int = 0
    scheduled: int = 0
    oldest: datetime | None = None

    @property
    def is_cut_off(self) -> bool:
        """Whether there may be more."""
        return self.messages >= ESTIMATE_AT_MOST

    def add(self, page: list[_Peeked]) -> None:
        """Take what comes next in the queue."""
        for one in page:
            self.messages += 1
            self.scheduled += one.state == _SCHEDULED
            if one.state == _ACTIVE and self.oldest is None:
                self.oldest = one.enqueued_at


def _annotations(_: Any, answer: Any) -> list[_Peeked]:
    return [_peeked(encoded) for encoded in encoded_messages(answer)]


def _peeked(encoded: bytes) -> _Peeked:
    """Read the broker's annotations alone: building whole messages costs ten times as much."""
    found: dict[str | None, int | None] = {}
    for code, _, value, end in amqp.sections(encoded):
        if code == amqp.MESSAGE_ANNOTATIONS:
            pairs = amqp.pairs(encoded[value:end], 0)
            found = {amqp.text(key): amqp.number(item) for key, item in pairs}
            break
    return _Peeked(
        found.get("x-opt-sequence-number") or 0,
        datetime.fromtimestamp((found.get("x-opt-enqueued-time") or 0) / 1000, UTC),
        found.get("x-opt-message-state") or 0,
    )

"""What nodes say and hear under their leases."""

from __future__ import annotations

import uuid
from typing import Annotated, Self

import msgspec

from bpa.control.rest.schemas import Document, Text
from bpa.domain.executions import LeaseOffer, Outcome
from bpa.domain.journal import Step

Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Registered(Document, frozen=True):
    """What a registered node keeps to, seconds."""

    heartbeat_every_s: float
    lease_ttl_s: float
    cordoned: bool
    """An operator keeps new leases from the node, whatever its boot."""
    draining: bool
    """An operator wants the node empty."""


class HeldLease(Document, frozen=True):
    """A lease by its run and epoch."""

    run_id: uuid.UUID
    epoch: Epoch

    @classmethod
    def of_pair(cls, run_id: str, epoch: int) -> Self:
        """Build it from what the services speak in."""
        return cls(run_id=uuid.UUID(run_id), epoch=epoch)


class Heartbeat(Document, frozen=True):
    """What a node says it holds."""

    boot_id: Text
    held: Annotated[list[HeldLease], msgspec.Meta(max_length=10_000)] = msgspec.field(
        default_factory=list
    )
    draining: bool = False
    """True from when it takes no more leases, because it is about to leave."""


class Renewed(Document, frozen=True):
    """What of it is renewed, and what is lost."""

    renewed: list[HeldLease]
    lost: list[HeldLease]
    cancel: list[str]
    """Ids of runs, among the renewed, that somebody wants ended."""
    cordoned: bool
    draining: bool
    """An operator wants the node empty; what it runs may end by itself until the deadline."""
    hand_back: bool
    """The deadline has passed: end what is held, and report it with ``:fail`` as
    ``handed_back``. A node that does not is not renewed for long."""


class Pull(Document, frozen=True):
    """A bounded long poll for leases."""

    node_id: Text
    boot_id: Text
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=30)] = 20.0
    """Seconds to wait for the first lease."""
    max: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1


class Pulled(Document, frozen=True):
    """Leases to acknowledge."""

    leases: list[LeaseOffer]


class Fenced(Document, frozen=True):
    """A report under a lease."""

    epoch: Epoch


class Refused(Fenced, frozen=True):
    """Why a node does not take an offer."""

    why: Text


class Progressed(Fenced, frozen=True):
    """How far an execution has come."""

    stage: Text


class Stepped(Fenced, frozen=True):
    """A step's intent or answer."""

    step: Step


class Ended(Fenced, frozen=True):
    """How an execution ended; ``complete`` takes ``completed`` outcomes, ``fail`` the others."""

    outcome: Outcome

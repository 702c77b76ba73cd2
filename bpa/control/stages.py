"""What a run's timeline is made of: stages, each perhaps a part of another. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

Row = Mapping[str, Any]
Attributes = dict[str, str | int | float | bool | list[str]]


class StageKind(StrEnum):
    """Toward whom a stage is, as OpenTelemetry has it."""

    INTERNAL = "internal"
    CLIENT = "client"
    CONSUMER = "consumer"
    PRODUCER = "producer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One thing that happened to a run."""

    name: str
    span_id: str
    parent_id: str = ""
    """Of another stage, or of the sender's span; empty for the first of a trace."""
    kind: StageKind = StageKind.INTERNAL
    started_at: datetime
    ended_at: datetime | None
    """None while it goes on."""
    attempt: int = 0
    """Which execution it belongs or leads to, from 1; 0 for what a run has once."""
    node_id: str = ""
    """The node that did it; empty for control."""
    step: int | None = None
    """Its position in the journal."""
    error: str = ""
    """The kind of its failure; empty where it went well."""
    detail: str = ""
    attributes: Attributes = field(default_factory=dict)
    link: str = ""
    """The ``traceparent`` of a span in another trace that led to this one."""


def closed(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages that are over, with all that they are a part of.

    These change no more, and what is over later comes after them.
    """
    known = {stage.span_id: stage for stage in stages}

    def is_closed(stage: Stage) -> bool:
        parent = known.get(stage.parent_id)
        return stage.ended_at is not None and (parent is None or is_closed(parent))

    return [stage for stage in stages if is_closed(stage)]

"""What is known of a queue besides its messages, and which word counts when two disagree. Pure.

A queue comes from Config.json or over the administration API, and may be changed over the API. At
each start the file is merged with what the journal remembers (``merge``): whoever spoke last is
heard. What the file says anew counts; what it has said before does not undo a later change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from .config import QueueConfig


@dataclass(frozen=True, slots=True)
class Entity:
    """One queue of the namespace."""

    config: QueueConfig
    created_ms: int
    updated_ms: int
    configured: QueueConfig | None = None
    """What Config.json said of it; None for a queue that it did not name."""

    def encoded(self) -> bytes:
        """Encode it for the journal."""
        return msgspec.json.encode(self)


def decode(data: bytes) -> Entity:
    """Read what ``Entity.encoded`` has written.

    Raises:
        ValueError: It is something else.
    """
    return msgspec.json.decode(data, type=Entity)


def named(path: str, configured: Iterable[QueueConfig]) -> QueueConfig | None:
    """Return what the file says of the queue of a lower-case path, None for nothing."""
    return next((config for config in configured if config.name.lower() == path), None)


def merge(
    kept: Mapping[str, Entity], configured: Iterable[QueueConfig], now_ms: int
) -> dict[str, Entity]:
    """Bring the file and the journal together; return the queues there are, by lower-case path.

    A queue that the file names exists, also when it was deleted over the API. Its properties are
    the file's, unless they were changed over the API after the file last changed, or it was deleted
    and made again there. A queue made over the API stays as it is; one that the file has named goes
    when the file names it no longer.
    """
    entities: dict[str, Entity] = {}
    for config in configured:
        path = config.name.lower()
        known = kept.get(path)
        if known is None:
            entities[path] = Entity(config, now_ms, now_ms, configured=config)
        elif known.configured == config:
            entities[path] = known
        else:
            entities[path] = replace(known, config=config, configured=config, updated_ms=now_ms)
    for path, entity in kept.items():
        if entity.configured is None:
            entities.setdefault(path, entity)
    return entities

"""Read the official emulator's Config.json, and report everything that is wrong with it at once.

The fields, defaults and ranges are those Microsoft documents for its emulator. The real service
allows more than those ranges, so a value outside them is taken; what this emulator does not serve
yet is refused by name instead of being ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bpa.errors import SettingsError

NAMESPACE = "sbemulatorns"
QUEUE_NAME = re.compile(r"^[A-Za-z0-9]$|^[A-Za-z0-9][\w\-./]*[A-Za-z0-9]$", re.ASCII)
_DURATION = re.compile(
    r"^P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?"
    r"(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?$"
)
_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*')
_LOGGING_TYPES = ("File", "Console", "File,Console", "Console,File")
_MOST_ENTITIES = 50
UNENDING_S = 10_000 * 86_400.0
_NOT_SERVED = ("ForwardDeadLetteredMessagesTo", "ForwardTo", "RequiresSession")
_IGNORABLE: Mapping[str, tuple[Any, ...]] = {
    "ForwardDeadLetteredMessagesTo": ("", None),
    "ForwardTo": ("", None),
    "RequiresSession": (False, None),
}


class Status(StrEnum):
    """What a queue lets its clients do."""

    ACTIVE = "Active"
    DISABLED = "Disabled"
    SEND_DISABLED = "SendDisabled"
    RECEIVE_DISABLED = "ReceiveDisabled"


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """One queue's properties."""

    name: str
    lock_duration_s: float = 60.0
    max_delivery_count: int = 3
    default_ttl_s: float | None = None
    """How long a message lives unless it asks for less; None keeps it."""
    dead_letter_on_expiration: bool = False
    status: Status = Status.ACTIVE
    user_metadata: str | None = None
    """A note of the user's own."""
    max_message_kb: int | None = None
    """The largest message, where the tier lets it be set; None is the tier's own."""
    max_size_mb: int = 1024
    """Nothing more is taken once the messages, dead letters included, come to this."""
    enable_batched_operations: bool = True
    """Told to those who ask, without effect."""
    auto_delete_s: float | None = None
    """How long the queue may be idle before it is deleted; None keeps it."""
    duplicate_window_s: float | None = None
    """For how long a message id is not accepted again; None accepts all."""


@dataclass(frozen=True, slots=True)
class NamespaceConfig:
    """The entities that the emulator serves."""

    queues: tuple[QueueConfig, ...]


DEFAULT_NAMESPACE = NamespaceConfig(queues=(QueueConfig("invoices", max_delivery_count=10),))


def load_config(path: Path) -> NamespaceConfig:
    """Read a Config.json.

    Raises:
        SettingsError: It cannot be read, or something in it is wrong; every problem is listed.
    """
    try:
        document = json.loads(_without_comments(path.read_text("utf-8-sig")))
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError([f"{path}: is not JSON with // comments: {error}"]) from error
    problems: list[str] = []
    config = _Reader(problems).namespace(document)
    if problems:
        raise SettingsError([f"{path}: {problem}" for problem in problems])
    return config


def _without_comments(source: str) -> str:
    return _COMMENT.sub(lambda found: found[0] if found[0].startswith('"') else "", source)


def parse_duration_s(value: str) -> float | None:
    """Return the seconds of an ISO 8601 duration such as ``PT1M``, None if it is not one."""
    found = _DURATION.match(value)
    if found is None or not any(found.groups()):
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def render_duration(seconds: float | None) -> str:
    """Write an ISO 8601 duration; None is the service's longest."""
    if seconds is None:
        return "P10675199DT2H48M5.4775807S"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    days, hours = divmod(hours, 24)
    parts = ((hours, "H"), (minutes, "M"), (rest, "S"))
    time = "".join(f"{value:.15g}{unit}" for value, unit in parts if value)
    return "P" + (f"{days}D" if days else "") + (f"T{time}" if time else "")


class _Reader:
    """Walks the document and collects what is wrong with it."""

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems

    def namespace(self, document: Any) -> NamespaceConfig:
        root = self._object(document, "document", {"UserConfig"}, required={"UserConfig"})
        user = self._object(
            root.get("UserConfig", {}),
            "UserConfig",
            {"Namespaces", "Logging"},
            required={"Namespaces", "Logging"} if root else set(),
        )
        if "Logging" in user:
            self._logging(user["Logging"])
        spaces = self._list(user.get("Namespaces", []), "UserConfig.Namespaces")
        if "Namespaces" in user and len(spaces) != 1:
            self._wrong("UserConfig.Namespaces", "must hold exactly one namespace")
        if not spaces:
            return NamespaceConfig(queues=())
        return self._one_namespace(spaces[0], "UserConfig.Namespaces[0]")

    def _one_namespace(self, value: Any, where: str) -> NamespaceConfig:
        fields = {"Name", "Queues", "Topics"}
        space = self._object(value, where, fields, required=fields)
        if space.get("Name", NAMESPACE) != NAMESPACE:
            self._wrong(f"{where}.Name", f"must be {NAMESPACE!r}")
        if self._list(space.get("Topics", []), f"{where}.Topics"):
            self._wrong(f"{where}.Topics", "topics are not served yet; leave the list empty")
        entries = self._list(space.get("Queues", []), f"{where}.Queues")
        if len(entries) > _MOST_ENTITIES:
            self._wrong(f"{where}.Queues", f"must hold at most {_MOST_ENTITIES} queues")
        queues = [self._queue(entry, f"{where}.Queues[{i}]") for i, entry in enumerate(entries)]
        seen: set[str] = set()
        for index, queue in enumerate(queues):
            if queue.name.lower() in seen:
                self._wrong(f"{where}.Queues[{index}].Name", f"repeats queue {queue.name!r}")
            seen.add(queue.name.lower())
        return NamespaceConfig(queues=tuple(queues))

    def _queue(self, value: Any, where: str) -> QueueConfig:
        entry = self._object(value, where, {"Name", "Properties"}, required={"Name"})
        name = entry.get("Name", "?")
        if "Name" in entry and not (isinstance(name, str) and QUEUE_NAME.match(name)):
            self._wrong(f"{where}.Name", "must be letters, digits and inner - . / _")
        served = {
            "DeadLetteringOnMessageExpiration",
            "DefaultMessageTimeToLive",
            "DuplicateDetectionHistoryTimeWindow",
            "LockDuration",
            "MaxDeliveryCount",
            "RequiresDuplicateDetection",
        }
        place = f"{where}.Properties"
        properties = self._object(
            entry.get("Properties") or {}, place, served | set(_NOT_SERVED), required=set()
        )
        for key, harmless in _IGNORABLE.items():
            if properties.get(key) not in harmless:
                self._wrong(f"{place}.{key}", f"is not served yet; use {json.dumps(harmless[0])}")
        ttl_s = self._duration(properties, "DefaultMessageTimeToLive", place, 3600.0)
        window_s = self._duration(properties, "DuplicateDetectionHistoryTimeWindow", place, 20.0)
        detects = self._flag(properties, "RequiresDuplicateDetection", place)
        return QueueConfig(
            name=str(name),
            lock_duration_s=self._duration(properties, "LockDuration", place, 60.0),
            max_delivery_count=self._count(properties, "MaxDeliveryCount", place, 3),
            default_ttl_s=None if ttl_s >= UNENDING_S else ttl_s,
            dead_letter_on_expiration=self._flag(
                properties, "DeadLetteringOnMessageExpiration", place
            ),
            duplicate_window_s=window_s if detects else None,
        )

    def _logging(self, value: Any) -> None:
        where = "UserConfig.Logging"
        logging = self._object(value, where, {"Type"}, required={"Type"})
        if "Type" in logging and logging["Type"] not in _LOGGING_TYPES:
            self._wrong(f"{where}.Type", "must be one of " + " | ".join(_LOGGING_TYPES))

    def _object(
        self, value: Any, where: str, known: set[str], *, required: set[str]
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._wrong(where, "must be an object")
            return {}
        for key in value.keys() - known:
            self._wrong(f"{where}.{key}", "is not a known field")
        for key in sorted(required - value.keys()):
            self._wrong(f"{where}.{key}", "is required")
        return {key: item for key, item in value.items() if key in known}

    def _list(self, value: Any, where: str) -> list[Any]:
        if isinstance(value, list):
            return value
        self._wrong(where, "must be a list")
        return []

    def _duration(
        self, properties: dict[str, Any], key: str, where: str, default_s: float
    ) -> float:
        value = properties.get(key)
        if value is None:
            return default_s
        seconds = parse_duration_s(value) if isinstance(value, str) else None
        if not seconds:
            self._wrong(f"{where}.{key}", "must be an ISO 8601 duration above zero, as PT1M")
        return seconds or default_s

    def _count(self, properties: dict[str, Any], key: str, where: str, default: int) -> int:
        value = properties.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2000:
            return value
        self._wrong(f"{where}.{key}", "must be a whole number from 1 to 2000")
        return default

    def _flag(self, properties: dict[str, Any], key: str, where: str) -> bool:
        value = properties.get(key, False)
        if not isinstance(value, bool):
            self._wrong(f"{where}.{key}", "must be true or false")
        return value is True

    def _wrong(self, where: str, what: str) -> None:
        self._problems.append(f"{where}: {what}")

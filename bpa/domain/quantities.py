"""Durations, CPU and memory as deployments write them, and times as people ask for them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from bpa.errors import InvalidRequest

DURATION_PATTERN = r"^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)$"
CPU_PATTERN = r"^([0-9]+(?:\.[0-9]+)?)(m?)$"
MEMORY_PATTERN = r"^([0-9]+(?:\.[0-9]+)?)(|k|M|G|T|Ki|Mi|Gi|Ti)$"
_DURATION = re.compile(DURATION_PATTERN)
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BACK = re.compile(r"([0-9]{1,6})([smhdw])")
_BACK_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CPU = re.compile(CPU_PATTERN)
_MEMORY = re.compile(MEMORY_PATTERN)
_MEMORY_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def duration_s(text: str) -> float:
    """Return seconds for a duration such as ``500ms``, ``60s``, ``5m`` or ``1h``.

    Raises:
        InvalidRequest: It is none.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{text!r} is no duration; write for example 60s or 5m")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def moment(text: str, now: datetime) -> datetime:
    """Return a time in UTC: so long before now, as ``7d``, or a date, perhaps with a time of day.

    Raises:
        InvalidRequest: It is none.
    """
    try:
        if back := _BACK.fullmatch(text):
            return now - timedelta(**{_BACK_UNITS[back[2]]: int(back[1])})
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{text[:40]!r} is no time; write 1h, 7d, 2026-11-29 or 2026-11-29T08:00:00Z"
        ) from None


def cpu_millis(text: str) -> int:
    """Return thousandths of a core for a Kubernetes CPU quantity such as ``500m`` or ``2``.

    Raises:
        InvalidRequest: It is none.
    """
    match = _CPU.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{text!r} is no CPU quantity; write for example 500m or 2")
    return round(float(match[1]) * (1 if match[2] else 1000))


def memory_bytes(text: str) -> int:
    """Return bytes for a Kubernetes memory quantity such as ``1Gi`` or ``512M``.

    Raises:
        InvalidRequest: It is none.
    """
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{text!r} is no memory quantity; write for example 512Mi or 1Gi")
    return round(float(match[1]) * _MEMORY_UNITS[match[2]])

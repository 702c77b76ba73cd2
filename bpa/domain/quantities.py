"""Durations, CPU and memory as deployments write them."""

from __future__ import annotations

import re

from bpa.errors import InvalidRequest

DURATION_PATTERN = r"^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)$"
CPU_PATTERN = r"^([0-9]+(?:\.[0-9]+)?)(m?)$"
MEMORY_PATTERN = r"^([0-9]+(?:\.[0-9]+)?)(|k|M|G|T|Ki|Mi|Gi|Ti)$"
_DURATION = re.compile(DURATION_PATTERN)
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
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

"""Charts as figures in a field of fixed size, for a template to draw as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600, 120
_GAP = 0.25


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points that are known; where none is, it is interrupted."""

    name: str
    tone: str
    path: str
    area: str
    """The same down to the ground, empty where the line stands for itself."""


@dataclass(frozen=True, slots=True)
class Box:
    """A bar, or a part of a stacked one."""

    tone: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw, and what it says in words."""

    title: str
    value: str
    note: str
    summary: str
    """For who does not see it."""
    top: str
    """What the upper edge stands for."""
    lines: Sequence[Line] = ()
    boxes: Sequence[Box] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    """The same as a table."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.boxes and not any(line.path for line in self.lines)


def ceiling(most: float) -> float:
    """Return a round number at or above ``most``: 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most * 0.999)


def line(
    name: str, tone: str, values: Sequence[float | None], top: float, *, filled: bool = False
) -> Line:
    """Return a line over evenly spaced values; None is a gap."""
    step = WIDTH / max(1, len(values) - 1)
    pieces: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((index * step, HEIGHT * (1 - min(value, top) / top)))
    drawn = [piece for piece in pieces if piece]
    area = "".join(_area(piece) for piece in drawn) if filled else ""
    return Line(name, tone, "".join(_path(piece) for piece in drawn), area)


def stacked(series: Sequence[tuple[str, Sequence[float]]], top: float) -> list[Box]:
    """Return bars of parts that stand on each other, the first at the ground."""
    boxes: list[Box] = []
    slots = max((len(values) for _, values in series), default=1)
    width = WIDTH / max(1, slots)
    for index in range(slots):
        ground = float(HEIGHT)
        for tone, values in series:
            height = HEIGHT * min(values[index], top) / top
            if height > 0:
                ground -= height
                x = index * width + width * _GAP / 2
                boxes.append(
                    Box(tone, round(x, 1), round(ground, 1), round(width * (1 - _GAP), 1),
                        round(height, 1))
                )  # fmt: skip
    return boxes


def _path(piece: Sequence[tuple[float, float]]) -> str:
    if len(piece) == 1:  # a point alone would not be seen
        x, y = piece[0]
        return f"M{x - 2:.1f} {y:.1f}H{x + 2:.1f}"
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in piece)


def _area(piece: Sequence[tuple[float, float]]) -> str:
    return f"{_path(piece)}V{HEIGHT}H{piece[0][0]:.1f}Z" if len(piece) > 1 else ""

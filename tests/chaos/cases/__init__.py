"""The cases, by name; ``python -m tests.chaos --list`` shows them."""

from __future__ import annotations

from tests.chaos.cases import drains, endurance, links, processes, replays, stores
from tests.chaos.scene import Case

CASES: dict[str, Case] = {
    case.name: case
    for module in (processes, drains, stores, links, replays, endurance)
    for case in module.CASES
}

"""The cases, by name; ``python -m tests.chaos --list`` shows them."""

from __future__ import annotations

from tests.chaos.cases import endurance, links, processes, stores
from tests.chaos.scene import Case

CASES: dict[str, Case] = {
    case.name: case for module in (processes, stores, links, endurance) for case in module.CASES
}

"""The cases, by name; ``python -m tests.chaos --list`` shows them."""

from __future__ import annotations

import signal

from tests.chaos import drains
from tests.chaos.pacing import lasting
from tests.chaos.replays import kill_replays
from tests.chaos.scene import TTL_S, Act, Case
from tests.chaos.watch import leased_again


async def kill_nodes(act: Act) -> None:
    """Kill -9 of a node that holds leases, and of the other one once those have moved."""
    for node in act.rng.sample(act.fleet.nodes, 2):
        held = await act.busy(node)
        await node.kill()
        act.bit("node killed", len(held))
        took_s = await leased_again(act.servers, held, within_s=30)
        worst = max(took_s, act.figures.get("leased elsewhere after, s", 0))
        act.figures["leased elsewhere after, s"] = round(worst, 2)
        await act.fleet.whole()


async def kill_controls(act: Act) -> None:
    """Kill -9 of a control that has messages to settle, and of the other one when it is back."""
    for control in act.rng.sample(act.fleet.controls, 2):
        owned = await act.receiving(control)
        await control.kill()
        act.bit("control killed", owned)
        await act.fleet.whole()


async def freeze_node(act: Act) -> None:
    """SIGSTOP of a node that holds leases, for three times to live."""
    node = act.rng.choice(act.fleet.nodes)
    held = await act.busy(node)
    node.signal(signal.SIGSTOP)
    try:
        await lasting(3 * TTL_S)
        await leased_again(act.servers, held, within_s=30)
        act.bit("leases of a frozen node moved", len(held))
    finally:
        node.signal(signal.SIGCONT)


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("kill-nodes", kill_nodes, bites=("node killed",), is_short=True),
        Case("kill-controls", kill_controls, bites=("control killed",), is_short=True),
        Case("replay-killed", kill_replays, bites=("replay cut off half done",)),
        Case(
            "freeze-node", freeze_node, bites=("leases of a frozen node moved",),
        ),
        *drains.CASES,
    )
}  # fmt: skip

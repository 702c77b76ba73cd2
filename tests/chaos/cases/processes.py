"""Harm to the platform's own processes."""

from __future__ import annotations

import signal

from tests.chaos.pacing import lasting
from tests.chaos.scene import DEFAULTS, TTL_S, Act, Case
from tests.chaos.servers import LOCK_S
from tests.chaos.watch import leased_again
from tests.eventually import eventually


async def kill_nodes(act: Act) -> None:
    """Kill -9 of a node that holds leases, and of the other one when the first is back."""
    for node in act.rng.sample(act.fleet.nodes, 2):
        held = await act.busy(node)
        await node.kill()
        act.bit("node killed", len(held))
        act.note_most("leased elsewhere after, s", *await leased_again(act.servers, held))
        await act.fleet.whole()


async def kill_nodes_by_default(act: Act) -> None:
    """Kill -9 of one node, then of the other, with leases of 15 s that are renewed every 5 s."""
    await kill_nodes(act)


async def kill_controls(act: Act) -> None:
    """Kill -9 of a control that has messages to settle, and of the other one when it is back."""
    for control in act.rng.sample(act.fleet.controls, 2):
        owned = await act.receiving(control)
        await control.kill()
        act.bit("control killed", owned)
        await act.fleet.whole()


async def kill_one_of_each(act: Act) -> None:
    """Kill -9 of a node that holds leases and of the control that its stream is at, at once."""
    node = act.rng.choice(act.fleet.nodes)
    held = await act.busy(node)
    control = act.rng.choice(act.fleet.controls)
    owned = await act.receiving(control)
    node.signal(signal.SIGSTOP)  # so that it cannot work on in between
    await control.kill()
    await node.kill()
    act.bit("node killed", len(held))
    act.bit("control killed", owned)
    act.note_most("leased elsewhere after, s", *await leased_again(act.servers, held))


async def freeze_node(act: Act) -> None:
    """SIGSTOP of a node that holds leases, for three times to live."""
    node = act.rng.choice(act.fleet.nodes)
    held = await act.busy(node)
    node.signal(signal.SIGSTOP)
    try:
        act.note_most("leased elsewhere after, s", *await leased_again(act.servers, held))
        await lasting(3 * TTL_S - act.figures["leased elsewhere after, s"])
        act.bit("leases of a frozen node moved", len(held))
    finally:
        node.signal(signal.SIGCONT)


async def freeze_control(act: Act) -> None:
    """SIGSTOP of a control that has messages to settle, until the broker has taken them away."""
    control = act.rng.choice(act.fleet.controls)
    owned = await act.receiving(control, least=2)
    before = await act.deliveries_of_others(control)
    control.signal(signal.SIGSTOP)
    try:

        async def taken_over() -> int:
            return await act.deliveries_of_others(control) - before

        joined = await eventually(taken_over, within_s=4 * LOCK_S, every_s=0.2)
        await lasting(LOCK_S)
        act.bit("messages of a frozen control taken over", min(owned, joined))
    finally:
        control.signal(signal.SIGCONT)


CASES = (
    Case("kill-nodes", kill_nodes, bites=("node killed",), is_short=True),
    Case(
        "kill-nodes-by-default",
        kill_nodes_by_default,
        bites=("node killed",),
        settings=DEFAULTS,
    ),
    Case("kill-controls", kill_controls, bites=("control killed",), is_short=True),
    Case("kill-one-of-each", kill_one_of_each, bites=("node killed", "control killed")),
    Case("freeze-node", freeze_node, bites=("leases of a frozen node moved",)),
    Case("freeze-control", freeze_control, bites=("messages of a frozen control taken over",)),
)

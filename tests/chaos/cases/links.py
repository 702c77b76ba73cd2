"""Harm to what lies between: node and control, control and broker, node and target."""

from __future__ import annotations

from tests.chaos.pacing import lasting
from tests.chaos.scene import TTL_S, Act, Case
from tests.chaos.settlements import Loss
from tests.chaos.watch import leased_again
from tests.eventually import eventually


async def partition(act: Act) -> None:
    """Nothing passes between a node and control, for three times to live."""
    await _held(act, "up", "down")


async def partition_up(act: Act) -> None:
    """Nothing passes from a node to control, but the other way, for three times to live."""
    await _held(act, "up")


async def partition_down(act: Act) -> None:
    """Nothing passes from control to a node, but the other way, for three times to live."""
    await _held(act, "down")


async def _held(act: Act, *directions: str) -> None:
    number = act.rng.randrange(len(act.fleet.nodes))
    node, wire = act.fleet.nodes[number], act.fleet.wires[number]
    held = await act.busy(node)
    before = wire.toll.held_bytes
    wire.hold(*directions)
    try:
        act.note_most("leased elsewhere after, s", *await leased_again(act.servers, held))
        await lasting(3 * TTL_S - act.figures["leased elsewhere after, s"])
    finally:
        wire.mend()
    act.bit("bytes held", wire.toll.held_bytes - before)
    act.bit("leases of a cut-off node moved", len(held))


async def cut_wires(act: Act) -> None:
    """The connections between nodes and control are cut again and again, both nodes' at once."""
    for _ in range(8):
        await act.at_work()
        for wire in act.fleet.wires:
            before = wire.toll.cut
            await wire.cut()
            act.bit("connections cut", wire.toll.cut - before)
            wire.mend()
        await lasting(act.rng.uniform(0.05, 0.7))


async def lose_settlements(act: Act) -> None:
    """Settlements are lost in each of the four ways, several times over."""
    bus = act.fleet.bus
    losses = [loss for loss in Loss for _ in range(3)]
    act.rng.shuffle(losses)
    before = bus.lost.copy()
    bus.lose(*losses)

    def probe() -> bool:
        assert not bus.still_to_lose, f"{bus.still_to_lose} settlements are still to be lost"
        return True

    await eventually(probe, within_s=90, every_s=0.1)
    for loss in Loss:
        act.bit(f"settlement lost: {loss}", bus.lost[loss] - before[loss])


async def drop_a_settled_link(act: Act) -> None:
    """The link is dropped right before and right after a settlement is applied."""
    bus = act.fleet.bus
    before = bus.lost.copy()
    bus.lose(Loss.BEFORE_APPLYING, Loss.AFTER_APPLYING)

    def probe() -> bool:
        return not bus.still_to_lose

    await eventually(probe, within_s=30, every_s=0.05)
    for loss in (Loss.BEFORE_APPLYING, Loss.AFTER_APPLYING):
        act.bit(f"settlement lost: {loss}", bus.lost[loss] - before[loss])


async def reset_target(act: Act) -> None:
    """The target applies what it is sent and resets the connection, up to three times in a row."""
    url = f"{act.servers.target_url}/_target/script"
    invoices = [act.load.invoice_id(number) for number in range(0, act.case.messages, 3)]
    await act.servers.script(
        url,
        [
            {"drop": "after", "match": {"invoice_id": one}, "times": act.rng.randint(1, _RETRIES)}
            for one in invoices
        ],
    )
    try:

        async def probe() -> int:
            rules = (await act.servers.get(url))["rules"]
            spared = sum(rule["applied"] < rule["rule"]["times"] for rule in rules)
            assert not spared, f"{spared} of {len(rules)} invoices are still to be answered so"
            return sum(int(rule["applied"]) for rule in rules)

        act.bit("applied, then reset", await eventually(probe, within_s=60, every_s=0.1))
    finally:
        await act.servers.script(url, [])


_RETRIES = 3
"""An effect is tried so often again; one more reset, and its run may end."""
_MOVED = ("bytes held", "leases of a cut-off node moved")
CASES = (
    Case("partition", partition, bites=_MOVED),
    Case("partition-up", partition_up, bites=_MOVED),
    Case("partition-down", partition_down, bites=_MOVED),
    Case("cut-wires", cut_wires, bites=("connections cut",)),
    Case("reset-target", reset_target, bites=("applied, then reset",), is_short=True),
    Case(
        "drop-a-settled-link",
        drop_a_settled_link,
        bites=(
            f"settlement lost: {Loss.BEFORE_APPLYING}",
            f"settlement lost: {Loss.AFTER_APPLYING}",
        ),
        is_short=True,
    ),
    Case(
        "lose-settlements",
        lose_settlements,
        bites=tuple(f"settlement lost: {loss}" for loss in Loss),
    ),
)

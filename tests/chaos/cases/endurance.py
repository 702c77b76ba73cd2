"""The long one: kills without a pause under a load that most of the fleet is needed for."""

from __future__ import annotations

import asyncio
import statistics

from tests.chaos.fleet import Supervised
from tests.chaos.pacing import lasting
from tests.chaos.scene import DEFAULTS, Act, Case
from tests.chaos.watch import leased_again

FAULTS_S = 60.0
NODE_EVERY_S = 5.0
CONTROL_EVERY_S = 9.0


async def endure(act: Act) -> None:
    """2,000 messages at 50/s; for 60 s a node is killed every 5 s and a control every 9 s."""
    act.load.enough()
    moved_s: list[float] = []
    async with asyncio.TaskGroup() as tasks:

        async def follow(held: dict[str, int]) -> None:
            moved_s.extend(await leased_again(act.servers, held, within_s=120))

        async def kill_node() -> None:
            node = await _someone_ready(act, act.fleet.nodes)
            if node is None:
                return
            held = await act.held_by(node)
            await node.kill()
            act.bit("node killed", len(held))
            act.count("kills of nodes")
            tasks.create_task(follow(held))

        async def kill_control() -> None:
            control = await _someone_ready(act, act.fleet.controls)
            if control is None:
                return
            owned = await act.owned_by(control)
            await control.kill()
            act.bit("control killed", owned)
            act.count("kills of controls")

        loop = asyncio.get_running_loop()
        began = loop.time()
        at = [began + NODE_EVERY_S * n for n in range(1, int(FAULTS_S / NODE_EVERY_S) + 1)]
        kills = [(when, kill_node) for when in at]
        at = [began + CONTROL_EVERY_S * n for n in range(1, int(FAULTS_S / CONTROL_EVERY_S) + 1)]
        kills += [(when, kill_control) for when in at]
        for when, kill in sorted(kills, key=lambda pair: pair[0]):
            await lasting(when - loop.time())
            await kill()
    act.figures["leased again, median s"] = round(statistics.median(moved_s), 2)
    act.figures["leased again, most s"] = round(max(moved_s), 2)


async def _someone_ready(act: Act, candidates: list[Supervised]) -> Supervised | None:
    """Draw one of those that are ready; a machine too slow to have one ready is spared a kill."""
    ready = [one for one in candidates if one.up.is_set() and await act.fleet.state(one)]
    if not ready:
        act.count("kills left out: nobody was ready")
        return None
    return act.rng.choice(ready)


CASES = (
    Case(
        "endure",
        endure,
        bites=("node killed", "control killed"),
        messages=2000,
        per_s=50.0,
        model_ms=50.0,
        slots=16,
        drained_within_s=120.0,
        settings=DEFAULTS,
    ),
)

"""A sweep of the dead letters of a queue, and messages that the broker has had enough of."""

from bpa.connectors.service_bus import DeadLetterReader
from bpa.control.replays import Replays
from bpa.control.sweep import Sweep
from tests.integration.control.intaking import Intaking

DELIVERIES_MAX = 10


def sweep_of(intaking: Intaking, every_s: float = 0.0, share: float = 1.0) -> Sweep:
    fleet = intaking.fleet
    address = intaking.queue.emulator.connection_string
    return Sweep(
        "dev",
        "ns",
        fleet.deployments,
        Replays(fleet.pool),
        fleet.burials,
        fleet.pool,
        lambda queue: DeadLetterReader(address, queue),
        every_s,
        share=share,
    )


async def use_up(intaking: Intaking) -> None:
    """Give the message back until the broker has had enough of it."""
    for _ in range(DELIVERIES_MAX + 1):
        if intaking.broker() == (0, 0, 1):
            break
        message = await intaking.queue.source.receive(10)
        assert message is not None
        await intaking.queue.source.abandon(message)
    (letter,) = await intaking.queue.dead_letters()
    assert letter.reason == "MaxDeliveryCountExceeded"

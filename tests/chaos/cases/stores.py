"""Harm to what the platform leans on: Valkey, Postgres, the broker."""

from __future__ import annotations

from tests.chaos.pacing import lasting
from tests.chaos.scene import Act, Case
from tests.chaos.watch import one_row
from tests.eventually import eventually

_GENERATION = "select (value #>> '{}')::int as n from settings where name = 'hold_generation'"
_AWAY_S = 2.0
"""How long a store is away: longer than one pass of anything."""


async def flush_valkey(act: Act) -> None:
    """FLUSHALL of Valkey while slots are held, three times."""
    for _ in range(3):
        await act.at_work()
        before = await _generation(act)
        async with act.servers.redis() as client:
            act.bit("keys flushed", await client.dbsize())
            await client.flushall()
        await _rebuilt(act, before)


async def kill_valkey(act: Act) -> None:
    """Kill -9 of Valkey while slots are held; it comes back with what it had."""
    leases = await act.at_work()
    await act.servers.valkey.kill()
    act.bit("valkey killed", leases)
    await _working_without(act)
    await act.servers.valkey.start()


async def empty_valkey(act: Act) -> None:
    """Kill -9 of Valkey while slots are held; it comes back empty."""
    leases = await act.at_work()
    before = await _generation(act)
    await act.servers.valkey.kill()
    await act.servers.end_valkeys_data()
    act.bit("valkey emptied", leases)
    await _working_without(act)
    await act.servers.valkey.start()
    await _rebuilt(act, before)


async def restart_postgres(act: Act) -> None:
    """Postgres is stopped in good order for two seconds, then killed -9 and started again."""
    leases = await act.at_work()
    await act.servers.postgres.stop()
    act.bit("postgres stopped", leases)
    await lasting(_AWAY_S)
    await act.servers.postgres.start()
    leases = await act.at_work()
    await act.servers.postgres.kill()
    act.bit("postgres killed", leases)
    await act.servers.postgres.start()


async def end_sessions(act: Act) -> None:
    """All sessions of Postgres are terminated, five times."""
    for _ in range(5):
        await act.at_work()
        act.bit("sessions ended", await act.servers.postgres.end_sessions())
        await lasting(act.rng.uniform(0.1, 0.6))


async def kill_bus(act: Act) -> None:
    """Kill -9 of the broker while it has locked messages; it comes back with what it had."""
    for _ in range(2):

        async def locked() -> int:
            return int((await act.queue())["locked"])

        count = await eventually(locked, within_s=30, every_s=0.05)
        await act.servers.bus.kill()
        act.bit("broker killed with locked messages", count)
        await lasting(act.rng.uniform(0.1, _AWAY_S))
        await act.servers.bus.start()


async def _working_without(act: Act) -> None:
    """Have leases renewed while Valkey is away: nothing may lapse for it (I6)."""
    lapsed = act.watch.counted["leases expired"]
    await lasting(_AWAY_S)
    assert act.watch.counted["leases expired"] == lapsed, "leases lapsed while Valkey was away"


async def _generation(act: Act) -> int:
    return int((await one_row(act.servers.postgres.dsn, _GENERATION))["n"])


async def _rebuilt(act: Act, before: int) -> None:
    """Wait until the holds have been rebuilt from Postgres, which counts a generation up."""

    async def probe() -> bool:
        assert await _generation(act) > before, "the holds were not rebuilt"
        return True

    await eventually(probe, within_s=30, every_s=0.1)
    act.bit("holds rebuilt")


CASES = (
    Case("flush-valkey", flush_valkey, bites=("keys flushed", "holds rebuilt"), is_short=True),
    Case("kill-valkey", kill_valkey, bites=("valkey killed",)),
    Case("empty-valkey", empty_valkey, bites=("valkey emptied", "holds rebuilt")),
    Case("restart-postgres", restart_postgres, bites=("postgres stopped", "postgres killed")),
    Case("end-sessions", end_sessions, bites=("sessions ended",), is_short=True),
    Case("kill-bus", kill_bus, bites=("broker killed with locked messages",)),
)

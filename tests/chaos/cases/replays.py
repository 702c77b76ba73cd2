"""Harm to a replay of dead letters, at the control that carries it out."""

from __future__ import annotations

from tests.chaos.fleet import Supervised
from tests.chaos.scene import Act, Case
from tests.chaos.servers import LOCK_S
from tests.chaos.watch import rows
from tests.eventually import eventually

_DEAD_AT_LEAST = 12
_KILLS_AT_MOST = 8
_DEAD = """
select count(*) as n from runs
join deliveries using (run_id)
where status = 'dead_lettered' and disposition = 'dead_letter'
    and input_ref ->> 'message_id' like %(prefix)s
"""
_BEGUN = """
select
    count(*) as begun,
    count(*) filter (where settled_at is null) as half_done
from replays where message_id like %(prefix)s
"""


async def kill_replays(act: Act) -> None:
    """Kill -9 of the control that replays dead letters, with some half done, and repeat."""
    script = f"{act.servers.target_url}/_target/script"
    await act.servers.script(script, [{"status": 400}])
    dead = await eventually(lambda: _dead(act), within_s=60, every_s=0.2)
    await act.servers.script(script, [])
    for _ in range(_KILLS_AT_MOST):
        if act.bitten["replay cut off half done"]:
            break
        await _cut_off(act, act.rng.choice(act.fleet.controls))
        await act.fleet.whole()
    act.figures["dead letters to replay"] = dead

    async def finished() -> bool:
        code, told = await _replay(act.fleet.controls[0])
        assert code == 3, f"dead letters are left: {code} {told}"
        return True

    await eventually(finished, within_s=8 * LOCK_S, every_s=1.0)


async def _cut_off(act: Act, control: Supervised) -> None:
    """Start a replay of everything and kill the control that was asked once a few are begun."""
    before = (await _begun(act))[0]
    wanted = before + act.rng.randint(1, 4)
    code, told = await _replay(control, "--detach")
    assert code == 0, told

    async def at_it() -> bool:
        return (await _begun(act))[0] >= wanted

    await eventually(at_it, within_s=30, every_s=0.005)
    await control.kill()
    act.bit("replay cut off half done", (await _begun(act))[1])


async def _dead(act: Act) -> int:
    (row,) = await rows(act.servers.postgres.dsn, _DEAD, prefix=act.prefix + "%")
    assert row["n"] >= _DEAD_AT_LEAST, f"{row['n']} messages are dead letters"
    return int(row["n"])


async def _begun(act: Act) -> tuple[int, int]:
    """Return how many replays there are, and how many of them are half done."""
    (row,) = await rows(act.servers.postgres.dsn, _BEGUN, prefix=act.prefix + "%")
    return int(row["begun"]), int(row["half_done"])


async def _replay(control: Supervised, *more: str) -> tuple[int, str]:
    """Replay all dead letters by a control; return the exit code and what was printed."""
    url = control.process.addresses["http"]
    words = ("dlq", "replay", "--reason", "NonRetryableHttpStatus", "--yes", *more)
    code, out, err = await control.process.run("--set", f"control.url={url}", *words)
    return code, f"{out} {err}"


CASES = (Case("replay-killed", kill_replays, bites=("replay cut off half done",)),)

"""A live view of the queues of a running emulator, by way of its administration port."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bpa.errors import Unavailable

from .counts import Page

_EVERY_S = 1.0
_PATIENCE = aiohttp.ClientTimeout(total=5)
_COLUMNS = ("active", "locked", "scheduled", "deferred", "dead", "in/s", "out/s", "settled/s")


async def watch(url: str, console: Console) -> None:
    """Draw the queues every second until cancelled; once, after a second, if nobody looks.

    Raises:
        Unavailable: The emulator does not answer.
    """
    async with aiohttp.ClientSession(timeout=_PATIENCE) as session:
        before, before_s = await _look(session, url), time.monotonic()
        if not console.is_terminal:
            await asyncio.sleep(_EVERY_S)
            now = await _look(session, url)
            console.print(table(before, now, time.monotonic() - before_s))
            return
        with Live(table(before, before, _EVERY_S), console=console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(_EVERY_S)
                now, now_s = await _look(session, url), time.monotonic()
                live.update(table(before, now, now_s - before_s), refresh=True)
                before, before_s = now, now_s


def table(before: Page, now: Page, elapsed_s: float) -> Table:
    """Draw the queues, with rates since an earlier look; those with dead letters stand out."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("queue", no_wrap=True)
    for column in _COLUMNS:
        drawn.add_column(column, justify="right", no_wrap=True)
    earlier = {queue.name: queue for queue in before.queues}
    for queue in now.queues:
        past = earlier.get(queue.name, queue)
        flows = (
            queue.incoming - past.incoming,
            queue.outgoing - past.outgoing,
            sum(queue.settled.values()) - sum(past.settled.values()),
        )
        held = (queue.active, queue.locked, queue.scheduled, queue.deferred)
        note = "" if queue.status == "Active" else f" ({queue.status})"
        drawn.add_row(
            queue.name + note,
            *(f"{count:,}" for count in held),
            Text(f"{queue.dead_lettered:,}", style="red" if queue.dead_lettered else ""),
            *(f"{max(0, flow) / elapsed_s:,.1f}" for flow in flows),
        )
    return drawn


async def _look(session: aiohttp.ClientSession, url: str) -> Page:
    try:
        async with session.get(f"{url.rstrip('/')}/queues") as response:
            return msgspec.json.decode(await response.read(), type=Page)
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
        raise Unavailable(
            f"No emulator answers at {url} ({error or 'no answer in time'}); start one, or name "
            "its administration port: --top --admin-port PORT, or --top URL"
        ) from error

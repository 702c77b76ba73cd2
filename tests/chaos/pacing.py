"""Time that passes on purpose: how long a fault lasts, and how far one is from the next."""

from __future__ import annotations

import asyncio
import contextlib


async def lasting(seconds: float) -> None:
    """Let a fault last so long. What a case waits *for* is waited for with ``eventually``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_future()

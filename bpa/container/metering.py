"""One process's metrics, whatever roles it has: counted together, sent together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bpa.config import Settings
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.pulse import Pulse
from bpa.telemetry.senders import sender_of


@asynccontextmanager
async def metering(settings: Settings, role: str) -> AsyncIterator[Pulse]:
    """Measure the process for as long as the context is open, and send its metrics if they go out.

    Args:
        settings: Where to.
        role: Who sends them.
    """
    pulse = Pulse(Metrics())
    async with _pushing(settings, role, pulse.metrics), asyncio.TaskGroup() as tasks:
        beat = tasks.create_task(pulse.run())
        yield pulse
        beat.cancel()


@asynccontextmanager
async def _pushing(settings: Settings, role: str, metrics: Metrics) -> AsyncIterator[None]:
    if not settings.telemetry.otlp_endpoint:
        yield
        return
    from bpa.telemetry.otlp import (  # noqa: PLC0415 - slow, for those who export only
        CLOSE_S,
        closed_within,
        metric_exporter,
        resource_of,
    )
    from bpa.telemetry.push import Push  # noqa: PLC0415 - slow

    resource = resource_of(settings, *sender_of(settings, role))
    push = Push(metrics.registry, metric_exporter(settings.telemetry), resource)
    try:
        yield
    finally:
        await asyncio.to_thread(closed_within, CLOSE_S, push.close)

"""The installed ``bpa`` tells how much waits in its queues."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusPublisher
from tests.e2e.server import Bpa, serving
from tests.eventually import eventually

AT_ONCE_S = 8.0
"""What a first look and a first reading take at most, on a busy machine too."""


async def test_role_all_shows_true_numbers_within_seconds_of_its_start(tmp_path: Path):
    async with serving(tmp_path / "data") as server:

        async def measured() -> dict[str, str]:
            lines = [line for line in (await text_of(server)).splitlines() if "queue=" in line]
            shown = dict(line.rsplit(" ", 1) for line in lines)
            assert shown.get('sb_queue_lag{queue="invoices"}') == "0.0"
            return shown

        shown = await eventually(measured, within_s=AT_ONCE_S)
        assert shown['bpa_queue_lag_estimated{queue="invoices"}'] == "0.0"
        assert float(shown['bpa_queue_reading_age_seconds{queue="invoices"}']) < AT_ONCE_S
        (queue,) = await server.get("/v1/queues")
        assert (queue["queue"], queue["trouble"]) == ("invoices", None)
        assert queue["maxDeliveryCount"] == 10
        code, out, err = await server.run("queues")
        assert (code, err) == (0, "")
        assert out.splitlines()[1].startswith("invoices  invoice-classifier-dev")


async def test_what_waits_and_what_is_dead_is_counted_by_a_running_server(tmp_path: Path):
    every_s = {"control.measure_queues_every_s": "2"}
    async with serving(tmp_path / "data", **every_s) as server:
        async with ServiceBusPublisher(server.addresses["service_bus"], "invoices") as publisher:
            await publisher.send([OutgoingMessage(body=b"{", content_type="application/json")] * 3)

        async def buried() -> bool:
            (queue,) = await server.get("/v1/queues")
            return (queue["active"], queue["deadLetters"], queue["estimated"]) == (0, 3, False)

        await eventually(buried, within_s=15)
        assert 'bpa_queue_dead_letters{queue="invoices"} 3.0' in await text_of(server)


async def text_of(server: Bpa) -> str:
    """The metrics as Prometheus reads them."""
    async with (
        aiohttp.ClientSession(server.addresses["http"]) as session,
        session.get("/metrics") as response,
    ):
        return await response.text()

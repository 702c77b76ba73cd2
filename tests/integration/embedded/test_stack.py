"""The local default's servers as children of whoever wants them."""

import aiohttp

from bpa.config import load
from bpa.connectors.service_bus import Administration
from bpa.embedded.stack import local_stack

ELSEWHERE = {
    "BPA_POSTGRES__DSN": "postgresql://elsewhere",
    "BPA_REDIS__URL": "redis://elsewhere",
    "BPA_SERVICE_BUS__CONNECTION_STRING": "Endpoint=sb://elsewhere",
    "BPA_ANTHROPIC__API_KEY": "k",
    "BPA_EMBEDDED__TARGET_PORT": "0",
}


async def test_files_where_the_command_was_given_are_not_taken_for_modules(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('not the standard library')")
    monkeypatch.chdir(tmp_path)
    settings = load({**ELSEWHERE, "BPA_DATA_DIR": str(tmp_path / "data")}).settings
    async with local_stack(settings) as stack, aiohttp.ClientSession() as session:
        async with session.get(f"{stack.target_url}/health") as answer:
            assert answer.status == 200
        assert list(stack.children) == ["target"]


BUS_ALONE = {
    **ELSEWHERE,
    "BPA_SERVICE_BUS__CONNECTION_STRING": "",
    "BPA_HTTP_OUT__BASE_URL": "http://elsewhere",
    "BPA_EMBEDDED__SERVICE_BUS_PORT": "0",
    "BPA_EMBEDDED__SERVICE_BUS_ADMIN_PORT": "0",
}


async def test_the_emulators_administration_is_served_under_a_certificate_that_comes_along(
    tmp_path,
):
    settings = load({**BUS_ALONE, "BPA_DATA_DIR": str(tmp_path)}).settings
    async with local_stack(settings) as stack:
        given = stack.service_bus_administration, stack.service_bus_certificate
        administration = Administration(*given)
        described = await administration.describe("invoices")
        await administration.aclose()
    assert (described.active, described.max_delivery_count) == (0, 10)

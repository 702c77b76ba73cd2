"""One server for all tests that need nothing special of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.e2e.server import Bpa


@pytest.fixture(scope="session")
def shared_server(
    runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bpa]:
    """``bpa serve --role all`` with nothing but free ports; tests take ``server``."""
    bpa = Bpa(tmp_path_factory.mktemp("server") / "data")
    runner.run(bpa.start())
    try:
        yield bpa
    finally:
        runner.run(bpa.end())
    bpa.check_log()


@pytest.fixture
async def server(shared_server: Bpa) -> AsyncIterator[Bpa]:
    """The session's server; scripts of failures end with the test."""
    yield shared_server
    async with aiohttp.ClientSession() as session:
        for base, path in (("anthropic", "/_stub/script"), ("target", "/_target/script")):
            async with session.delete(shared_server.addresses[base] + path) as response:
                assert response.status == 200

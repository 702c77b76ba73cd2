"""Schemathesis finds nothing in the API: no 5xx, and nothing but what the document says."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bpa.control.breakers import Breakers
from bpa.control.queues import Queues
from bpa.control.rest.breaker_schemas import Breaker
from tests.integration.api.strangers import explore
from tests.integration.api.world import World, world_at
from tests.integration.control.desk import desk_of
from tests.integration.control.fleet import Fleet

SECONDS = os.environ.get("API_SECONDS", "")
"""Set by ``make api``: explore for so long, at random, instead of the same few cases each time."""
FEW = ("--generation-deterministic", "--max-examples", "12")


@pytest_asyncio.fixture
async def world(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[World]:
    async with desk_of(fleet, database, valkey_url) as desk:
        yield await world_at(desk)


async def test_it_would_find_what_is_broken(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def fail(_: Queues) -> list[dict[str, Any]]:
        raise RuntimeError("broken on purpose")

    async def answer(_: Breakers) -> list[dict[str, Any]]:
        return [dict.fromkeys(Breaker.__struct_fields__, 7)]

    monkeypatch.setattr(Queues, "page", fail)
    monkeypatch.setattr(Breakers, "page", answer)
    where = [f"--include-path=/v1/{name}" for name in ("queues", "breakers", "agents")]
    found = await explore(world, tmp_path, *FEW, *where)
    assert found.where["ServerError"] == {"GET /v1/queues"}
    assert found.where["JsonSchemaError"] == {"GET /v1/breakers"}
    assert found.report["exit_code"] == 1


@pytest.mark.timeout(300 + 2 * int(SECONDS or 0))
async def test_schemathesis_finds_nothing(world: World, tmp_path: Path):
    how = ("--max-time", SECONDS) if SECONDS else FEW
    found = await explore(world, tmp_path, *how)
    assert not found.report["failures"], found.words
    assert not found.report["errors"], found.words
    assert found.report["exit_code"] == 0, found.words
    operations = found.report["operations"]
    assert operations["tested"] == operations["total"] > 40, operations
    assert {phase["status"] for phase in found.report["phases"].values()} == {"success"}

"""A client that is generated from the document, by a generator nobody here wrote, works."""

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import aiohttp
import pytest
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.integration.api.world import World, world_at
from tests.integration.control.desk import desk_of
from tests.integration.control.fleet import DEP_ID, Fleet
from tests.integration.control.rest import Rest, rest_over


@pytest_asyncio.fixture
async def world(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[World]:
    async with desk_of(fleet, database, valkey_url) as desk:
        yield await world_at(desk)


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


async def test_the_document_is_valid_openapi_3_1(rest: Rest):
    OpenAPIV31SpecValidator((await rest.get("/schema")).json).validate()


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated client, and the modules of its operations by tag and name."""

    package: ModuleType
    url: str

    def client(self) -> Any:
        return self.package.Client(base_url=self.url)

    def __call__(self, operation: str) -> Any:
        """Return what calls an operation, as ``runs.list_runs``."""
        return importlib.import_module(f"bpa_client.api.{operation}").asyncio_detailed

    def model(self, name: str) -> Any:
        return getattr(importlib.import_module("bpa_client.models"), name)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the client of this module's tests is; it is made by the first of them."""
    directory = tmp_path_factory.mktemp("client")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(directory)
        yield directory
    for name in [name for name in sys.modules if name.split(".")[0] == "bpa_client"]:
        del sys.modules[name]


@pytest_asyncio.fixture
async def generated(world: World, directory: Path) -> Generated:
    """Generate a client from what is served; anything that the generator leaves out fails."""
    if not (directory / "bpa_client").exists():
        async with aiohttp.ClientSession() as session, session.get(f"{world.url}/schema") as answer:
            (directory / "openapi.json").write_bytes(await answer.read())
        (directory / "config.yml").write_text("post_hooks: []\n")
        command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
        command += ["--path", "openapi.json", "--config", "config.yml", "--fail-on-warning"]
        made = await asyncio.create_subprocess_exec(
            *(*command, "--output-path", "bpa_client"),
            cwd=directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        words, _ = await made.communicate()
        assert made.returncode == 0, words.decode()
    return Generated(importlib.import_module("bpa_client"), world.url)


async def test_a_generated_client_works(generated: Generated, world: World):
    async with generated.client() as client:
        seen: list[str] = []
        cursor: dict[str, str | None] = {}
        while cursor.get("cursor", "") is not None:
            page = (await generated("runs.list_runs")(client=client, limit=4, **cursor)).parsed
            seen += [run.run_id for run in page.runs]
            cursor = {"cursor": page.next_cursor}
        assert sorted(seen) == sorted(world.names["path.run_id"])
        run_id = next(run.run_id for run in page.runs)
        run = (await generated("runs.get_run")(UUID(run_id), client=client)).parsed
        assert (run.run_id, run.enqueued_at.tzinfo) == (run_id, UTC)

        nothing = await generated("runs.get_run")(UUID(int=0), client=client)
        assert isinstance(nothing.parsed, generated.model("Problem"))
        assert (nothing.status_code, nothing.parsed.code) == (404, "not_found")


async def test_a_generated_client_edits_by_the_tag_that_it_read(generated: Generated):
    async with generated.client() as client:
        read = await generated("deployments.get_deployment")(DEP_ID, client=client)
        assert isinstance(read.parsed.spec, generated.model("DeploymentSpec"))
        pause = generated("deployments.pause_deployment")
        asked = generated.model("Asked")(requested_by="ada")
        tag = read.headers["ETag"]
        paused = await pause(DEP_ID, client=client, body=asked, if_match=tag)
        assert paused.parsed.paused_by == "api:ada"
        stale = await pause(DEP_ID, client=client, body=asked, if_match=tag)
        assert (stale.status_code, stale.parsed.code) == (412, "changed")


async def test_a_generated_client_replays_and_drains(generated: Generated, world: World):
    async with generated.client() as client:
        asked = generated.model("ReplayAsked")(ids=world.names["path.dead_letter_id"], dry_run=True)
        answer = await generated("dead_letters.replay_dead_letters")(client=client, body=asked)
        assert len(answer.parsed.results) == len(asked.ids)
        empty = await generated("nodes.drain_node")("node-4", client=client)  # the body is optional
        assert empty.parsed.node.draining

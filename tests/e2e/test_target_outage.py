"""An outage of the target: its messages wait, none is lost, and no herd comes when it is over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bpa.embedded.target.server import TargetApi, TargetOptions
from tests.e2e.queues import dead_letters, emptied, send, waiting
from tests.e2e.server import Bpa, serving
from tests.e2e.test_target_failures import invoice
from tests.eventually import eventually

ROOT = Path(__file__).parents[2]
MESSAGES = 40
SLOTS = 8


class WatchedTarget(TargetApi):
    """A target that notes how many requests it works on as each one comes."""

    def __init__(self, options: TargetOptions) -> None:
        super().__init__(options)
        self.at_once: list[int] = []
        self._now = 0

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "POST":
            return await super()._handle(request)
        self._now += 1
        self.at_once.append(self._now)
        try:
            return await super()._handle(request)
        finally:
            self._now -= 1


async def script(target: TargetApi, *rules: dict[str, Any]) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{target.url}/_target/script", json={"rules": rules}) as response,
    ):
        assert response.status == 200


async def tries(target: TargetApi) -> dict[str, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{target.url}/_target/tries?limit=500") as response,
    ):
        return {item["key"]: item for item in (await response.json())["items"]}


async def breaker(server: Bpa) -> dict[str, Any]:
    found = await server.get("/v1/breakers")
    assert len(found) == 1, found
    return dict(found[0])


async def metric(server: Bpa, name: str) -> float:
    """Sum a metric over its labels."""
    async with (
        aiohttp.ClientSession(server.addresses["http"]) as session,
        session.get("/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture
def target(tmp_path: Path, unused_tcp_port: int) -> TargetOptions:
    """Where the target is, when it is there."""
    return TargetOptions(port=unused_tcp_port, data_dir=tmp_path / "target", finish_s=1.0)


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """The shipped configuration, but for eight runs at once, which any machine has room for."""
    copied = tmp_path / "config"
    shutil.copytree(ROOT / "config", copied)
    (path,) = (copied / "deployments").glob("*.json")
    deployment = json.loads(path.read_text("utf-8"))
    deployment["target"] = {"slotBudget": SLOTS}
    path.write_text(json.dumps(deployment), "utf-8")
    return copied


async def test_messages_of_a_target_that_is_away_wait_and_complete_once_it_is_back(
    old_data_dir: Path, config_dir: Path, target: TargetOptions
) -> None:
    host = f"http://127.0.0.1:{target.port}"
    settings = {"http_out.base_url": f"{host}/invoices", "config_dir": str(config_dir)}
    async with serving(old_data_dir, **settings) as server:
        bus = server.addresses["service_bus"]
        async with WatchedTarget(target) as failing:
            await script(failing, {"status": 503})
            traces = await send(bus, [invoice(f"O-{n:03}") for n in range(MESSAGES)])

            async def parked() -> list[dict[str, Any]]:
                found = await breaker(server)
                assert (found["host"], found["state"]) == (host, "open")
                runs = await server.runs()
                assert all(run["parked"] or not run["startedAt"] for run in runs), runs
                return [run for run in runs if run["parked"]]

            runs = await eventually(parked, within_s=60)
            assert {run["parked"]["error"] for run in runs} == {"HTTP 503"}
            assert all(run["waitingReason"].startswith(f"parked: target {host}") for run in runs)
            assert len(failing.at_once) >= 10, "the outage was seen"

            # The queue, not the platform, holds the backlog; and it keeps what is parked as well.
            assert len(await server.runs()) < MESSAGES / 2
            assert len(await waiting(bus)) == MESSAGES
            code, out, _ = await server.run("breakers", "--json")
            shown = json.loads(out)["breakers"][0]
            assert (code, shown["state"], shown["parkedRuns"] > 0) == (0, "open", True)
            assert await metric(server, "bpa_http_out_breaker_open") == 1

        async def refused() -> bool:
            return bool((await breaker(server))["lastError"] == "no answer")

        await eventually(refused, within_s=60, every_s=0.1)

        async def renewed() -> bool:
            return await metric(server, 'bpa_lock_renewals_total{result="ok"}') >= len(runs)

        await eventually(renewed, within_s=60, every_s=0.2)
        assert not [run for run in await server.runs() if run["endedAt"]]
        assert await dead_letters(bus) == {}

        async with WatchedTarget(target) as answering:
            await script(answering, {"latency_ms": 150})
            ended = await server.ended_of(traces, within_s=90)
            await emptied(bus)
            sent = await tries(answering)

        assert {run["status"] for run in ended.values()} == {"completed"}
        assert answering.at_once[0] == 1, "the probe is alone"
        assert max(answering.at_once[:3]) <= 2, "no herd comes after it"
        assert max(answering.at_once[:7]) <= 4
        assert len(sent) == MESSAGES
        assert {(one["applied"], one["bodies"]) for one in sent.values()} == {(True, 1)}
        assert {one["tries"] for one in sent.values()} == {1}, "each was sent once since"
        assert (await breaker(server))["state"] == "closed"
        assert await metric(server, "bpa_http_out_breaker_open") == 0

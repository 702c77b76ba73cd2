"""The doctor beside real servers: what is right, and each thing that is made wrong."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleet import Backing, backing
from tests.e2e.server import Bpa

QUEUES = ("invoices",)


@pytest.fixture
async def servers(tmp_path: Path, made_cluster: Path) -> AsyncIterator[Backing]:
    async with backing(tmp_path, made_cluster, QUEUES) as servers:
        yield servers


async def examined(
    data_dir: Path, role: str, settings: dict[str, str]
) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the doctor's exit code, and what it found by check."""
    code, out, err = await Bpa(data_dir, role, **settings).run("doctor", "--role", role, "--json")
    assert out, err
    assert "SharedAccessKey=" not in out
    assert settings.get("anthropic.api_key", "no key") not in out
    return code, {one["check"]: one for one in json.loads(out)["findings"]}


async def test_a_set_up_that_is_right_is_found_to_be(servers: Backing, tmp_path: Path) -> None:
    settings = await servers.settings()
    code, found = await examined(tmp_path / "control", "control", settings)
    assert {name: one["state"] for name, one in found.items() if one["state"] == "failed"} == {}
    assert code == 0
    assert found["postgres"]["found"].startswith("Postgres ")
    assert "none yet" in found["schema"]["found"]
    assert found["queue invoices"]["found"].startswith("reached, ")

    settings["node.control"] = servers.local.anthropic_url.removeprefix("http://")
    code, found = await examined(tmp_path / "node", "node", settings)
    assert {one["state"] for one in found.values()} == {"ok"}
    assert code == 0
    assert any("knows the model" in one["found"] for one in found.values())


async def test_each_thing_that_is_wrong_is_named_with_what_to_do(
    servers: Backing, tmp_path: Path
) -> None:
    settings = await servers.settings()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        with socket.create_server(("127.0.0.1", 0)) as gone:
            nobody = gone.getsockname()[1]
        wrong = {
            **settings,
            "control.http_port": taken,
            "postgres.dsn": settings["postgres.dsn"].replace("/control_", "/no_such_"),
            "redis.url": f"redis://127.0.0.1:{nobody}",
            "telemetry.otlp_endpoint": f"http://127.0.0.1:{nobody}",
        }
        code, found = await examined(tmp_path / "control", "control", wrong)
    assert code == 1
    states = {name: one["state"] for name, one in found.items() if one["state"] != "ok"}
    assert states.pop("queue invoices", "warning") == "warning"
    assert states == {
        "ports": "failed",
        "postgres": "failed",
        "valkey": "failed",
        "telemetry": "warning",
    }
    assert all(found[name]["toDo"] for name in states)
    assert "control.http_port" in found["ports"]["toDo"]

    away = f"127.0.0.1:{nobody}"
    wrong = {**settings, "node.control": away, "http_out.base_url": f"http://{away}/invoices"}
    wrong["anthropic.base_url"] = f"http://{away}"
    code, found = await examined(tmp_path / "node", "node", wrong)
    assert code == 1
    failed = {name for name, one in found.items() if one["state"] == "failed"}
    assert failed == {"node link", "model", "target"}


async def test_every_wrong_setting_is_a_finding(tmp_path: Path) -> None:
    wrong = {"node.slots": "many", "control.lease_ttl_s": "1"}
    code, found = await examined(tmp_path / "none", "all", wrong)
    assert (code, {one["state"] for one in found.values()}) == (2, {"failed"})

"""The installed ``bpa`` as a process, on free ports and a data directory of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.eventually import eventually

BPA = Path(sys.executable).with_name("bpa")
FREE_PORTS = {
    "control.http_port": "0",
    "control.grpc_port": "0",
    "node.health_port": "0",
    "embedded.service_bus_port": "0",
    "embedded.service_bus_admin_port": "0",
    "embedded.anthropic_port": "0",
    "embedded.target_port": "0",
}


class Bpa:
    """One ``bpa serve`` process."""

    def __init__(self, data_dir: Path, role: str = "all", **settings: str) -> None:
        self.data_dir = data_dir
        self.role = role
        self._settings = {**FREE_PORTS, "data_dir": str(data_dir), "log.format": "json"}
        self._settings |= {key.replace("__", "."): value for key, value in settings.items()}
        self._environment: dict[str, str] = {}
        self.log_path = data_dir.with_name(f"{data_dir.name}-{role}.log")
        self.addresses: dict[str, str] = {}

    @property
    def flags(self) -> list[str]:
        """The settings as flags, for other commands against this server."""
        return [word for pair in self._settings.items() for word in ("--set", "=".join(pair))]

    async def start(self, within_s: float = 40.0) -> None:
        """Start and wait for the ready line."""
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                BPA, *self.flags, "serve", "--role", self.role, "--json",
                stdout=asyncio.subprocess.PIPE, stderr=log, env={**os.environ, **self._environment},
                start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            line = await self.process.stdout.readline()
        assert line, f"{self.role} did not start:\n{self.log_text()[-4000:]}"
        self.addresses = json.loads(line)

    async def kill(self) -> None:
        """Kill the process as a power cut does, and wait for it."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self, within_s: float = 40.0) -> int:
        """Ask it to stop; return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Run another ``bpa`` command with the same settings."""
        process = await asyncio.create_subprocess_exec(
            BPA, *self.flags, *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    def log_text(self) -> str:
        """What it wrote to standard error."""
        return self.log_path.read_text("utf-8", "replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log, parsed."""
        return [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]

    async def get(self, path: str, base: str = "http") -> Any:
        """Get a JSON document from one of its servers."""
        async with (
            aiohttp.ClientSession(self.addresses[base]) as session,
            session.get(path) as response,
        ):
            assert response.status == 200, await response.text()
            return await response.json()

    async def put(self, path: str, body: Any, base: str) -> None:
        """Put a JSON document, such as a script of failures."""
        async with (
            aiohttp.ClientSession(self.addresses[base]) as session,
            session.put(path, json=body) as response,
        ):
            assert response.status < 300, await response.text()

    async def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first."""
        runs: list[dict[str, Any]] = []
        path = "/v1/runs?limit=500"
        while True:
            page = await self.get(path)
            runs += page["runs"]
            if not page["nextCursor"]:
                return runs
            path = f"/v1/runs?limit=500&cursor={page['nextCursor']}"

    async def ended(self, count: int, within_s: float = 60.0) -> list[dict[str, Any]]:
        """Wait until ``count`` runs have ended and return all runs."""

        async def probe() -> list[dict[str, Any]]:
            runs = await self.runs()
            over = [r for r in runs if r["status"] in ("completed", "dead_lettered")]
            assert len(over) >= count, [(r["status"], r["waitingReason"]) for r in runs]
            return runs

        return await eventually(probe, within_s=within_s, every_s=0.1)

    async def received(self) -> list[dict[str, Any]]:
        """What the target API has applied."""
        items: list[dict[str, Any]] = []
        page = await self.get("/_target/received?limit=500", "target")
        items += page["items"]
        return items


@contextlib.asynccontextmanager
async def serving(data_dir: Path, role: str = "all", **settings: str) -> AsyncIterator[Bpa]:
    """Run a server for as long as the context is open; leave nothing behind."""
    server = Bpa(data_dir, role, **settings)
    await server.start()
    try:
        yield server
    finally:
        if server.process.returncode is None:
            await server.stop()

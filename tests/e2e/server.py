"""The installed ``bpa`` as a process, on free ports and a data directory of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bpa.config import SECRETS
from tests.eventually import eventually

BPA = Path(sys.executable).with_name("bpa")
ENDED = ("completed", "dead_lettered")
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
    """One ``bpa serve`` process.

    Args:
        data_dir: Its data; the log is kept beside it.
        role: Which one it has.
        name: What its log is called; the role unless given.
        prefix: A command to run it with.
        settings: Dotted keys and their values.
    """

    def __init__(
        self,
        data_dir: Path,
        role: str = "all",
        *,
        name: str = "",
        prefix: Sequence[str] = (),
        **settings: str,
    ) -> None:
        self.data_dir = data_dir
        self.role = role
        self._prefix = prefix
        self._settings = {**FREE_PORTS, "data_dir": str(data_dir), "log.format": "json"}
        self._settings |= {key.replace("__", "."): value for key, value in settings.items()}
        self.log_path = data_dir.with_name(f"{data_dir.name}-{name or role}.log")
        self.addresses: dict[str, str] = {}

    @property
    def flags(self) -> list[str]:
        """The settings as flags, for other commands against this server."""
        given = [pair for pair in self._settings.items() if pair[0] not in SECRETS]
        return [word for pair in given for word in ("--set", "=".join(pair))]

    @property
    def environment(self) -> dict[str, str]:
        """The environment with the settings that no flag may carry."""
        secrets = {key: value for key, value in self._settings.items() if key in SECRETS}
        names = {f"BPA_{k.upper().replace('.', '__')}": v for k, v in secrets.items()}
        return {**os.environ, **names}

    async def spawn(self) -> None:
        """Start, and wait for nothing."""
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._prefix, BPA, *self.flags, "serve", "--role", self.role, "--json",
                stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True,
                env=self.environment,
            )  # fmt: skip

    async def start(self, within_s: float = 40.0) -> None:
        """Start and wait for the ready line."""
        await self.spawn()
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self.process.stdout.readline()
            assert line, f"{self.role} did not start:\n{self.log_text()[-4000:]}"
        except BaseException:
            await self.end()
            raise
        self.addresses = json.loads(line)

    def family(self) -> list[psutil.Process]:
        """Return the process and all that it started, as they live now."""
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    async def kill(self) -> list[psutil.Process]:
        """Kill the process as a power cut does; return who lived until then."""
        family = self.family()
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        return family

    async def stop(self, within_s: float = 40.0) -> int:
        """Ask it to stop; return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    async def end(self) -> None:
        """Stop it if it runs, kill it if it will not, and make sure that nobody survives."""
        if self.process.returncode is not None:
            return
        family = self.family()
        try:
            await self.stop()
        except TimeoutError:
            await self.kill()
            raise
        await nobody_lives(family)

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Run another ``bpa`` command with the same settings."""
        process = await asyncio.create_subprocess_exec(
            BPA, *self.flags, *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=self.environment,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    def log_text(self) -> str:
        """What it wrote to standard error."""
        return self.log_path.read_text("utf-8", "replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log, parsed; a line that a kill cut off is left out."""
        lines = self.log_text().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def check_log(self) -> None:
        """Make sure that every line that belongs to a run names its trace as well."""
        nameless = [e for e in self.log_lines() if "run_id" in e and not e.get("trace_id")]
        assert not nameless, nameless[:5]

    async def get(self, path: str, base: str = "http") -> Any:
        """Get a JSON document from one of its servers."""
        async with (
            aiohttp.ClientSession(self.addresses[base]) as session,
            session.get(path) as response,
        ):
            assert response.status == 200, await response.text()
            return await response.json()

    async def post(self, path: str, body: Any) -> Any:
        """Post a JSON document to control, and return its answer."""
        async with (
            aiohttp.ClientSession(self.addresses["http"]) as session,
            session.post(path, json=body) as response,
        ):
            assert response.status < 300, await response.text()
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

    async def run_of(self, trace_id: str) -> dict[str, Any]:
        """The one run of a trace, whole."""
        found = [run["runId"] for run in await self.runs() if run["traceId"] == trace_id]
        assert len(found) == 1, found
        return dict(await self.get(f"/v1/runs/{found[0]}"))

    async def ended_of(
        self, trace_ids: Iterable[str], within_s: float = 60.0
    ) -> dict[str, dict[str, Any]]:
        """Wait until the runs of these traces have ended; return them by their trace."""
        wanted = set(trace_ids)

        async def probe() -> dict[str, dict[str, Any]]:
            runs = {r["traceId"]: r for r in await self.runs() if r["traceId"] in wanted}
            assert set(runs) == wanted, f"{len(wanted - set(runs))} messages without a run yet"
            living = [run for run in runs.values() if run["status"] not in ENDED]
            assert not living, [(run["status"], run["waitingReason"]) for run in living]
            return runs

        return await eventually(probe, within_s=within_s, every_s=0.1)

    async def ended(self, count: int, within_s: float = 60.0) -> list[dict[str, Any]]:
        """Wait until ``count`` runs have ended and return all runs."""

        async def probe() -> list[dict[str, Any]]:
            runs = await self.runs()
            over = [r for r in runs if r["status"] in ENDED]
            assert len(over) >= count, [(r["status"], r["waitingReason"]) for r in runs]
            return runs

        return await eventually(probe, within_s=within_s, every_s=0.1)

    async def received(self) -> list[dict[str, Any]]:
        """What the target API has applied."""
        return await self._all("received")

    async def tries(self) -> dict[str, dict[str, Any]]:
        """What the target API was sent, applied or not, by key."""
        return {item["key"]: item for item in await self._all("tries")}

    async def model_requests(self) -> int:
        """How many requests for an answer the model stub has had; counting tokens is free."""
        totals = (await self.get("/_stub/ledger", "anthropic"))["totals"]
        return int(totals["requests"] - totals["by_outcome"].get("counted", 0))

    async def _all(self, what: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor: str | None = "0"
        while cursor is not None:
            page = await self.get(f"/_target/{what}?limit=500&cursor={cursor}", "target")
            items += page["items"]
            cursor = page["next_cursor"]
        return items


def alive(family: Iterable[psutil.Process]) -> list[str]:
    """Return those that live, as text; who waits for its parent to take note is dead."""
    living = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                living.append(f"{process.pid} {' '.join(process.cmdline()[:8])}")
    return living


async def nobody_lives(family: Iterable[psutil.Process], within_s: float = 2.0) -> None:
    """Wait until all have ended."""
    family = list(family)

    def probe() -> bool:
        living = alive(family)
        assert not living, living
        return True

    await eventually(probe, within_s=within_s)


@contextlib.asynccontextmanager
async def serving(
    data_dir: Path, role: str = "all", *, name: str = "", **settings: str
) -> AsyncIterator[Bpa]:
    """Run a server for as long as the context is open; leave nothing behind."""
    server = Bpa(data_dir, role, name=name, **settings)
    await server.start()
    try:
        yield server
    finally:
        await server.end()
    server.check_log()

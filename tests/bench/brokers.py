"""Brokers to compare, each a process of its own on a free port, with its data in a folder given."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.processes import cpu_s, rss_mib

QUEUE, BESIDE = "invoices", "beside"
_START_S = 120.0
_RABBITMQ = shutil.which("rabbitmq-server", path=f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}")
RABBITMQ_IS_FOUND = _RABBITMQ is not None


@dataclass
class Process:
    """A broker's process and where it listens; those it started belong to it."""

    popen: subprocess.Popen[str]
    port: int
    admin_port: int = 0
    connection_string: str | None = None
    """For the SDK."""
    journal: Path | None = None
    helpers: list[subprocess.Popen[str]] = field(default_factory=list)

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used so far."""
        return cpu_s(self.popen.pid).total()

    def rss_mib(self) -> float:
        """Return its resident memory."""
        return rss_mib(self.popen.pid)

    def stop(self) -> None:
        """End it and what it started."""
        self.popen.terminate()
        self.popen.wait()
        for one in self.helpers:
            one.terminate()
            one.wait()


@dataclass(frozen=True, slots=True)
class Emulator:
    """Ours, durable when it is given a folder."""

    name: str
    keeps: bool
    address: str = QUEUE
    confirms: bool = True
    """Whether it says that a delivery is settled, once it is."""

    def start(self, folder: Path) -> Process:
        """Start it; return when it is ready."""
        config, data = folder / "Config.json", folder / "data"
        queues = [{"Name": name, "Properties": {}} for name in (QUEUE, BESIDE)]
        namespace = {"Name": "sbemulatorns", "Queues": queues, "Topics": []}
        user = {"Namespaces": [namespace], "Logging": {"Type": "Console"}}
        config.write_text(json.dumps({"UserConfig": user}), "utf-8")
        words = ["--port", "0", "--admin-port", "0", "--json", "--config", str(config)]
        if self.keeps:
            words += ["--data-dir", str(data)]
        popen = subprocess.Popen(
            [sys.executable, "-m", "bpa.embedded.service_bus", *words],
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("w"),
            text=True,
        )
        assert popen.stdout is not None
        ready = json.loads(popen.stdout.readline())
        return Process(
            popen,
            ready["port"],
            ready["admin_port"],
            ready["connection_string"],
            data / "journal.log" if self.keeps else None,
        )


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """RabbitMQ with its AMQP 1.0 plug-in.

    A quorum queue has an accepted message on disk before it confirms it, as ours has; a classic one
    too, if the message is durable. Neither says when a settlement is.
    """

    name: str
    queue_type: str
    keeps: bool
    """Whether messages are sent as durable ones."""
    address: str = f"/amq/queue/{QUEUE}"
    confirms: bool = False

    def start(self, folder: Path) -> Process:
        """Start it; return when it listens, which is when its queue is there."""
        port, name_port, peer_port = _free_ports(3)
        settings = {
            "HOME": folder,  # its cookie
            "ERL_EPMD_PORT": name_port,
            "RABBITMQ_NODENAME": "bench@localhost",
            "RABBITMQ_DIST_PORT": peer_port,
            "RABBITMQ_MNESIA_BASE": folder / "data",
            "RABBITMQ_LOG_BASE": folder / "log",
            "RABBITMQ_CONF_ENV_FILE": folder / "none",
            "RABBITMQ_CONFIG_FILE": folder / "rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
        }
        self._configure(folder, port)
        env = os.environ | {key: str(value) for key, value in settings.items()}
        names = subprocess.Popen(  # one that RabbitMQ started would outlive it
            ["epmd", "-address", "127.0.0.1", "-port", str(name_port)],
            text=True,
        )
        assert _RABBITMQ is not None
        with (folder / "out").open("w") as out:
            popen = subprocess.Popen(
                [_RABBITMQ], env=env, cwd=folder, stdout=out, stderr=out, text=True
            )
        _wait_until_it_listens(port, popen)
        return Process(popen, port, helpers=[names])

    def _configure(self, folder: Path, port: int) -> None:
        definitions = {
            "vhosts": [{"name": "/"}],
            "users": [{"name": "guest", "password": "guest", "tags": ""}],
            "permissions": [
                {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
            ],
            "queues": [
                {
                    "name": QUEUE,
                    "vhost": "/",
                    "durable": True,
                    "auto_delete": False,
                    "arguments": {"x-queue-type": self.queue_type},
                }
            ],
        }
        (folder / "definitions.json").write_text(json.dumps(definitions), "utf-8")
        (folder / "plugins").write_text("[rabbitmq_amqp1_0].", "utf-8")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\n"
            f"load_definitions = {folder / 'definitions.json'}\n"
            "disk_free_limit.absolute = 100MB\n",
            "utf-8",
        )


Broker = Emulator | RabbitMQ


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _wait_until_it_listens(port: int, popen: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if popen.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return

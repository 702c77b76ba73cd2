"""Run the emulator alone: ``bpa emulate service-bus``, or this package with ``python -m``."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import signal
import sys
from pathlib import Path

import uvloop
from rich.console import Console

from bpa.errors import BpaError
from bpa.stderr import log_json_lines

from . import DEFAULT_NAMESPACE, EmulatorOptions, ServiceBusEmulator, load_config
from .emulator import connection_string
from .tiers import TIERS
from .top import watch

_HIGHEST_PORT = 65_535


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    log_json_lines()
    arguments = _parse(sys.argv[1:])
    try:
        if arguments.connection_string:
            sys.stdout.write(connection_string(arguments.host, arguments.port) + "\n")
            return 0
        if arguments.top is not None:
            url = arguments.top or f"http://{arguments.host}:{arguments.admin_port}"
            return uvloop.run(_watch(url))
        _allow_as_many_connections_as_may_be()
        return uvloop.run(_serve(_options(arguments), as_json=arguments.json))
    except BpaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _allow_as_many_connections_as_may_be() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bpa emulate service-bus",
        description="An Azure Service Bus for this machine: queues over AMQP 1.0.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--port", type=_port, default=5672, help="AMQP; 0 = any free")
    parser.add_argument("--admin-port", type=_port, default=5300, help="HTTP; 0 = any free")
    parser.add_argument(
        "--admin-tls-port", type=_port, help="HTTPS beside it, under a certificate of our own"
    )
    parser.add_argument("--port-setting", default="--port", help=argparse.SUPPRESS)
    parser.add_argument("--admin-port-setting", default="--admin-port", help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", type=Path, help="keep messages here (default: in memory)")
    parser.add_argument(
        "--config",
        type=Path,
        help="the official emulator's Config.json (default: one queue, invoices)",
    )
    parser.add_argument(
        "--tier",
        choices=TIERS,
        default="standard",
        help="how large messages, batches and queues may be (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="say ready as one line of JSON")
    parser.add_argument(
        "--connection-string", action="store_true", help="print what clients are given, and end"
    )
    parser.add_argument(
        "--top",
        nargs="?",
        const="",
        metavar="URL",
        help="watch the queues of an emulator that runs (default: at --host and --admin-port)",
    )
    arguments = parser.parse_args(words)
    if arguments.connection_string and arguments.port == 0:
        parser.error("--connection-string needs the port: a free one is chosen at the start")
    return arguments


def _port(word: str) -> int:
    """Read a port; the loop would take 70000 for 4464."""
    if word.isascii() and word.isdigit() and len(word) < 6 and int(word) <= _HIGHEST_PORT:
        return int(word)
    raise argparse.ArgumentTypeError(f"a port is 0 to {_HIGHEST_PORT}, not {word}")


def _options(arguments: argparse.Namespace) -> EmulatorOptions:
    config = DEFAULT_NAMESPACE if arguments.config is None else load_config(arguments.config)
    return EmulatorOptions(
        host=arguments.host,
        port=arguments.port,
        admin_port=arguments.admin_port,
        admin_tls_port=arguments.admin_tls_port,
        port_setting=arguments.port_setting,
        admin_port_setting=arguments.admin_port_setting,
        admin_tls_port_setting="--admin-tls-port",
        data_dir=arguments.data_dir,
        config=config,
        tier=TIERS[arguments.tier],
    )


async def _serve(options: EmulatorOptions, *, as_json: bool) -> int:
    stop = _stop_signal()
    async with ServiceBusEmulator(options) as emulator:
        gc.freeze()  # what a start leaves is here to stay: looking through it takes 20 ms each time
        _say_ready(emulator, as_json=as_json)
        failed = asyncio.ensure_future(emulator.wait_failed())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if failed.done():
            raise failed.result()
        failed.cancel()
    return 0


async def _watch(url: str) -> int:
    stop = _stop_signal()
    watching = asyncio.ensure_future(watch(url, Console()))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({watching, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not watching.done():
        watching.cancel()
        await asyncio.wait({watching})
        return 0
    watching.result()
    return 0


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _say_ready(emulator: ServiceBusEmulator, *, as_json: bool) -> None:
    ready = {
        "event": "ready",
        "service": "service-bus",
        "port": emulator.port,
        "admin_port": emulator.admin_port,
        "admin_tls_port": emulator.admin_tls_port,
        "certificate": None if emulator.certificate is None else str(emulator.certificate),
        "connection_string": emulator.connection_string,
    }
    sys.stdout.write((json.dumps(ready) if as_json else _in_words(emulator)) + "\n")
    sys.stdout.flush()


def _in_words(emulator: ServiceBusEmulator) -> str:
    host, kept = emulator.options.host, emulator.options.data_dir
    lines = [
        f"Service Bus emulator: {emulator.connection_string}",
        f"administration: http://{host}:{emulator.admin_port} (/health, /queues, /metrics)",
        f"messages: {'in memory' if kept is None else kept}",
    ]
    if emulator.certificate is not None:
        address = f"https://{host}:{emulator.admin_tls_port}"
        lines.insert(2, f"administration: {address}, trusting {emulator.certificate}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

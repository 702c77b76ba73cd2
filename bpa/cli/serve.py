"""``bpa serve``: run a role until SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import shlex
import signal
from collections.abc import Callable

import click
import structlog
import uvloop

from bpa.cli.context import json_option, loaded, print_json, program
from bpa.config import Settings
from bpa.demo.documents import shipped_demo
from bpa.errors import BpaError
from bpa.roles.addresses import Addresses
from bpa.telemetry.logs import logging_of

_ROLES = ("all", "control", "node")
_log = structlog.stdlib.get_logger(__name__)


@click.command("serve")
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    required=True,
    help="all: everything in one process, with embedded servers for whatever no setting names; "
    "control: API, scheduler and queues; node: executes runs.",
)
@json_option
@click.pass_context
def command(context: click.Context, *, role: str, as_json: bool) -> None:
    """Serve until SIGTERM or Ctrl-C; a second one ends at once.

    Prints every address when ready, as one JSON line with --json. The first signal stops the
    intake, lets running work end within node.drain_deadline_s, and hands back the rest; an effect
    on its way to the target is waited for. To empty a node first, and see it, `bpa drain NODE`.

    A second signal ends the process and all that it started at once, with 130 or 143, as a kill
    does: nothing is handed over. Its leases end when the node starts again or their time is up,
    its messages come again when their locks run out.

    \b
    Examples:
      bpa serve --role all                                 everything, embedded
      bpa --config /etc/bpa.toml serve --role control      see `bpa doctor --role control`
      bpa --set node.slots=16 serve --role node
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    settings = loaded(context).settings

    def announce(addresses: Addresses) -> None:
        if as_json:
            print_json({"event": "ready", "role": role, **addresses.shown()})
        else:
            _print_addresses(role, addresses)

    with (
        logging_of(settings, role),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        try:
            runner.run(_serve(role, settings, announce))
        except Exception as error:  # noqa: BLE001 - it is raised again, once it is in the log
            cause = _first_known(error) if isinstance(error, ExceptionGroup) else error
            if not isinstance(cause, BpaError):
                _log.critical("role_failed", role=role, exc_info=cause)
            raise cause from None


async def _serve(role: str, settings: Settings, announce: Callable[[Addresses], None]) -> None:
    module = importlib.import_module(f"bpa.roles.{role}")  # what a role needs, and no more
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        if stop.is_set():
            _end_at_once(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    gc.freeze()
    await module.serve(settings, stop, announce)


def _end_at_once(number: signal.Signals) -> None:
    """End the process without another step that could hang; what it started dies with it."""
    _log.warning("ended_at_once", signal=number.name)
    os._exit(128 + number)


def _first_known(group: ExceptionGroup[Exception]) -> Exception:
    """Return the error to report: the first of ours, else the group as it is."""
    known = group.subgroup(BpaError)
    error: Exception = known or group
    while known is not None and isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _print_addresses(role: str, addresses: Addresses) -> None:
    click.echo(f"bpa {role} is ready.")
    for name, value in addresses.shown().items():
        if value:
            click.echo(f"  {name:<20} {value}")
    if role == "all":
        bpa = program()
        click.echo(f"Try: {bpa} send {_documents()}   then: {bpa} runs list")


def _documents() -> str:
    """Return what can be sent from any folder: the shipped invoices, else the reader's own."""
    folder = shipped_demo() / "invoices"
    return f"{shlex.quote(str(folder))}/*.json" if folder.is_dir() else "FILE"

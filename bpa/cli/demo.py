"""``bpa demo``: a hundred invoices, watched on their way, and an account of every one."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import click
import msgspec

from bpa.cli.api import open_api_at
from bpa.cli.context import addresses, json_option, loaded, print_json, program
from bpa.cli.demo_play import Play
from bpa.cli.demo_report import print_summary, progress_shown
from bpa.cli.demo_server import DemoServer, started
from bpa.cli.demo_target import TargetControl
from bpa.cli.tables import output
from bpa.demo.documents import Expectation, read_expectations, shipped_demo
from bpa.demo.summary import Summary, summarize
from bpa.errors import InvalidRequest, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    flags: Mapping[str, str]
    config: Path | None
    connection_string: str
    """Of a real namespace, if the settings name one."""
    timeout_s: float
    keep: bool
    as_json: bool


@click.command("demo", short_help="Watch 100 invoices, and balance the account.")
@click.option(
    "--against-running",
    is_flag=True,
    help="Use the server that runs with data_dir, instead of starting one.",
)
@click.option(
    "--keep", is_flag=True, help="Keep the server running afterwards, until Ctrl-C, to look around."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the server keeps its data; otherwise a temporary folder, removed at the end.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="Seconds for all of it; what is missing then is named.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    *,
    against_running: bool,
    keep: bool,
    data_dir: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Publish 100 invoices, watch them become results, and balance the account.

    Starts `bpa serve --role all` on free ports, publishes the documents under demo/ through the
    Service Bus SDK, and shows what became of them. Five of them end in the dead-letter queue, each
    for its own reason; the others are at the target API exactly once, with the right payload.

    Exits with 0 only if that is so, and otherwise with 1 and a line for each discrepancy.

    \b
    Examples:
      bpa demo
      bpa demo --keep
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    if against_running and (keep or data_dir):
        raise click.UsageError("--against-running takes the running server as it is")
    settings = loaded(context).settings
    if settings.http_out.base_url and not against_running:
        raise SettingsError(
            ["http_out.base_url is set: the demo looks into the embedded target API; unset it"]
        )
    flags: dict[str, str] = context.obj["flags"]
    given = data_dir or (Path(flags["data_dir"]) if "data_dir" in flags else None)
    options = _Options(
        flags=flags,
        config=context.obj["file"],
        connection_string=settings.service_bus.connection_string,
        timeout_s=timeout_s,
        keep=keep,
        as_json=as_json,
    )
    folder = shipped_demo()
    expected = read_expectations(folder)
    if against_running:
        server = DemoServer(addresses(context), is_fresh=False)
        summary = asyncio.run(_play(server, expected, folder, options, time.monotonic()))
    else:
        summary = _with_own_server(expected, folder, options, given)
    if not summary.balanced:
        context.exit(1)


def _with_own_server(
    expected: list[Expectation], folder: Path, options: _Options, given: Path | None
) -> Summary:
    """Play on a server of our own; what a failure leaves in its folder is kept."""
    data_dir = given.absolute() if given else Path(tempfile.mkdtemp(prefix="bpa-demo-"))
    try:
        summary = asyncio.run(_serve_and_play(data_dir, expected, folder, options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _remove(data_dir, given)
        raise click.Abort from None
    if summary.balanced:
        _remove(data_dir, given)
    else:
        click.echo(f"The server's data and log are in {data_dir}", err=True)
    return summary


def _remove(data_dir: Path, given: Path | None) -> None:
    if given is None:
        shutil.rmtree(data_dir, ignore_errors=True)


async def _serve_and_play(
    data_dir: Path, expected: list[Expectation], folder: Path, options: _Options
) -> Summary:
    _end_like_an_interrupt()
    begun_s = time.monotonic()
    click.echo("Starting the server ...", err=True)
    async with started(
        options.flags, options.config, data_dir, within_s=options.timeout_s
    ) as server:
        click.echo(f"Ready after {time.monotonic() - begun_s:.1f} s.", err=True)
        try:
            summary = await server.while_it_lives(_play(server, expected, folder, options, begun_s))
            if options.keep:
                await _stay(server)
        finally:
            click.echo("Stopping the server ...", err=True)
    return summary


def _end_like_an_interrupt() -> None:
    """Have SIGTERM end us as Ctrl-C does, with the server stopped."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _stay(server: DemoServer) -> None:
    click.echo("The server keeps running; Ctrl-C ends it.", err=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await server.while_it_lives(stop.wait())


async def _play(
    server: DemoServer,
    expected: list[Expectation],
    folder: Path,
    options: _Options,
    begun_s: float,
) -> Summary:
    """Play the demonstration on a server, and print what came of it."""
    where = server.addresses
    service_bus = where.service_bus or options.connection_string
    if not (where.http and where.target and service_bus):
        raise InvalidRequest(
            "this server has no target API of its own to look into; "
            "start one with `bpa serve --role all` and http_out.base_url unset"
        )
    timeout = aiohttp.ClientTimeout(total=10)
    async with open_api_at(where.http) as api, aiohttp.ClientSession(timeout=timeout) as session:
        with progress_shown() as show:
            play = Play(
                expected=expected,
                folder=folder,
                api=api,
                target=TargetControl(session, where.target),
                service_bus=service_bus,
                is_alone=server.is_fresh and not options.connection_string,
                show=show,
            )
            deadline_s = asyncio.get_running_loop().time() + max(
                1.0, begun_s + options.timeout_s - time.monotonic()
            )
            seen, found, took_s = await play.run(deadline_s)
    summary = summarize(expected, seen, found, took_s)
    if summary.unfinished:
        missing = f"{summary.unfinished} messages had not ended after {options.timeout_s:g} s"
        click.echo(f"bpa: {missing} (--timeout)", err=True)
    if options.as_json:
        print_json({**msgspec.structs.asdict(summary), "addresses": _shown(server)})
    else:
        print_summary(output(), summary)
        _print_where_next(server, keep=options.keep)
    return summary


def _shown(server: DemoServer) -> dict[str, str]:
    return {name: value for name, value in server.addresses.shown().items() if value}


def _print_where_next(server: DemoServer, *, keep: bool) -> None:
    """Say where to look next: with the commands that reach this server, if it stays."""
    where = server.addresses
    bpa = program()
    if keep or server.child is None:
        bpa += f" --set data_dir={where.data_dir}" if server.child else ""
        lines = [
            ("every run, and how it ended", f"{bpa} runs list"),
            ("one run: steps, tokens, cost", f"{bpa} runs show RUN"),
            ("the node that worked", f"{bpa} nodes list"),
            ("your own documents", f"{bpa} send FILE..."),
            ("what the target got", f"{where.target}/_target/received"),
            ("the API", f"{where.http}/schema"),
        ]
    else:
        lines = [
            ("the same, left running", f"{bpa} demo --keep"),
            ("a server of your own", "make serve"),
            ("your own documents to it", f"{bpa} send FILE..."),
            ("what became of them", f"{bpa} runs list"),
            ("steps, tokens, cost of one", f"{bpa} runs show RUN"),
        ]
    click.echo("\nWhere to look next:")
    for what, how in lines:
        click.echo(f"  {what:<30} {how}")

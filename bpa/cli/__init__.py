"""The ``bpa`` command: one module a verb, each imported only when it is used.

Data goes to standard output, messages to standard error. Exit codes: 0 done, 1 failure, 2 usage,
3 not found, 5 conflict, 6 unavailable, 7 partly done, 130 interrupted.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from pathlib import Path

import click

from bpa import __version__
from bpa.errors import BpaError

_COMMANDS = {
    "apply": "bpa.cli.apply",
    "breakers": "bpa.cli.breakers",
    "config": "bpa.cli.settings",
    "cordon": "bpa.cli.cordon:cordon",
    "costs": "bpa.cli.costs",
    "demo": "bpa.cli.demo",
    "dlq": "bpa.cli.dlq",
    "drain": "bpa.cli.drain",
    "emulate": "bpa.cli.emulate",
    "nodes": "bpa.cli.nodes",
    "queues": "bpa.cli.queues",
    "runs": "bpa.cli.runs",
    "send": "bpa.cli.send",
    "serve": "bpa.cli.serve",
    "uncordon": "bpa.cli.cordon:uncordon",
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are asked for: ``--help`` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = getattr(importlib.import_module(module), name or "command")
        return command if isinstance(command, click.Command) else None


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bpa")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BPA_CONFIG",
    help="A TOML file of settings; bpa.toml in the working directory if there is one.",
)
@click.option(
    "--set",
    "flags",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting, such as control.http_port=0; wins over file and environment.",
)
@click.pass_context
def cli(context: click.Context, config_file: Path | None, flags: tuple[str, ...]) -> None:
    """Business process agents: messages on a queue become finished business actions.

    Start with `bpa serve --role all`: it needs no configuration, no cloud and no key. Then
    `bpa send invoice.json`, and `bpa runs list`. Settings come from flags, BPA_* variables and a
    TOML file, in this order; `bpa config show --origin` tells which won.
    """
    pairs = {}
    for flag in flags:
        key, separator, value = flag.partition("=")
        if not separator:
            raise click.UsageError(f"--set {flag}: write KEY=VALUE, as control.http_port=0")
        pairs[key] = value
    context.obj = {"file": config_file, "flags": pairs}


def main() -> None:
    """Run the command line; the entry point of the package."""
    gc.set_threshold(50_000, 20, 50)  # imports leave no garbage, and runs free theirs by counts
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.exceptions.Abort:
        code = 130
    except BpaError as error:
        click.echo(f"bpa: {error}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    gc.freeze()  # the interpreter's last collections would go through all that was imported
    sys.exit(code if isinstance(code, int) else 0)

"""The ``bpa`` command: one module a verb, each imported only when it is used.

Data goes to standard output, messages to standard error. Exit codes: 0 done, 1 failure, 2 usage,
3 not found, 4 not allowed, 5 conflict, 6 unavailable, 7 partly done, 130 interrupted, 141 when
nobody reads the output any more.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
import traceback
from pathlib import Path

import click

from bpa import __version__
from bpa.errors import BpaError

_COMMANDS = {
    "agents": ("bpa.cli.agents", "Look at agents and their versions."),
    "apply": ("bpa.cli.apply", "Create agents and deployments from files."),
    "breakers": ("bpa.cli.breakers", "List the targets that fail, and what waits for them."),
    "budgets": ("bpa.cli.budgets", "Tell how much of its budgets each run used."),
    "completion": ("bpa.cli.completion", "Print what completes bpa in a shell."),
    "config": ("bpa.cli.settings", "Look at the settings, and where each comes from."),
    "cordon": ("bpa.cli.cordon:cordon", "Keep new leases from a node."),
    "costs": ("bpa.cli.costs", "Sum up what the models used and cost."),
    "deployments": ("bpa.cli.deployments", "Look at deployments, pause and resume them."),
    "demo": ("bpa.cli.demo", "Watch 100 invoices, and balance the account."),
    "dlq": ("bpa.cli.dlq", "Look at dead letters, and replay them."),
    "doctor": ("bpa.cli.doctor.command", "Find what is wrong with a set-up, and what to do."),
    "drain": ("bpa.cli.drain", "Empty a node by a deadline, and watch it."),
    "emulate": ("bpa.cli.emulate", "Run one server of the local default alone."),
    "nodes": ("bpa.cli.nodes", "Look at the nodes that execute runs."),
    "operations": ("bpa.cli.operations", "Look at acts on many, and stop them."),
    "queues": ("bpa.cli.queues", "Show what waits in the queues, and how old it is."),
    "runs": ("bpa.cli.runs", "Look at runs, cancel them, try them again."),
    "send": ("bpa.cli.send", "Publish documents to a queue."),
    "serve": ("bpa.cli.serve", "Run a role until it is stopped."),
    "status": ("bpa.cli.status", "Show what needs somebody, and how the hour went."),
    "uncordon": ("bpa.cli.cordon:uncordon", "Give a node leases again; calls off its drain."),
}
"""Where each command is, and what it does in so few words that the list fits 80 columns."""

_CLOSED_PIPE = 141
"""What a shell says of a program that wrote to a pipe nobody reads (SIGPIPE)."""
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class _Lazy(click.Group):
    """A group whose commands are imported when they are asked for: ``--help`` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name or "command")
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in sorted(_COMMANDS)])


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

    Data goes to standard output, words to standard error; --json prints one document. Exit codes:
    0 done, 1 failure, 2 usage, 3 not found, 4 not allowed, 5 conflict, 6 unavailable, 7 partly
    done, 130 interrupted.
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
        code = _run()
        sys.stdout.flush()  # a pipe that was closed is noticed here, not by the interpreter's end
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _CLOSED_PIPE
    except OSError as error:  # a full disk, mostly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.echo(f"bpa: the output could not be written: {error.strerror}", err=True)
        code = 1
    gc.freeze()  # the interpreter's last collections would go through all that was imported
    sys.exit(code)


def _run() -> int:
    """Run the command that was asked for; return its exit code, whatever it raised."""
    stdout = sys.stdout
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return 130
    except BpaError as error:
        click.echo(f"bpa: {error}", err=True)
        return error.exit_code
    except SystemExit as ended:
        if sys.stdout is not stdout:  # click has met a closed pipe, and wrapped what is left of it
            return _CLOSED_PIPE
        return ended.code if isinstance(ended.code, int) else 0
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise
        click.echo(f"bpa: {_fault(error)}", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _fault(error: Exception) -> str:
    """Say where a fault of ours is, in one line that can be reported."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}bpa{os.sep}" in frame.filename] or frames[-1:]
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    words = " ".join(str(error).split())[:300]
    return f"this is a fault of bpa {__version__}: {type(error).__name__}{place}: {words}"

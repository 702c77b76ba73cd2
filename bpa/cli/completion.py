"""``bpa completion``: what a shell needs to complete commands, options and ids."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_BPA_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def command(context: click.Context, *, shell: str) -> None:
    """Print a script that completes bpa's commands, options and ids in SHELL.

    Ids of runs, nodes, deployments and dead letters, and names of queues, come from the running
    server, if it answers within half a second.

    \b
    Examples:
      source <(bpa completion bash)                          this shell; or in ~/.bashrc
      source <(bpa completion zsh)                           this shell; or in ~/.zshrc
      bpa completion fish >~/.config/fish/completions/bpa.fish
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    kind = get_completion_class(shell)
    assert kind is not None, "the choice has no other"
    root = context.find_root().command
    click.echo(kind(root, {}, "bpa", _VARIABLE).source())

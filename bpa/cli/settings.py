"""``bpa config``: what is set, and by whom."""

from __future__ import annotations

import click

from bpa.cli.context import json_option, loaded, print_json
from bpa.config import flatten


@click.group("config")
def command() -> None:
    """Look at the settings."""


@command.command("show")
@click.option("--origin", is_flag=True, help="Tell where each value comes from.")
@json_option
@click.pass_context
def show(context: click.Context, *, origin: bool, as_json: bool) -> None:
    """Print every setting with its value, secrets masked.

    A flag wins over a BPA_* variable, that over the file, that over the default. --json names the
    origin of each value in any case.

    Exits with 2 and a line for each problem when a setting is wrong.

    \b
    Examples:
      bpa config show --origin
      bpa config show --origin | grep -v '# default$'
      bpa config show --json | jq -r '."control.http_port".value'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    result = loaded(context)
    values = flatten(result.settings)
    if as_json:
        print_json(
            {key: {"value": value, "origin": result.origins[key]} for key, value in values.items()}
        )
        return
    for key, value in values.items():
        where = f"    # {result.origins[key]}" if origin else ""
        click.echo(f"{key} = {value!r}{where}")

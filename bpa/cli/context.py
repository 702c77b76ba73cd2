"""What commands share: settings, the addresses of a running server, and how data is printed."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from bpa.config import Loaded, load
from bpa.control.actors import Door, actor
from bpa.errors import Unavailable
from bpa.roles.addresses import Addresses, read_addresses

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def loaded(context: click.Context) -> Loaded:
    """Return the settings of this command line."""
    return load(os.environ, context.obj["file"], context.obj["flags"])


def addresses(context: click.Context) -> Addresses:
    """Return where the running server is to be reached.

    Raises:
        Unavailable: None has been started with this data directory.
    """
    found = read_addresses(Path(loaded(context).settings.data_dir))
    if found is None:
        raise Unavailable(
            "no server runs with this data_dir; start one with `bpa serve --role all`"
        )
    return found


def program() -> str:
    """Return how to call this program from here: by its path where PATH does not have it."""
    path = Path(sys.argv[0])
    return "bpa" if path.name != "bpa" or shutil.which("bpa") else os.path.relpath(path)


def whoami() -> str:
    """Return who asks, as audits and histories name them."""
    return actor(Door.CLI, f"{getpass.getuser()}@{socket.gethostname()}")


def print_json(value: Any) -> None:
    """Write one JSON document to standard output, at once: someone may wait for the line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()

"""Where a running server is to be reached: printed when ready, kept in the data directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bpa.errors import Unavailable

_FILE = "addresses.json"


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses of one process; empty where it does not serve that."""

    http: str = ""
    """REST, OpenAPI, health and metrics."""
    ui: str = ""
    """The pages for people."""
    grpc: str = ""
    """The node link, ``host:port``."""
    node_health: str = ""
    service_bus: str = ""
    """Connection string; of a real namespace it stays in the settings, and this is empty."""
    anthropic: str = ""
    target: str = ""
    data_dir: str = ""

    def shown(self) -> dict[str, str]:
        """Return what may be printed, by name."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value}


@contextlib.contextmanager
def kept(data_dir: Path, addresses: Addresses) -> Iterator[None]:
    """Keep the addresses in the data directory, for its owner alone, until the context ends."""
    path = data_dir / _FILE
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(addresses))
    fresh.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def read_addresses(data_dir: Path) -> Addresses | None:
    """Return the addresses of the server that runs with this data directory, if one does.

    Raises:
        Unavailable: The directory is none, or another user's, or the file is damaged.
    """
    path = data_dir / _FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Addresses)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise Unavailable(f"cannot read {path} ({why}): set data_dir or control.url") from error

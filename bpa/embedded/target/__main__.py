"""Run the target API as a process of its own: ``python -m bpa.embedded.target``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvloop

from bpa.embedded.target.server import TargetApi, TargetOptions
from bpa.embedded.web import add_listener_arguments, run_until_signalled
from bpa.errors import BpaError
from bpa.stderr import log_json_lines


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="target", description="An invoice API that honours idempotency keys."
    )
    add_listener_arguments(parser, default_port=8084)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=None,
        help="keep what was applied here; without it, it is kept in memory",
    )
    given = parser.parse_args(arguments)
    log_json_lines()
    target = TargetApi(
        TargetOptions(
            host=given.host,
            port=given.port,
            port_setting=given.port_setting,
            data_dir=given.data_dir,
        )
    )
    try:
        uvloop.run(run_until_signalled(target, "target", as_json=given.json))
    except BpaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

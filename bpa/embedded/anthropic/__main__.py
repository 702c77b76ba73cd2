"""Run the model stub as a process of its own: ``python -m bpa.embedded.anthropic``."""

from __future__ import annotations

import argparse
import sys

import uvloop

from bpa.embedded.anthropic.server import AnthropicStub, StubOptions
from bpa.embedded.web import add_listener_arguments, run_until_signalled
from bpa.errors import BpaError
from bpa.stderr import log_json_lines


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="anthropic", description="A model stub that speaks the Anthropic Messages API."
    )
    add_listener_arguments(parser, default_port=8083)
    parser.add_argument(
        "--latency-ms", type=float, default=0.0, help="wait so long before each answer (default 0)"
    )
    parser.add_argument(
        "--ledger-entries",
        type=int,
        default=StubOptions().ledger_entries,
        help="how many requests the ledger keeps one by one (default %(default)s)",
    )
    given = parser.parse_args(arguments)
    log_json_lines()
    stub = AnthropicStub(
        StubOptions(
            host=given.host,
            port=given.port,
            port_setting=given.port_setting,
            latency_ms=given.latency_ms,
            ledger_entries=given.ledger_entries,
        )
    )
    try:
        uvloop.run(run_until_signalled(stub, "anthropic", as_json=given.json))
    except BpaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

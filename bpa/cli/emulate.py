"""``bpa emulate``: each server of the local default as a command of its own."""

from __future__ import annotations

import importlib
import sys

import click

_FORWARD = {"ignore_unknown_options": True, "help_option_names": []}


@click.group("emulate")
def command() -> None:
    """Run one server of the local default alone.

    Each speaks the real protocol on a real socket; --help after its name lists its options.

    \b
    Examples:
      bpa emulate service-bus --port 5672 --admin-port 5300
      bpa emulate anthropic --help
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is


def _forward(module: str, arguments: tuple[str, ...]) -> None:
    sys.argv[1:] = arguments
    sys.exit(importlib.import_module(f"bpa.embedded.{module}.__main__").main())


@command.command(
    "service-bus", short_help="A Service Bus.", context_settings=_FORWARD, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def service_bus(arguments: tuple[str, ...]) -> None:
    """An Azure Service Bus for this machine: AMQP 1.0, durable, with dead-letter queues."""
    _forward("service_bus", arguments)


@command.command(
    "anthropic",
    short_help="A stub of the Anthropic Messages API.",
    context_settings=_FORWARD,
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def anthropic(arguments: tuple[str, ...]) -> None:
    """A stub of the Anthropic Messages API: rules instead of a model, and it says so."""
    _forward("anthropic", arguments)


@command.command(
    "target", short_help="An invoice API.", context_settings=_FORWARD, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def target(arguments: tuple[str, ...]) -> None:
    """An invoice API that honours idempotency keys and fails on request."""
    _forward("target", arguments)

"""``bpa send``: publish documents to a queue."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from bpa.cli.context import addresses, json_option, loaded, print_json
from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusPublisher

CONTENT_TYPES = {
    ".json": "application/json",
    ".xml": "application/xml",
    ".txt": "text/plain",
    ".md": "text/plain",
}


@click.command("send", short_help="Publish documents to a queue.")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--queue", default="invoices", show_default=True, help="Where to.")
@click.option(
    "--content-type",
    help="Of all files; otherwise by their ending: .json, .xml, .txt, .md.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    *,
    files: tuple[Path, ...],
    queue: str,
    content_type: str | None,
    as_json: bool,
) -> None:
    """Publish FILES, one message each, to the queue that a deployment feeds from.

    Goes to service_bus.connection_string, or to the emulator of the server that runs with this
    data directory. Each message's id is its file's name.
    """
    messages = [_message(file, content_type) for file in files]
    connection_string = loaded(context).settings.service_bus.connection_string
    connection_string = connection_string or addresses(context).service_bus
    asyncio.run(_send(connection_string, queue, messages))
    if as_json:
        print_json({"queue": queue, "sent": len(messages)})
    else:
        click.echo(f"{len(messages)} sent to {queue}")


def _message(file: Path, content_type: str | None) -> OutgoingMessage:
    kind = content_type or CONTENT_TYPES.get(file.suffix.lower())
    if kind is None:
        raise click.UsageError(f"{file}: what is a {file.suffix or 'file'}? Give --content-type")
    return OutgoingMessage(body=file.read_bytes(), content_type=kind, message_id=file.name[:128])


async def _send(connection_string: str, queue: str, messages: list[OutgoingMessage]) -> None:
    async with ServiceBusPublisher(connection_string, queue) as publisher:
        await publisher.send(messages)

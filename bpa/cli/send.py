"""``bpa send``: publish documents to a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from bpa.cli import completing
from bpa.cli.context import addresses, json_option, loaded, print_json
from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import ServiceBusPublisher
from bpa.control.rest.schemas import Document
from bpa.errors import BpaError, InvalidRequest

CONTENT_TYPES = {
    ".json": "application/json",
    ".xml": "application/xml",
    ".txt": "text/plain",
    ".md": "text/plain",
}
_PARTLY = 7


class Sent(Document, frozen=True):
    """What ``--json`` prints."""

    queue: str
    sent: int
    not_sent: list[str]
    """Files that are not in the queue, or not confirmed to be."""


@click.command("send")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--queue",
    metavar="NAME",
    default="invoices",
    show_default=True,
    help="Where to.",
    shell_complete=completing.queue_names,
)
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

    Nothing is sent when one of them is larger than the queue takes (2). Exits with 7 when only a
    part was sent, and says which are not: send those again, and no others.

    \b
    Examples:
      bpa send invoice.json && bpa runs watch
      bpa send --queue credit-notes --content-type application/xml notes/*
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    messages = [_message(file, content_type) for file in files]
    connection_string = loaded(context).settings.service_bus.connection_string
    connection_string = connection_string or addresses(context).service_bus
    sent, failure = asyncio.run(_send(connection_string, queue, messages, files))
    left = [str(file) for file in files[sent:]]
    if as_json:
        print_json(Sent(queue=queue, sent=sent, not_sent=left))
    elif failure is None:
        click.echo(f"{sent} sent to {queue}")
    if failure is not None:
        click.echo(
            f"bpa: {failure}\n{sent} of {len(files)} sent, up to {files[sent - 1]}; "
            f"not sent, or not confirmed: {' '.join(left)}",
            err=True,
        )
        context.exit(_PARTLY)


def _message(file: Path, content_type: str | None) -> OutgoingMessage:
    kind = content_type or CONTENT_TYPES.get(file.suffix.lower())
    if kind is None:
        raise click.UsageError(f"{file}: what is a {file.suffix or 'file'}? Give --content-type")
    return OutgoingMessage(body=file.read_bytes(), content_type=kind, message_id=file.name[:128])


async def _send(
    connection_string: str,
    queue: str,
    messages: Sequence[OutgoingMessage],
    files: Sequence[Path],
) -> tuple[int, BpaError | None]:
    """Return how many are in the queue, and what kept the rest out of it.

    Raises:
        BpaError: None of them is.
    """
    sent = 0

    def accepted(count: int) -> None:
        nonlocal sent
        sent = count

    async with ServiceBusPublisher(connection_string, queue) as publisher:
        refused = await publisher.too_large(messages)
        if refused:
            lines = [f"{files[place]}: {why}" for place, why in refused.items()]
            raise InvalidRequest("\n".join(["nothing was sent", *lines]), lines)
        try:
            await publisher.send(messages, accepted)
        except BpaError as error:
            if not sent:
                raise
            return sent, error
    return sent, None

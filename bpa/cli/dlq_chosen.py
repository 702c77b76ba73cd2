"""Which dead letters a command line means: the options that choose, and what they match."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import click

from bpa.cli import completing
from bpa.cli.api import Api, open_api
from bpa.control.rest.dead_letter_schemas import DeadLetterPage, DeadLetterSummary, DeadLetterTotal
from bpa.errors import BrokerReason, NotFound, Reason

_PAGE = 500

queue_option = click.option(
    "--queue",
    metavar="NAME",
    help="Only those of this queue.",
    shell_complete=completing.queue_names,
)
reason_option = click.option(
    "--reason",
    metavar="R",
    help="Only those with this reason, as RetriesExhausted.",
    shell_complete=completing.reasons,
)

group_option = click.option(
    "--group",
    metavar="G",
    help="Only those of this cause, as `bpa dlq groups` names it.",
    shell_complete=completing.groups,
)


def spelled(context: click.Context, reason: str | None, queue: str | None) -> str | None:
    """Return the reason as dead letters carry it: the platform's, the broker's, a stranger's.

    Raises:
        NotFound: It is none that is known, and no dead letter carries it; says which there are.
    """
    if reason is None:
        return None
    known = _same(reason, [*Reason, *BrokerReason])
    return known or asyncio.run(_foreign(context, reason, queue))


async def _foreign(context: click.Context, reason: str, queue: str | None) -> str:
    async with open_api(context) as api:
        totals = await api.get("/v1/dead-letters/totals", list[DeadLetterTotal], queue=queue)
    found = _same(reason, [total.reason for total in totals])
    if found is None and all(total.complete for total in totals):
        raise NotFound(f"no dead letter has the reason {reason!r}; there are {counted(totals)}")
    return found or reason


def _same(reason: str, among: Iterable[str]) -> str | None:
    among = [str(one) for one in among]
    if reason in among:
        return reason
    return next((one for one in among if one.casefold() == reason.casefold()), None)


def counted(totals: Iterable[DeadLetterTotal]) -> str:
    """Return how many there are of each reason in each queue, in words."""
    words = (
        f"{total.count}{'' if total.complete else ' or more'} {total.reason} in {total.queue}"
        for total in totals
    )
    return ", ".join(words) or "none"


async def letters_of(
    api: Api, reason: str | None, queue: str | None, group: str | None, limit: int
) -> tuple[list[DeadLetterSummary], bool]:
    """Return those that match, oldest first, and whether there are more."""
    letters: list[DeadLetterSummary] = []
    cursor: str | None = None
    while True:
        most = min(_PAGE, limit - len(letters))
        page = await api.get(
            "/v1/dead-letters",
            DeadLetterPage,
            reason=reason,
            queue=queue,
            group=group,
            limit=most,
            cursor=cursor,
        )
        letters += page.dead_letters
        cursor = page.next_cursor
        if cursor is None or len(letters) == limit:
            return letters, cursor is not None

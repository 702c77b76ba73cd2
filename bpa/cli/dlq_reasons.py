"""Which reason of dead letters a command line means, however it is spelled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import click

from bpa.cli.api import open_api
from bpa.control.rest.dead_letter_schemas import DeadLetterTotal
from bpa.errors import BrokerReason, NotFound, Reason


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

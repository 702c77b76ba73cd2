"""``bpa costs``: what the models used and cost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.tables import ROOMY_CHARS, cut, output, table, whole
from bpa.control.ledger import LINES_MAX, PAGED, By
from bpa.control.rest.cost_schemas import Cost, Costs
from bpa.domain.quantities import moment
from bpa.errors import InvalidRequest
from bpa.words import usd_exactly

_NOT_RECORDED = "(not recorded)"

_Line = tuple[list[str | Text], Cost]
"""The cells that name a sum, and the sum."""


class Moment(click.ParamType[datetime]):
    """A time: so long ago, as 7d, or a date, with or without a time of day, in UTC."""

    name = "when"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read what was given; an end with usage where it is no time."""
        try:
            return moment(str(value), datetime.now(UTC))
        except InvalidRequest as error:
            self.fail(str(error), param, ctx)


since_option = click.option(
    "--since",
    type=Moment(),
    default="7d",
    show_default=True,
    metavar="WHEN",
    help="From then on: so long ago, or a date in UTC.",
)
until_option = click.option(
    "--until", type=Moment(), metavar="WHEN", help="Before then; now by default."
)
agent_option = click.option("--agent", metavar="ID", help="Only runs of this agent.")
deployment_option = click.option("--deployment", metavar="ID", help="Only runs of this deployment.")


@click.command("costs")
@click.option(
    "--by",
    type=click.Choice([by.value for by in By]),
    default=By.MODEL.value,
    show_default=True,
    help="What each line is the sum of; an attempt is one execution of a run.",
)
@since_option
@until_option
@agent_option
@deployment_option
@click.option("--model", metavar="NAME", help="Only calls of this model.")
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=LINES_MAX),
    default=20,
    show_default=True,
    help="So many runs or attempts at most.",
)
@json_option
@click.pass_context
def command(context: click.Context, /, *, as_json: bool, **asked: Any) -> None:
    """Sum up model calls: tokens by kind, and USD as exact decimals.

    Each call is counted once, on the day of its answer (UTC), at the price that was recorded with
    it: an answer that a later attempt or a replay went on from is not counted again. Tokens of a
    model that prices.toml does not list have no price: they are listed apart, and cost something
    all the same. So are calls whose answers were lost: each may have been billed, for what was
    reserved at most. USD each is what a completed invoice cost, with its share of what failed.

    \b
    Examples:
      bpa costs --by day --since 30d
      bpa costs --by deployment --since 2026-03-01 --json | jq -r .total.usd
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    costs = asyncio.run(_costs(context, asked))
    if as_json:
        print_json(costs)
        return
    if not costs.costs:
        click.echo("no model calls in that time", err=True)
        return
    _print(output(), costs)
    if costs.next_cursor:
        click.echo(f"more than {asked['limit']}; --limit shows more", err=True)


async def _costs(context: click.Context, asked: dict[str, Any]) -> Costs:
    async with open_api(context) as api:
        return await api.get("/v1/costs", Costs, **asked_of(asked))


def asked_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as the query of a request has them."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in options.items()
    }


def _print(console: Console, costs: Costs) -> None:
    lines = [(_named(costs.by, cost), cost) for cost in costs.costs]
    if costs.total is not None and len(lines) > 1:
        lines.append((["total", ""] if costs.by is By.ATTEMPT else ["total"], costs.total))
    console.print(_answered(costs.by, lines, roomy=console.width >= ROOMY_CHARS))
    for apart in (_each(costs.by, lines), _unpriced(costs.by, lines), _unknown(costs.by, lines)):
        if apart.row_count:
            console.print()
            console.print(apart)


def _answered(by: By, lines: list[_Line], *, roomy: bool) -> Table:
    """Return what was answered; a run's id leaves no room for each kind of tokens."""
    kinds: tuple[str, ...] = ("input", "from cache", "to cache", "output")
    if by in PAGED and not roomy:
        kinds = ("in", "out")
    rows = _table(by, "calls", *kinds, "USD")
    for names, cost in lines:
        figures = {
            "input": cost.input_tokens,
            "from cache": cost.cache_read_tokens,
            "to cache": cost.cache_write_tokens,
            "output": cost.output_tokens,
            "in": cost.input_tokens + cost.cache_read_tokens + cost.cache_write_tokens,
            "out": cost.output_tokens,
        }
        shown = [f"{figures[kind]:,}" for kind in kinds]
        is_unpriced = 0 < cost.unpriced_tokens == sum(figures[kind] for kind in kinds)
        paid = "no price" if is_unpriced else usd_exactly(cost.cost_usd)
        rows.add_row(*names, f"{cost.calls:,}", *shown, paid)
    return whole(rows, "run", "USD")


def _each(by: By, lines: list[_Line]) -> Table:
    """Return what a completed invoice cost, by what can be told of several."""
    rows = _table(by, "completed", "USD each")
    for names, cost in lines:
        if cost.usd_per_completed is not None:
            rows.add_row(*names, f"{cost.completed:,}", usd_exactly(cost.usd_per_completed))
    return rows


def _unpriced(by: By, lines: list[_Line]) -> Table:
    """Return the tokens that the USD leave out, and what to do about it."""
    rows = _table(by, "unpriced tokens")
    rows.add_column("")
    advice = "add it to prices.toml" if by is By.MODEL else "--by model says of which"
    for names, cost in lines:
        if cost.unpriced_tokens:
            told = "" if names[0] == "total" else f"no price: {advice}"
            rows.add_row(*names, f"{cost.unpriced_tokens:,}", told)
    return rows


def _unknown(by: By, lines: list[_Line]) -> Table:
    """Return the calls whose answers were lost, beside all that stands above."""
    rows = _table(by, "unknown calls", "tokens at most", "USD at most")
    for names, cost in lines:
        if cost.unknown_calls:
            most = usd_exactly(cost.unknown_usd)
            if cost.unknown_unpriced_tokens == cost.unknown_tokens:
                most = "no price"
            elif cost.unknown_unpriced_tokens:
                most += " and no price"
            rows.add_row(*names, f"{cost.unknown_calls:,}", f"{cost.unknown_tokens:,}", most)
    return rows


def _table(by: By, *figures: str) -> Table:
    names = ("run", "attempt") if by is By.ATTEMPT else (by.value,)
    return table(*names, *figures, right=("attempt", *figures), cut="" if by in PAGED else by.value)


def _named(by: By, cost: Cost) -> list[str | Text]:
    if by is By.ATTEMPT:
        return [cost.key or "", str(cost.epoch)]
    name = _NOT_RECORDED if cost.key is None else cost.key
    return [name if by in PAGED else cut(name)]

"""``bpa budgets``: how much of its budgets each run used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.costs import (
    agent_option,
    asked_of,
    deployment_option,
    since_option,
    until_option,
)
from bpa.cli.tables import cut, output, table
from bpa.control.rest.cost_schemas import BudgetsUsed, BudgetUse, Used
from bpa.words import usd_exactly


@click.command("budgets")
@since_option
@until_option
@agent_option
@deployment_option
@json_option
@click.pass_context
def command(context: click.Context, /, *, as_json: bool, **asked: Any) -> None:
    """Tell how much of its budgets each run used, deployment by deployment.

    p50 is what half of the runs stayed within, p95 what 95 of 100 did, max the most that one used;
    limit is what one run may use as the deployment stands now. ended counts the runs that a budget
    ended, because their next call might not have fit, or their time was over: where it is not 0,
    look at `bpa runs list reason:BudgetExceeded deployment:ID`.

    \b
    Examples:
      bpa budgets --since 30d
      bpa budgets --json | jq '.deployments[] | {deploymentId, p95: .usd.p95, limit: .usd.limit}'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    used = asyncio.run(_used(context, asked))
    if as_json:
        print_json(used)
    elif used.deployments:
        output().print(table_of(used.deployments))
    else:
        click.echo("no run ended in that time", err=True)


def table_of(deployments: Sequence[BudgetUse]) -> Table:
    """Return what runs used, a line for each budget of each deployment."""
    figures = ("runs", "limit", "p50", "p95", "max", "ended")
    names = ("deployment", "runs", "budget", *figures[1:])
    rows = table(*names, right=figures, cut="deployment")
    for one in deployments:
        for number, cells in enumerate(_lines(one)):
            whose: list[str | Text] = (
                ["", ""] if number else [cut(one.deployment_id), str(one.runs)]
            )
            rows.add_row(*whose, *cells)
    return rows


def _lines(one: BudgetUse) -> Iterator[Sequence[str]]:
    yield ("tokens", *_cells(one.tokens))
    yield ("USD", *_cells(one.usd, is_usd=True))
    for budget, ended in (("calls", one.out_of_calls), ("time", one.out_of_time)):
        if ended:
            yield (budget, "", "", "", "", f"{ended:,}")


def _cells(used: Used, *, is_usd: bool = False) -> Sequence[str]:
    def shown(amount: str | None) -> str:
        if amount is None:
            return "none"
        return usd_exactly(amount) if is_usd else f"{int(amount):,}"

    amounts = (used.limit, used.p50, used.p95, used.max)
    return (*map(shown, amounts), f"{used.exceeded:,}")


async def _used(context: click.Context, asked: dict[str, Any]) -> BudgetsUsed:
    async with open_api(context) as api:
        return await api.get("/v1/budgets", BudgetsUsed, **asked_of(asked))

"""``bpa agents``: what there is to deploy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import click

from bpa.cli import completing
from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json
from bpa.cli.tables import ago, cut, facts, output, table, whole
from bpa.control.rest.agent_schemas import AgentVersion
from bpa.control.rest.schemas import Document
from bpa.errors import NotFound
from bpa.words import clock, segment


class Agents(Document, frozen=True):
    """What ``agents list --json`` prints."""

    agents: list[AgentVersion]
    """Every version of each."""


@click.group("agents")
def command() -> None:
    """Look at agents and their versions; `bpa apply FILE` makes them."""


@command.command("list", short_help="List the agents.")
@json_option
@click.pass_context
def list_agents(context: click.Context, *, as_json: bool) -> None:
    """List the agents, each with its newest version.

    `bpa deployments list` says which version works where.

    \b
    Examples:
      bpa agents list
      bpa agents list --json | jq -r '.agents[].agentId'
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    versions = asyncio.run(_versions(context, "/v1/agents"))
    if as_json:
        print_json(Agents(agents=versions))
        return
    if not versions:
        click.echo("there is no agent; make one with `bpa apply FILE`", err=True)
        return
    rows = table("agent", "version", "versions", "age", "model", "name",
                 right=("versions", "age"), cut="name")  # fmt: skip
    for newest, count in _newest(versions):
        rows.add_row(
            newest.agent_id,
            newest.version,
            str(count),
            ago(newest.created_at),
            _model(newest.spec),
            cut(str(newest.spec.get("name", ""))),
        )
    output().print(whole(rows, "agent", "version"))


@command.command("show", short_help="Show a version of an agent.")
@click.argument("agent_id", metavar="AGENT", shell_complete=completing.agent_ids)
@click.option("--version", metavar="V", help="Which one; the newest unless given.")
@json_option
@click.pass_context
def show_agent(
    context: click.Context, *, agent_id: str, version: str | None, as_json: bool
) -> None:
    """Show an agent: a version of it with its instructions, and which others there are.

    Exits with 3 when there is no such agent or version.

    \b
    Examples:
      bpa agents show invoice-classifier
      bpa agents show invoice-classifier --version 0.1.0 --json
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    versions = asyncio.run(_versions(context, f"/v1/agents/{segment(agent_id)}"))
    chosen = [one for one in versions if version in (None, one.version)]
    if not chosen:
        known = ", ".join(one.version for one in versions)
        raise NotFound(f"agent {agent_id!r} has no version {version!r}; there are {known}")
    shown = chosen[-1]
    if as_json:
        print_json(shown)
        return
    spec = shown.spec
    profile = spec.get("modelProfile") or {}
    output().print(
        facts(
            [
                ("agent", shown.agent_id),
                ("name", spec.get("name")),
                ("version", shown.version),
                ("others", ", ".join(v.version for v in versions if v is not shown)),
                ("created", f"{shown.created_at:%Y-%m-%d} {clock(shown.created_at)}"),
                ("model", ", ".join(f"{name} {value}" for name, value in profile.items())),
                ("instructions", spec.get("instructions")),
            ]
        )
    )


async def _versions(context: click.Context, path: str) -> list[AgentVersion]:
    async with open_api(context) as api:
        return await api.get(path, list[AgentVersion])


def _newest(versions: Iterable[AgentVersion]) -> Iterable[tuple[AgentVersion, int]]:
    """Return each agent's newest version, and how many it has."""
    by_agent: dict[str, list[AgentVersion]] = {}
    for one in versions:
        by_agent.setdefault(one.agent_id, []).append(one)
    return [(max(own, key=lambda v: v.created_at), len(own)) for own in by_agent.values()]


def _model(spec: Mapping[str, Any]) -> str:
    return str((spec.get("modelProfile") or {}).get("model", ""))

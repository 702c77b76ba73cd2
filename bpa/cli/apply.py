"""``bpa apply``: create agents and deployments from files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
import msgspec

from bpa.cli.api import open_api
from bpa.cli.context import json_option, print_json
from bpa.errors import Conflict
from bpa.manifests import read_all


@click.command("apply")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@json_option
@click.pass_context
def command(context: click.Context, *, paths: tuple[Path, ...], as_json: bool) -> None:
    """Create the agents and deployments in PATHS (JSON files, or folders of them).

    Repeating it changes nothing. A new version of an agent that exists is added to it.
    """
    results = asyncio.run(_apply(context, list(paths)))
    if as_json:
        print_json(results)
        return
    for result in results:
        click.echo(f"{result['kind']:<12} {result['name']}")


async def _apply(context: click.Context, paths: list[Path]) -> list[dict[str, Any]]:
    agents, deployments = read_all(paths)
    results = []
    async with open_api(context) as api:
        for agent in agents:
            body = msgspec.to_builtins(agent)
            try:
                await api.post("/v1/agents", body)
            except Conflict:
                await api.post(f"/v1/agents/{agent.agent_id}:version", body)
            results.append({"kind": "agent", "name": f"{agent.agent_id} {agent.version}"})
        for deployment in deployments:
            answer = await api.post("/v1/deployments", msgspec.to_builtins(deployment))
            results.append({"kind": "deployment", "name": answer["deploymentId"]})
    return results

"""``bpa apply``: create agents and deployments from files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlencode

import click

from bpa.cli.api import Api, open_api
from bpa.cli.context import json_option, print_json, whoami
from bpa.cli.deployments_edit import update as edited
from bpa.control.rest.agent_schemas import AgentVersion
from bpa.control.rest.deployment_schemas import Deployment
from bpa.control.rest.schemas import Document
from bpa.domain.specs import AgentSpec, DeploymentSpec
from bpa.errors import Conflict, NotFound
from bpa.manifests import read_all
from bpa.words import segment


class AppliedOne(Document, frozen=True):
    """An agent's version or a deployment that is there now."""

    kind: str
    name: str
    updated: bool = False
    """Whether it said something else before."""


class Applied(Document, frozen=True):
    """What ``--json`` prints."""

    applied: list[AppliedOne]


@click.command("apply")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--update", is_flag=True, help="Edit the deployments that say something else.")
@json_option
@click.pass_context
def command(
    context: click.Context, *, paths: tuple[Path, ...], update: bool, as_json: bool
) -> None:
    """Create the agents and deployments in PATHS (JSON files, or folders of them).

    Agents come first, whatever the order. Repeating it changes nothing; a new version of an agent
    that exists is added to it. See config/agents and config/deployments for what to write.

    Exits with 5 when a version or deployment of that name exists and says something else; with
    --update a deployment that does is edited, as `bpa deployments edit` would, and a version never
    changes.

    \b
    Examples:
      bpa apply config/agents config/deployments
      bpa apply invoice-classifier.json --json
      bpa apply --update config/deployments
    """  # noqa: D301 - click leaves a paragraph that begins with \b as it is
    results = asyncio.run(_apply(context, list(paths), update=update))
    if as_json:
        print_json(Applied(applied=results))
        return
    for result in results:
        click.echo(f"{result.kind:<12} {result.name}{' updated' if result.updated else ''}")


async def _apply(context: click.Context, paths: list[Path], *, update: bool) -> list[AppliedOne]:
    agents, deployments = read_all(paths)
    if not (agents or deployments):
        raise NotFound("there is no *.json in these folders")
    results: list[AppliedOne] = []
    async with open_api(context) as api:
        for agent in agents:
            await _create_agent(api, agent)
            results.append(AppliedOne(kind="agent", name=f"{agent.agent_id} {agent.version}"))
        results += [await _deploy(api, one, update=update) for one in deployments]
    return results


async def _deploy(api: Api, spec: DeploymentSpec, *, update: bool) -> AppliedOne:
    try:
        who = urlencode({"requestedBy": whoami()})
        made = await api.post(f"/v1/deployments?{who}", spec, Deployment)
    except Conflict as conflict:
        if not update:
            raise
        path = f"/v1/deployments/{segment(f'{spec.agent_id}-{spec.environment}')}"
        try:
            present = await api.get(path, Deployment)
        except NotFound:
            raise conflict from None  # it was about the queue
        made = await edited(api, path, spec, present)
        return AppliedOne(kind="deployment", name=made.deployment_id, updated=True)
    return AppliedOne(kind="deployment", name=made.deployment_id)


async def _create_agent(api: Api, agent: AgentSpec) -> None:
    try:
        await api.post("/v1/agents", agent, AgentVersion)
    except Conflict:
        path = f"/v1/agents/{agent.agent_id}:version"
        await api.post(path, agent, AgentVersion)

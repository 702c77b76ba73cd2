"""A control with something of everything in it: runs in each state, dead letters, nodes, agents."""

from dataclasses import dataclass, field

from msgspec.structs import replace

from bpa.connectors import OutgoingMessage
from bpa.domain.executions import Outcome, OutcomeKind, TargetSeen
from bpa.domain.runs import RunId
from tests.eventually import eventually
from tests.integration.control.desk import Desk, buried_elsewhere
from tests.integration.control.fleet import AGENT, DEP_ID, DEPLOYMENT
from tests.integration.control.intaking import GOOD

HOST = "https://erp.example:443"
DOWN = TargetSeen(host=HOST, tries=4, error="HTTP 503")


@dataclass
class World:
    """What there is to be named in requests, by the name of the parameter that names it."""

    url: str
    names: dict[str, list[str]] = field(default_factory=dict)


async def world_at(desk: Desk) -> World:
    """Fill an empty control, and say what is in it."""
    fleet, rest = desk.fleet, desk.rest
    await fleet.agents.add_version(replace(AGENT, version="1.1.0"))
    paused = replace(DEPLOYMENT, environment="test", queue="test-invoices")
    await fleet.deployments.create(paused)
    await fleet.deployments.pause("invoice-classifier-test", paused=True, actor="t", tag=None)
    for number in range(2, 5):
        await fleet.register(f"node-{number}", f"boot-{number}")
    await fleet.drains.cordon("node-2", "t")
    await fleet.drains.drain("node-3", "t", 600.0)
    dead = [await desk.dead(), await desk.dead(intend=True)]
    await desk.intaking.send(b"\xff\xfe")
    dead += await desk.take(1)
    await eventually(lambda: desk.intaking.broker()[2] == len(dead))
    await desk.intaking.queue.publish([OutgoingMessage(body=b"{}" * 9)])
    await buried_elsewhere(desk)
    runs = {"dead": dead, **await _living(desk)}
    letters = [letter["id"] for letter in await desk.letters()]
    return World(
        rest.url,
        {
            "path.run_id": [run_id for ids in runs.values() for run_id in ids],
            "path.node_id": ["node-1", "node-2", "node-3", "node-4"],
            "path.agent_id": ["invoice-classifier"],
            "path.version": ["1.0.0", "1.1.0"],
            "path.deployment_id": [DEP_ID, "invoice-classifier-test"],
            "path.dead_letter_id": letters,
            "header.If-Match": ["*", '"1"', '"1-paused"'],
            "query.q": ["status:completed", "acme cost:>0.05 since:1h", "node:node-1"],
        },
    )


async def _living(desk: Desk) -> dict[str, list[str]]:
    """Have runs come to every state that is not a dead letter."""
    fleet = desk.fleet
    await desk.intaking.send(*[GOOD] * 12)
    runs = [RunId(run_id) for run_id in await desk.take(12)]
    named = dict(zip(("done", "running", "offered", "cancelling", "parked"), runs, strict=False))
    for name, run_id in named.items():
        epoch = await fleet.granted(
            run_id,
            "node-1" if name != "running" else "node-4",
            "boot-1" if name != "running" else "boot-4",
            ttl_s=3600.0,
        )
        if name == "offered":
            continue
        await fleet.leases.acknowledge(run_id, epoch)
        if name == "done":
            await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.COMPLETED))
        elif name == "cancelling":
            await fleet.runs.cancel(run_id, "t", "not wanted")
        elif name == "parked":
            await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.PARKED, target=DOWN))
    return {"all": list(runs)}

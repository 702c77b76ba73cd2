"""One example of each document that people send, as the OpenAPI document shows it."""

from __future__ import annotations

import msgspec

from bpa.control.rest.dead_letter_schemas import ReplayAsked
from bpa.control.rest.lease_schemas import Fenced, Heartbeat, Progressed, Pull, Refused
from bpa.control.rest.node_schemas import DrainAsked
from bpa.control.rest.run_schemas import Cancel
from bpa.control.rest.schemas import Asked
from bpa.domain.specs import AgentSpec, DeploymentSpec, NodeSpec, Placement

EXAMPLES: tuple[msgspec.Struct, ...] = (
    AgentSpec(
        agent_id="invoice-classifier",
        version="1.0.0",
        name="Invoice Classifier",
        instructions="Name the vendor, and choose the route that fits the invoice best.",
    ),
    DeploymentSpec(
        agent_id="invoice-classifier",
        version="1.0.0",
        environment="dev",
        routes=["it", "facilities", "general"],
        placement=Placement(affinity={"region": ["westeurope"]}),
    ),
    NodeSpec(node_id="node-1", boot_id="9f1c2b7e", slots=4, labels={"region": "westeurope"}),
    Heartbeat(boot_id="9f1c2b7e"),
    Pull(node_id="node-1", boot_id="9f1c2b7e", wait_s=0.0),
    Fenced(epoch=1),
    Refused(epoch=1, why="no slot is free"),
    Progressed(epoch=1, stage="think"),
    Cancel(detail="the invoice was withdrawn", requested_by="ada@example.org"),
    Asked(requested_by="ada@example.org"),
    ReplayAsked(ids=["invoices:42"], dry_run=True, requested_by="ada@example.org"),
    DrainAsked(deadline_s=600.0),
)

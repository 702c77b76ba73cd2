"""Fleets to plan for."""

from datetime import UTC, datetime, timedelta

from bpa.domain.runs import DeploymentId, NodeId, RunId
from bpa.scheduler.breakers import Gate
from bpa.scheduler.fleet import Deployment, Needs, Node, Snapshot, WaitingRun

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def node(name="node-1", slots=8, *, age_s=0.0, labels=None, **more):
    heartbeat_at = NOW - timedelta(seconds=age_s)
    return Node(NodeId(name), f"boot-{name}", slots, heartbeat_at, labels or {}, **more)


def deployment(
    name="dep-1", *, budget=4, replicas=1, active=True, leased=0, waiting=0, needs=None, gate=None
):
    needs = needs or Needs()
    return Deployment(DeploymentId(name), 1, active, budget, replicas, needs, leased, waiting, gate)


def gate(state, room, *, host="http://target:80", **more):
    told = {"last_error": "HTTP 503", "probe_at": NOW + timedelta(seconds=5)}
    return Gate(host, state, room, **told, **more)


def runs(count, dep="dep-1", *, first=0, alone=False):
    return [
        WaitingRun(
            RunId(f"{dep}-{n}"), DeploymentId(dep), NOW - timedelta(seconds=1000 - n), alone=alone
        )
        for n in range(first, first + count)
    ]


def snapshot(nodes, deployments, waiting, *, seed=1):
    return Snapshot(
        NOW, 1, tuple(nodes), {d.dep_id: d for d in deployments}, tuple(waiting), 10.0, seed
    )

"""The story of a run: its stages and steps, from what Postgres has of it. Pure.

The one source of the run's trace, of the waterfall in the terminal and of its page. Times are those
of whoever did the thing: Postgres for what control does, the node for its steps; a child that seems
to leave its parent by the difference of two clocks stretches the parent. Names and parents::

    receive                 control, child of the sender's span (a replay: of ``replay``)
    +-- plan                from when the run could be placed to its grant
    +-- lease               from the grant to its acknowledgement by the node
    +-- think               the execution
    |   +-- invoke_agent    +-- chat {model}
    |                       +-- execute_tool post_invoice -- http.out
    +-- complete            from the outcome to the settled message
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bpa.control.execution_stages import thinking
from bpa.control.stages import Attributes, Row, Stage, StageKind
from bpa.domain.runs import TERMINAL, RunStatus
from bpa.telemetry.spans import SpanContext, replaying, span_id

_SETTLED = ("complete", "dead_letter")


def timeline(run: Row) -> list[Stage]:
    """Return the stages of a run as they followed each other, parents before children.

    Args:
        run: As `bpa.control.history.History.get` returns it.
    """
    stages = [*_beginning(run)]
    receive = stages[-1]
    attempt = 1
    for execution in _executions(run):
        stages += _execution(run, execution, attempt, receive.span_id)
        attempt += execution["acknowledged_at"] is not None
    stages += [*_waiting(run, attempt, receive.span_id), *_completion(run, receive.span_id)]
    return stages


def _beginning(run: Row) -> Iterator[Stage]:
    run_id, sender = run["run_id"], SpanContext.parse(run["sender"])
    source = run["input_ref"]
    if run["replay_of"] and sender == replaying(run_id):
        yield Stage(
            name="replay",
            span_id=sender.span_id,
            kind=StageKind.PRODUCER,
            started_at=run["replay_asked_at"],
            ended_at=max(run["replay_sent_at"] or run["replay_asked_at"], run["replay_asked_at"]),
            attributes={
                "messaging.system": "servicebus",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": source.get("queue", ""),
            },
            link=run["replayed_traceparent"] or "",
        )
    count = run["deliveries"][0]["delivery_count"] if run["deliveries"] else 0
    owner = run["deliveries"][0]["owner"] if run["deliveries"] else ""
    yield Stage(
        name="receive",
        span_id=span_id(run_id, "receive"),
        parent_id=sender.span_id if sender else "",
        kind=StageKind.CONSUMER,
        started_at=min(run["received_at"] or run["created_at"], run["created_at"]),
        ended_at=run["created_at"],
        attributes={
            "bpa.deployment.id": run["dep_id"],
            "bpa.agent.id": run["agent_id"],
            "bpa.agent.version": run["version"],
            "bpa.replica.id": owner,
            "messaging.system": "servicebus",
            "messaging.operation.name": "receive",
            "messaging.operation.type": "receive",
            "messaging.destination.name": source.get("queue", ""),
            "messaging.message.id": source.get("message_id") or "",
            "messaging.servicebus.message.delivery_count": count,
            "messaging.servicebus.message.enqueued_time": int(source.get("enqueued_ms", 0)) // 1000,
        },
    )


def _waiting(run: Row, attempt: int, parent_id: str) -> Iterator[Stage]:
    """Yield the stage of a run that could be placed and is not, as its grant will have it."""
    if run["status"] != RunStatus.QUEUED or run["waiting_until"] is not None:
        return
    yield Stage(
        name="plan",
        span_id=span_id(run["run_id"], "plan", run["lease_epoch"] + 1),
        parent_id=parent_id,
        started_at=max(run["created_at"], run["not_before"] or run["created_at"]),
        ended_at=None,
        attempt=attempt,
        detail=run["waiting_reason"] or "",
    )


def _executions(run: Row) -> list[Row]:
    """Return the leases that the run has had, in order, the present one last."""
    if run["lease_granted_at"] is None:
        return [*run["attempts"]]
    present = {
        "epoch": run["lease_epoch"],
        "node_id": run["node_id"],
        "waiting_since": run["lease_waiting_since"],
        "granted_at": run["lease_granted_at"],
        "acknowledged_at": run["lease_acknowledged_at"],
        "ended_at": None,
        "ending": "",
        "reason": None,
        "detail": None,
        "timings": {},
        "replayed": [],
        "excess": None,
        "heard": None,
    }
    return [*run["attempts"], present]


def _execution(run: Row, execution: Row, attempt: int, parent_id: str) -> Iterator[Stage]:
    run_id, epoch = run["run_id"], execution["epoch"]
    taken_up = execution["acknowledged_at"]
    about: Attributes = {"bpa.node.id": execution["node_id"], "bpa.attempt": attempt}
    yield Stage(
        name="plan",
        span_id=span_id(run_id, "plan", epoch),
        parent_id=parent_id,
        started_at=min(execution["waiting_since"], execution["granted_at"]),
        ended_at=execution["granted_at"],
        attempt=attempt,
        attributes=about,
    )
    yield Stage(
        name="lease",
        span_id=span_id(run_id, "lease", epoch),
        parent_id=parent_id,
        started_at=execution["granted_at"],
        ended_at=taken_up or execution["ended_at"],
        attempt=attempt,
        error="" if taken_up or not execution["ended_at"] else execution["ending"],
        detail="" if taken_up else execution["detail"] or "",
        attributes=about,
    )
    if taken_up:
        yield from thinking(run, execution, attempt, parent_id)


def _completion(run: Row, parent_id: str) -> Iterator[Stage]:
    """Yield the settlement of a run that has ended; one that nobody can settle has none."""
    if run["status"] not in TERMINAL:
        return
    settled: Sequence[Row] = [
        one for one in run["deliveries"] if one["disposition"] in _SETTLED and one["settled_at"]
    ]
    if not settled:
        return
    first = min(settled, key=lambda one: one["settled_at"])
    failed = run["status"] == RunStatus.DEAD_LETTERED
    yield Stage(
        name="complete",
        span_id=span_id(run["run_id"], "complete"),
        parent_id=parent_id,
        kind=StageKind.CLIENT,
        started_at=min(run["ended_at"], first["settled_at"]),
        ended_at=first["settled_at"],
        error=(run["reason"] or "") if failed else "",
        detail=(run["detail"] or "") if failed else "",
        attributes={
            "bpa.replica.id": first["owner"],
            "messaging.system": "servicebus",
            "messaging.operation.name": first["disposition"],
            "messaging.operation.type": "settle",
            "messaging.destination.name": run["input_ref"].get("queue", ""),
            "messaging.servicebus.disposition_status": first["disposition"],
        },
    )

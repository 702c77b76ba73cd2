"""What happens in control, as metrics and log lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import structlog

from bpa.control.deployments import Feeding
from bpa.control.runs import Ended
from bpa.domain.runs import TERMINAL, DeploymentId, RunStatus
from bpa.errors import Reason
from bpa.scheduler.breakers import BreakerState, Gate
from bpa.scheduler.commit import Grant
from bpa.scheduler.constraints import Why
from bpa.telemetry.metrics import Metrics
from bpa.telemetry.spans import fields_of

_FED_MAX = 100
"""Deployments whose counters are shown from 0 on: there are thirty of each."""
_log = structlog.stdlib.get_logger(__name__)


class Measured:
    """Listens to the scheduler and to the ends of runs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._hosts: set[str] = set()
        """Labels of hosts that were ever seen open."""
        self._fed: set[DeploymentId] = set()

    def fed(self, feeding: Feeding) -> None:
        """Show what is counted of a deployment from 0 on: an increase then shows the first one."""
        if len(self._fed) >= _FED_MAX:
            return
        self._fed.add(feeding.dep_id)
        labels = (feeding.agent_id, feeding.version, feeding.dep_id)
        self._metrics.runs_started.labels(*labels)
        for outcome in TERMINAL:
            self._metrics.runs_completed.labels(*labels, outcome.value)
        for reason in Reason:
            self._metrics.runs_failed.labels(*labels, reason.value)
            self._metrics.dead_lettered.labels(feeding.queue, reason.value)

    def placed(self, grants: Sequence[Grant]) -> None:
        """Take grants, each with how long its run waited."""
        for grant in grants:
            self._metrics.placement_s.observe(grant.waited_s)

    def waiting(self, runs: Mapping[Why, int]) -> None:
        """Take how many runs wait for what."""
        for why in Why:
            self._metrics.unplaceable.labels(why.value).set(runs.get(why, 0))

    def gated(self, gates: Iterable[Gate]) -> None:
        """Take the breakers that are not closed."""
        label = self._metrics.host
        is_open = {label(gate.host): gate.state is BreakerState.OPEN for gate in gates}
        self._hosts |= is_open.keys()
        for host in self._hosts:
            self._metrics.breaker_open.labels(host).set(is_open.get(host, False))

    def ended(self, ended: Ended) -> None:
        """Take a run that left its node."""
        row = ended.row
        if ended.verdict is None:
            return
        labels = (row["agent_id"], row["version"], row["dep_id"])
        outcome = RunStatus(row["status"]).value
        self._metrics.runs_completed.labels(*labels, outcome).inc()
        if not ended.verdict.completed:
            self._metrics.runs_failed.labels(*labels, ended.verdict.reason).inc()
        if (latency_ms := row.get("latency_ms")) is not None:
            self._metrics.run_latency_ms.labels(*labels[:2], outcome).observe(float(latency_ms))
        _log.info(
            "run_ended",
            **fields_of(ended.verdict.run_id, row["trace_id"], "complete"),
            node_id=row["node_id"],
            status=row["status"],
            reason=row["reason"],
            detail=row["detail"],
        )

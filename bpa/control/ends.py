"""What is written down of the end of an execution. Pure."""

from __future__ import annotations

from typing import Any

from bpa.control.decision import Decision
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.runs import RunId
from bpa.scheduler.breakers import Parking


def end_row(run_id: RunId, epoch: int, outcome: Outcome, decision: Decision) -> dict[str, Any]:
    """Return the report of an execution's end as the statement ``finish`` takes it."""
    effect, parked = outcome.effect, decision.parked
    return {
        "run_id": run_id,
        "epoch": epoch,
        "status": decision.status,
        "reason": decision.reason,
        "detail": decision.detail,
        "outcome": outcome.result,
        "worked_s": _worked_s(outcome) if parked else outcome.worked_s,
        "timings": outcome.timings,
        "agent_failures": decision.agent_failures,
        "crashes": decision.crashes,
        "infra_failures": decision.infra_failures,
        "delay_s": decision.delay_s,
        "waiting_reason": decision.waiting_reason,
        "parked": _parked(parked) if parked else None,
        "spared": parked.spared if parked else 0,
        "effect_seq": effect.seq if effect else None,
        "effect_answer": effect.answer if effect else None,
        "effect_call": effect.call if effect else None,
        "effect_ended_at_ms": effect.ended_at_ms if effect else None,
        "replayed": outcome.replayed,
        "ending": outcome.kind,
        "ending_reason": outcome.reason or None,
        "ending_detail": outcome.detail,
        "excess": outcome.excess,
        "heard": outcome.heard,
    }


def _worked_s(outcome: Outcome) -> float:
    """Return what counts of the time of a run that is parked: not what its target took."""
    if outcome.kind is OutcomeKind.PARKED:
        return outcome.worked_s  # its node knew
    return max(0.0, outcome.worked_s - outcome.timings.get("http_out", 0.0) / 1000)


def _parked(parking: Parking) -> dict[str, Any]:
    noted = {"host": parking.host, "error": parking.error}
    return {**noted, "probed": True} if parking.probed else noted

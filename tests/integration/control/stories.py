"""What the timeline of any run must be, whatever happened to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from bpa.control.stages import Stage, closed
from bpa.control.timeline import timeline
from bpa.telemetry.spans import SpanContext

_INSIDE = ("invoke_agent", "chat", "execute_tool", "http.out")


class Stories:
    """Takes runs again and again: what was told of one stands, and only more is added."""

    def __init__(self) -> None:
        self._told: dict[str, list[Stage]] = {}

    def take(self, runs: Sequence[Mapping[str, Any]], granted: Mapping[str, int]) -> None:
        """Make sure that the story of each run is one tree that agrees with its row.

        Args:
            runs: As `bpa.control.history.History.whole` returns them.
            granted: How many leases each run has had.
        """
        for run in runs:
            stages = timeline(run)
            names = Counter(stage.name for stage in stages)
            assert names["lease"] == granted[run["run_id"]]
            assert names["plan"] == names["lease"] + _waits_for_a_place(run)
            _is_one_tree(run, stages)
            _agrees(run, stages)
            self._stands(run["run_id"], stages)

    def _stands(self, run_id: str, stages: Sequence[Stage]) -> None:
        before, over = self._told.get(run_id, []), closed(stages)
        for was, now in zip_longest(before, over[: len(before)]):
            assert now == was, f"{was} may have been exported, and has become {now}"
        self._told[run_id] = over


def _is_one_tree(run: Mapping[str, Any], stages: Sequence[Stage]) -> None:
    seen: dict[str, Stage] = {}
    sender = SpanContext.parse(run["sender"])
    for stage in stages:
        assert stage.span_id not in seen, f"two stages are one span: {stage.name}"
        if not seen:
            assert stage.parent_id in ("", sender and sender.span_id)
        else:
            assert stage.parent_id in seen, f"{stage.name} comes before what it is a part of"
            _is_inside(stage, seen[stage.parent_id])
        seen[stage.span_id] = stage


def _is_inside(stage: Stage, parent: Stage) -> None:
    assert stage.ended_at is None or stage.started_at <= stage.ended_at, stage
    if stage.name.startswith(_INSIDE):
        assert parent.started_at <= stage.started_at, (stage, parent)
        assert parent.ended_at is None or _end(stage) <= parent.ended_at, (stage, parent)


def _agrees(run: Mapping[str, Any], stages: Sequence[Stage]) -> None:
    named = [stage.name for stage in stages]
    thinks = [stage for stage in stages if stage.name == "think"]
    assert [think.attempt for think in thinks] == list(range(1, run["executions"] + 1))
    goes_on = {stage.name for stage in stages if stage.ended_at is None}
    match run["status"]:
        case "queued":
            assert goes_on == ({"plan"} if _waits_for_a_place(run) else set())
        case "offered":
            assert goes_on == {"lease"}
        case "running":
            assert "think" in goes_on
            assert goes_on.isdisjoint({"receive", "plan", "lease", "complete"})
        case _:
            assert not goes_on, "it is not at work"
    assert not any(think.error for think in thinks[-1:]) or run["status"] != "completed"
    assert all(think.error for think in thinks[:-1]), "there was another, so it came to nothing"
    settled = any(one["disposition"] in ("complete", "dead_letter") for one in run["deliveries"])
    ended = run["ended_at"] is not None
    assert named.count("complete") == (settled and ended)
    assert "complete" not in named or named[-1] == "complete"


def _waits_for_a_place(run: Mapping[str, Any]) -> bool:
    return bool(run["status"] == "queued" and run["waiting_until"] is None)


def _end(stage: Stage) -> datetime:
    return stage.ended_at or datetime.max.replace(tzinfo=UTC)

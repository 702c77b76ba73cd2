"""Traces: the stages of runs, exported as spans (docs/decisions/0017).

They are read from Postgres when a run has ended, or is late: so a process that is killed takes no
span with it, and a collector that is away for a while gets them afterwards. A span is exported
once, or again where it is not known whether it arrived: then it is the same in every field.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace import SpanContext as OtelContext

from bpa import __version__
from bpa.control.history import History
from bpa.control.stages import Stage, closed
from bpa.control.timeline import timeline
from bpa.domain.runs import TERMINAL
from bpa.errors import BpaError
from bpa.postgres import Pool, fetch_all, load_queries
from bpa.telemetry.spans import SpanContext

_QUERIES = load_queries(__file__)
_AT_ONCE = 100
_HOLD_S = 30.0
"""For which a claim lasts, and after which spans that did not get through are tried again."""
_LATE = timedelta(seconds=10)
"""A run that works longer shows what it has done so far."""
_LOOK_AGAIN_MOST_S = 60.0
_GIVE_UP = timedelta(hours=1)
_SCOPE = InstrumentationScope("bpa", __version__)
_log = structlog.stdlib.get_logger(__name__)


class Traces:
    """Exports the spans of runs; replicas share the work.

    Args:
        pool: Connections to Postgres.
        history: What is known of runs.
        exporter: Opens what takes spans to the collector; it is called on a thread.
        replica_id: Who exports, and so the instance that control's spans are from.
        resource: Builds the resource of a service and its instance.
        every_s: Seconds between two passes.
    """

    def __init__(
        self,
        pool: Pool,
        history: History,
        exporter: Callable[[], SpanExporter],
        replica_id: str,
        resource: Callable[[str, str], Resource],
        every_s: float = 1.0,
    ) -> None:
        self._pool = pool
        self._history = history
        self._open_exporter = exporter
        self._exporter: SpanExporter | None = None
        self._replica_id = replica_id
        self._resource = lru_cache(maxsize=1024)(resource)
        self._every_s = every_s
        self._is_away = False

    async def run(self) -> None:
        """Export until cancelled; outages of Postgres and of the collector are waited out."""
        while True:
            try:
                taken = await self.one_pass()
            except BpaError as error:
                _log.warning("traces_wait", code=error.code, error=str(error))
                taken = 0
            rest_s = self._every_s if taken < _AT_ONCE else self._every_s / 2
            await asyncio.sleep(_HOLD_S if self._is_away else rest_s)

    async def one_pass(self) -> int:
        """Export what is due; return how many runs were looked at.

        Raises:
            Unavailable: Postgres is away.
        """
        due = await fetch_all(self._pool, _QUERIES.claim, hold_s=_HOLD_S, most=_AT_ONCE)
        if not due:
            return 0
        runs = await self._history.whole([row["run_id"] for row in due])
        now = datetime.now(UTC)
        over: list[str] = []
        given_up: list[str] = []
        again: list[tuple[str, float, int]] = []
        told = {row["run_id"]: row["told"] for row in due}
        spans: list[ReadableSpan] = []
        for run in runs:
            run_id, stages = run["run_id"], timeline(run)
            age = now - run["created_at"]
            is_over = _is_over(run, stages, now)
            if is_over or age >= _LATE:
                new = closed(stages)[told[run_id] :]
                spans += [self._span(run, stage) for stage in new]
                told[run_id] += len(new)
            if is_over:
                (given_up if now - run["ended_at"] > _GIVE_UP else over).append(run_id)
            else:
                again.append((run_id, _wait_s(age), told[run_id]))
        if await self._export(spans):
            await self._forget([*over, *given_up])
            await self._look_again(again)
            given_up = []
        await self._forget(given_up)
        overdue = await self._give_up() if self._is_away or len(due) == _AT_ONCE else 0
        if given_up or overdue:
            _log.warning(
                "traces_given_up",
                runs=len(given_up) + overdue,
                after_s=_GIVE_UP.total_seconds(),
                effect="no collector has their spans; bpa runs show still tells all of each",
                then="see that the collector runs, and that it keeps up",
            )
        return len(due)

    async def close(self) -> None:
        """Close the exporter; what has not got through stays due."""
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.shutdown)

    async def _export(self, spans: Sequence[ReadableSpan]) -> bool:
        if not spans:
            return True
        result = await asyncio.to_thread(self._send, spans)
        self._is_away = result is not SpanExportResult.SUCCESS
        return not self._is_away

    def _send(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._exporter is None:
            self._exporter = self._open_exporter()
        return self._exporter.export(spans)

    async def _give_up(self) -> int:
        """Forget what has waited too long for its turn, so that what waits is bounded."""
        after_s = _GIVE_UP.total_seconds()
        (row,) = await fetch_all(self._pool, _QUERIES.give_up, after_s=after_s)
        return int(row["runs"])

    async def _forget(self, run_ids: list[str]) -> None:
        if run_ids:
            await fetch_all(self._pool, _QUERIES.done, run_ids=run_ids)

    async def _look_again(self, runs: Sequence[tuple[str, float, int]]) -> None:
        if runs:
            run_ids, after_s, told = zip(*runs, strict=True)
            await fetch_all(
                self._pool,
                _QUERIES.look_again,
                run_ids=list(run_ids),
                after_s=list(after_s),
                told=list(told),
            )

    def _span(self, run: Mapping[str, Any], stage: Stage) -> ReadableSpan:
        own = SpanContext.parse(run["traceparent"])
        assert own is not None, "a run without a trace is never due"
        state = TraceState.from_header([run["tracestate"]] if run["tracestate"] else [])
        parent = _context(own.child(stage.parent_id), state) if stage.parent_id else None
        linked = SpanContext.parse(stage.link)
        service, instance = (
            ("bpa-node", stage.node_id)
            if stage.node_id
            else (
                "bpa-control",
                self._replica_id,
            )
        )
        error = {"error.type": stage.error} if stage.error else {}
        return ReadableSpan(
            name=stage.name,
            context=_context(own.child(stage.span_id), state),
            parent=parent,
            resource=self._resource(service, instance),
            attributes={"bpa.run.id": run["run_id"], **stage.attributes, **error},
            links=[Link(_context(linked))] if linked else [],
            kind=SpanKind[stage.kind.name],
            status=Status(StatusCode.ERROR, stage.detail) if stage.error else Status(),
            start_time=_ns(stage.started_at),
            end_time=_ns(max(stage.started_at, stage.ended_at or stage.started_at)),
            instrumentation_scope=_SCOPE,
        )


def _is_over(run: Mapping[str, Any], stages: Sequence[Stage], now: datetime) -> bool:
    """Say whether nothing will be added: the run has ended, and its message is settled."""
    if run["status"] not in TERMINAL:
        return False
    return stages[-1].name == "complete" or now - run["ended_at"] > _GIVE_UP


def _wait_s(age: timedelta) -> float:
    """Return seconds until the next look at a living run: as old as it is, within bounds."""
    return min(max(age.total_seconds(), 1.0), _LOOK_AGAIN_MOST_S)


def _context(span: SpanContext, state: TraceState | None = None) -> OtelContext:
    return OtelContext(
        trace_id=int(span.trace_id, 16),
        span_id=int(span.span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(int(span.flags, 16)),
        trace_state=state,
    )


def _ns(moment: datetime) -> int:
    whole = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole.days * 86_400 + whole.seconds) * 1_000_000_000 + whole.microseconds * 1000

"""The one tool of an agent: compose the invoice's effect, fix its bytes, send it, record it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import FilteringBoundLogger

from bpa.connectors.sdk import OutboundRequest, OutboundResult
from bpa.documents.answers import Answer as Checked
from bpa.documents.answers import check_answer, tool_parameters
from bpa.documents.payloads import payload
from bpa.documents.schema_checks import SchemaCheck
from bpa.documents.values import Document
from bpa.domain import RunSpec, Step, StepKind, Usage
from bpa.errors import InvalidRequest, Reason, RunEnded
from bpa.node.conversation import Tool
from bpa.node.journal import canonical, digest_of
from bpa.node.outlets import Outlets, Recorder, Timings, answered, now_ms, span

POST_INVOICE = "post_invoice"

_DESCRIPTION = (
    "Post the invoice to its route. Call it once, when you know the vendor and the route."
)
_PROPAGATOR = TraceContextTextMapPropagator()
_JSON = msgspec.json.Encoder()


class Posting:
    """One run's effect; see `bpa.node.broker.Broker` for the arguments."""

    def __init__(
        self,
        outlets: Outlets,
        run: RunSpec,
        recorder: Recorder,
        *,
        document: Document,
        parent: Context,
        deadline_s: float,
        timings: Timings,
        log: FilteringBoundLogger,
    ) -> None:
        self._outlets = outlets
        self._run = run
        self._recorder = recorder
        self._document = document
        self._parent = parent
        self._deadline_s = deadline_s
        self._timings = timings
        self._log = log
        self.tool = Tool(POST_INVOICE, _DESCRIPTION, tool_parameters(document, run.routes))
        self.result = _recorded_result(recorder.journal.effect)
        """What the effect came to, once it was applied."""
        if self.result is not None:
            recorder.journal.reached_effect()
        self.is_sending = False
        """Whether the target has the effect in hand: only its answer says what came of it."""
        self.answered: Step | None = None
        """The effect's step with its answer, if it was applied now: to be recorded."""

    async def use(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Post the invoice as the agent judged it, once per run however often it is asked for.

        Raises:
            RunEnded: The run ends here, for the reason given.
            StaleLease: The lease is no longer ours.
        """
        name, arguments = request.get("name"), request.get("arguments")
        if name != POST_INVOICE:
            raise RunEnded(Reason.POLICY_DENIED, "the agent called a tool that it was not given")
        checked = check_answer(arguments, self._document, self._run.routes)
        if self._document.fields is None and self._run.input_schema is not None:
            _demand(msgspec.json.encode(self._run.input_schema)).check_fields(checked.fields)
        digest = digest_of(StepKind.EFFECT, canonical(arguments))
        with span(
            self._outlets.tracer,
            f"execute_tool {POST_INVOICE}",
            self._parent,
            attributes={
                "bpa.run.id": self._run.run_id,
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": POST_INVOICE,
                "gen_ai.tool.type": "function",
            },
        ) as tool:
            effect = await self._intend(checked, digest)
            tool.set_attribute("bpa.step.seq", effect.seq)
            if effect.answer is not None:
                self._outlets.measures.step_replayed(StepKind.EFFECT)
                tool.set_attribute("bpa.step.replayed", value=True)
                self.result = msgspec.json.decode(effect.answer)
            else:
                self.result = await self._apply(effect, checked, set_span_in_context(tool))
        return {"status": "posted"}

    async def _intend(self, checked: Checked, digest: str) -> Step:
        """Return the run's one effect, whose bytes the first recorded intent has fixed (I4)."""
        effect = self._recorder.journal.effect
        if effect is None:
            effect = Step(
                seq=self._recorder.journal.next_seq,
                kind=StepKind.EFFECT,
                digest=digest,
                intent=payload(
                    self._run.run_id,
                    checked.fields,
                    vendor=checked.vendor,
                    route=checked.route,
                    confidence=checked.confidence,
                ),
                effect_key=self._run.effect_key,
                started_at_ms=now_ms(),
            )
            await self._recorder.intend(effect)
        elif effect.digest != digest:
            raise RunEnded(
                Reason.POLICY_DENIED,
                f"the run has one effect, and the agent called {POST_INVOICE} with other arguments",
            )
        self._recorder.journal.reached_effect()
        return effect

    async def _apply(self, effect: Step, checked: Checked, context: Context) -> dict[str, Any]:
        """Send the effect; what it came to is recorded with the run's outcome."""
        sent = await self._send(effect, context)
        result = {
            "status": sent.status,
            "tries": sent.tries,
            "vendor": checked.vendor,
            "route": checked.route,
            "confidence": checked.confidence,
            "invoice_id": checked.fields.invoice_id,
            "total": checked.fields.total,
            "currency": checked.fields.currency,
        }
        self._log.info("effect_applied", seq=effect.seq, status=sent.status, tries=sent.tries)
        self.answered = answered(effect, _JSON.encode(result), Usage())
        self._recorder.journal.record(self.answered)
        return result

    async def _send(self, effect: Step, context: Context) -> OutboundResult:
        started_s = time.monotonic()
        url = self._run.http_out.base_url or self._outlets.target_url
        with span(
            self._outlets.tracer,
            "http.out",
            context,
            SpanKind.CLIENT,
            {
                "bpa.run.id": self._run.run_id,
                "http.request.method": "POST",
                "server.address": urlsplit(url).hostname or "",
            },
        ) as out:
            carrier: dict[str, str] = {}
            _PROPAGATOR.inject(carrier, set_span_in_context(out))
            request = OutboundRequest(
                url=url,
                body=effect.intent,
                idempotency_key=effect.effect_key,
                deadline_s=self._deadline_s,
                timeout_s=self._run.http_out.timeout_s,
                traceparent=carrier.get("traceparent"),
                tracestate=carrier.get("tracestate"),
                before_try=self._recorder.must_hold,
            )
            self.is_sending = True
            try:
                sent = await self._outlets.sink.send(request)
            except InvalidRequest as error:
                raise RunEnded(
                    Reason.AGENT_ERROR, f"the deployment's target cannot be posted to: {error}"
                ) from error
            finally:
                self.is_sending = False
                self._timings.add("http_out", started_s)
            out.set_attribute("http.response.status_code", sent.status)
            out.set_attribute("http.request.resend_count", sent.tries - 1)
            return sent


@lru_cache(maxsize=64)
def _demand(schema: bytes) -> SchemaCheck:
    """Return the compiled schema of a deployment; it is the same for all its runs."""
    return SchemaCheck(msgspec.json.decode(schema))


def _recorded_result(effect: Step | None) -> dict[str, Any] | None:
    if effect is None or effect.answer is None:
        return None
    result: dict[str, Any] = msgspec.json.decode(effect.answer)
    return result

"""The one tool of an agent: compose the invoice's effect, fix its bytes, send it, record it.

A run has one effect, unless its deployment allows more. What is asked for again with equal
arguments is the same effect and has the recorded answer; one effect more than allowed is refused.
The run ends when all that it may have are applied, or when its agent finishes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from structlog.typing import FilteringBoundLogger

from bpa.connectors.breaker import host_of
from bpa.connectors.sdk import OutboundRequest, OutboundResult, OutboundTry
from bpa.documents.answers import POST_INVOICE, check_answer, tool_of
from bpa.documents.answers import Answer as Checked
from bpa.documents.payloads import payload
from bpa.documents.schema_checks import SchemaCheck
from bpa.documents.values import Document
from bpa.domain.executions import LeaseOffer, TargetSeen
from bpa.domain.journal import (
    EffectCall,
    Step,
    StepKind,
    Usage,
    canonical,
    digest_of,
    target_digest_of,
)
from bpa.domain.runs import further_key_of
from bpa.errors import BpaError, InvalidRequest, Reason, RunEnded
from bpa.node.outlets import Outlets, Recorder, Timings, answered, now_ms
from bpa.telemetry.spans import SpanContext, span_id

_JSON = msgspec.json.Encoder()


class Posting:
    """One run's effects; see `bpa.node.broker.Broker` for the arguments."""

    def __init__(
        self,
        outlets: Outlets,
        offer: LeaseOffer,
        recorder: Recorder,
        *,
        document: Document,
        deadline_s: float,
        timings: Timings,
        log: FilteringBoundLogger,
    ) -> None:
        self._outlets = outlets
        self._offer = offer
        self._run = run = offer.run
        self._recorder = recorder
        self._document = document
        self._deadline_s = deadline_s
        self._timings = timings
        self._log = log
        self._url = run.http_out.base_url or outlets.target_url
        host = host_of(self._url)
        self._call = EffectCall(
            host=host,
            target_digest=target_digest_of(host, self._url),
            method="POST",
            of_settings=not run.http_out.base_url,
        )
        self._gate = outlets.breakers.gate(run, self._url)
        self.tool = tool_of(document, run.routes, run.max_effects)
        applied = [effect for effect in recorder.journal.effects if effect.answer]
        self._results = [_result_of(effect) for effect in applied]
        if self.is_done:  # no execution has to come to them any more
            for effect in applied:
                recorder.journal.effect(effect.digest)
        self.is_sending = False
        """Whether the target has an effect in hand: only its answer says what came of it."""
        self._in_doubt = False
        """Whether the effect at hand may be applied, though nobody has heard so."""
        self.heard: EffectCall | None = None
        """What the target last answered to an effect that it has not taken."""
        self.answered: Step | None = None
        """The last effect's step with its answer, if it was applied now: to be recorded."""

    @property
    def is_done(self) -> bool:
        """Whether every effect that the run may have is applied: nothing is left to be done."""
        return len(self._results) >= max(self._run.max_effects, len(self._recorder.journal.effects))

    @property
    def result(self) -> dict[str, Any] | None:
        """What the effects came to: the first, with those after it as ``further``; None yet."""
        if not self._results:
            return None
        first, *further = self._results
        return {**first, "further": further} if further else first

    @property
    def seen(self) -> TargetSeen | None:
        """What control wants to hear of a target that has answered."""
        return self._gate.answered()

    def must_admit(self) -> None:
        """Check that the effect could be sent, right now.

        Raises:
            Parked: The breaker of its host is open.
        """
        self._gate.pass_through()

    async def use(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Post the invoice as the agent judged it, once however often it is asked for.

        Raises:
            RunEnded: The run ends here, for the reason given.
            Parked: The execution ends here: the target fails for everybody.
            StaleLease: The lease is no longer ours.
        """
        name, arguments = request.get("name"), request.get("arguments")
        if name != POST_INVOICE:
            raise RunEnded(Reason.POLICY_DENIED, "the agent called a tool that it was not given")
        checked = check_answer(arguments, self._document, self._run.routes)
        if self._document.fields is None and self._run.input_schema is not None:
            _demand(msgspec.json.encode(self._run.input_schema)).check_fields(checked.fields)
        digest = digest_of(StepKind.EFFECT, canonical(arguments))
        effect = self._recorder.journal.effect(digest)
        effect = effect or await self._intend(checked, digest)
        if effect.answer is not None:
            self._outlets.measures.step_replayed(StepKind.EFFECT)
        else:
            await self._apply(effect, checked)
        return {"status": "posted"}

    async def _intend(self, checked: Checked, digest: str) -> Step:
        """Fix the bytes and the key of another effect by its first recorded intent (I4)."""
        journal = self._recorder.journal
        allowed = self._run.max_effects
        if len(journal.effects) >= allowed:
            raise RunEnded(
                Reason.POLICY_DENIED,
                f"the run may have {allowed} effect(s) (maxEffects), and the agent called "
                f"{POST_INVOICE} with other arguments",
            )
        effect = Step(
            seq=journal.next_seq,
            kind=StepKind.EFFECT,
            digest=digest,
            intent=payload(
                self._run.run_id,
                checked.fields,
                vendor=checked.vendor,
                route=checked.route,
                confidence=checked.confidence,
            ),
            effect_key=further_key_of(self._run.effect_key, len(journal.effects) + 1),
            call=self._call,
            started_at_ms=now_ms(),
        )
        await self._recorder.intend(effect)
        return effect

    async def _apply(self, effect: Step, checked: Checked) -> None:
        """Send the effect and record its answer; the run's last one goes with the outcome."""
        sent = await self._send_on(effect)
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
        self.heard = None
        self._log.info("effect_applied", seq=effect.seq, status=sent.status, tries=sent.tries)
        self._results.append(result)
        call = msgspec.structs.replace(self._call, status=sent.status, tries=sent.tries)
        heard = msgspec.structs.replace(effect, call=call)
        recorded = answered(heard, _JSON.encode(result), Usage())
        if self.is_done:
            self.answered = recorded
            self._recorder.journal.record(recorded)
        else:
            await self._recorder.settle(recorded)

    async def _send_on(self, effect: Step) -> OutboundResult:
        """Send an effect, unless it may have been applied where its key says nothing now.

        An intent that has ended without an answer is known not to be applied: it may go anywhere.
        One that has not may be, by an execution that died over it or heard nothing definite; then
        it goes to nobody but a target that honours its key, and that is the one it was sent to.
        """
        self._in_doubt = False
        if self._recorder.journal.is_inherited(effect):
            if effect.ended_at_ms:
                effect = msgspec.structs.replace(effect, ended_at_ms=0, call=self._call)
                await self._recorder.intend(effect)
            else:
                self._must_know_key(effect)
                self._in_doubt = True
        try:
            return await self._send(effect)
        except BpaError:  # also the end of the lease: what is known may still be recorded
            if not self._in_doubt:
                unapplied = msgspec.structs.replace(effect, ended_at_ms=now_ms())
                await self._recorder.settle(unapplied)
            raise

    def _must_know_key(self, effect: Step) -> None:
        """Check that the target knows the key of an effect that it, or another, may have applied.

        Raises:
            RunEnded: It is declared not to, or the effect was sent to another.
        """
        sent = f"an earlier execution ended while it sent {effect.effect_key}"
        if not self._run.http_out.idempotent:
            raise RunEnded(
                Reason.OUTCOME_UNKNOWN,
                f"{sent}, and the target is declared not idempotent: look there whether the effect "
                "was applied; it is not sent again",
            )
        before = effect.call
        if not isinstance(before, EffectCall):
            return
        if before.of_settings and self._call.of_settings:
            return  # what the settings call the target is theirs to rename
        if not _is_same_target(before, self._call):
            now = self._call.host if self._call.host != before.host else "another path there"
            raise RunEnded(
                Reason.OUTCOME_UNKNOWN,
                f"{sent} to {before.host}, and the deployment posts to {now} now: look "
                "at the former whether the effect was applied; roll the target back to replay it "
                "there under its key, or replay it with an edited body",
            )

    async def _send(self, effect: Step) -> OutboundResult:
        started_s = time.monotonic()
        request = OutboundRequest(
            url=self._url,
            body=effect.intent,
            idempotency_key=effect.effect_key,
            deadline_s=self._deadline_s,
            timeout_s=self._run.http_out.timeout_s,
            idempotent=self._run.http_out.idempotent,
            traceparent=self._traceparent(effect),
            tracestate=self._offer.tracestate or None,
            before_try=self._before_try,
            after_try=self._after_try,
            pause=self._pause,
        )
        self.is_sending = True
        try:
            return await self._outlets.sink.send(request)
        except InvalidRequest as error:
            raise RunEnded(
                Reason.AGENT_ERROR, f"the deployment's target cannot be posted to: {error}"
            ) from error
        except RunEnded as ended:
            raise self._gate.judged(ended) from ended
        finally:
            self.is_sending = False
            self._timings.add("http_out", started_s)

    def _traceparent(self, effect: Step) -> str | None:
        """Return the span that the target's spans hang below, as the run's trace will have it."""
        received = SpanContext.parse(self._offer.traceparent)
        own = span_id(self._run.run_id, "http.out", self._offer.epoch, effect.seq)
        return str(received.child(own)) if received else None

    async def _pause(self, seconds: float) -> None:
        await self._recorder.while_held(self._gate.pause(seconds))

    def _after_try(self, tried: OutboundTry) -> None:
        self._in_doubt = self._in_doubt or tried.in_doubt
        self.heard = msgspec.structs.replace(
            self._call, status=tried.status or 0, tries=tried.number
        )
        self._gate.note(tried)

    def _before_try(self) -> None:
        self._recorder.must_hold()
        self._gate.pass_through()


@lru_cache(maxsize=64)
def _demand(schema: bytes) -> SchemaCheck:
    """Return the compiled schema of a deployment; it is the same for all its runs."""
    return SchemaCheck(msgspec.json.decode(schema))


def _is_same_target(before: EffectCall, now: EffectCall) -> bool:
    if before.target_digest:
        return before.target_digest == now.target_digest
    return before.host in ("", now.host)


def _result_of(effect: Step) -> dict[str, Any]:
    result: dict[str, Any] = msgspec.json.decode(effect.answer or b"{}")
    return result

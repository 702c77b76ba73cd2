"""Model calls of one execution: from the journal, or reserved, asked, priced and recorded.

A step is charged with what its answer used. A try whose answer was lost may have been billed: its
step stays unknown, and charged with its reservation, and the next try is a step of its own, if its
reservation still fits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from structlog.typing import FilteringBoundLogger

from bpa.domain.conversation import ModelRequest, Tool, compose
from bpa.domain.executions import BudgetKind, RunSpec
from bpa.domain.journal import (
    SAID_CHARS_MAX,
    ModelCall,
    Step,
    StepKind,
    Usage,
    canonical,
    digest_of,
)
from bpa.errors import Reason, RunEnded
from bpa.node.budget import (
    Consumed,
    OverBudget,
    Reservation,
    consumed,
    counted_bound,
    excess,
)
from bpa.node.budget import input_bound as bound_of_bytes
from bpa.node.model_calls import ModelRefused
from bpa.node.outlets import Outlets, Recorder, Timings, answered, now_ms
from bpa.node.pricing import plain
from bpa.node.providers import ModelCallFailed

_JSON = msgspec.json.Encoder()
_CUT_OFF = {"type": "chat_response", "messages": [], "finish_reason": "length"}


@dataclass(frozen=True, slots=True)
class _Question:
    """A request with what the journal and the budget know it by."""

    request: ModelRequest
    digest: str
    size: int
    """Bytes of the request as canonical JSON."""


class Thinking:
    """What one run asks models; see `bpa.node.broker.Broker` for the arguments."""

    def __init__(
        self,
        outlets: Outlets,
        run: RunSpec,
        recorder: Recorder,
        *,
        tools: tuple[Tool, ...],
        timings: Timings,
        log: FilteringBoundLogger,
    ) -> None:
        self._outlets = outlets
        self._run = run
        self._recorder = recorder
        self._tools = tools
        self._timings = timings
        self._log = log
        self._counted: dict[str, int] = {}

    async def think(self, wish: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model's answer, recorded before it is returned.

        Raises:
            RunEnded: The run ends here, for the reason given.
            StaleLease: The lease is no longer ours.
        """
        request = compose(wish, self._run.agent, self._tools)
        encoded = canonical(request)
        digest = digest_of(StepKind.MODEL, encoded)
        recorded = self._recorder.journal.replay(digest)
        if recorded is not None and recorded.answer:
            self._outlets.measures.step_replayed(StepKind.MODEL)
            self._log.info("model_answer_replayed", seq=recorded.seq)
            return _usable(msgspec.json.decode(recorded.answer), request)
        question = _Question(request, digest, len(encoded))
        intent = await self._intend(question)
        return _usable(await self._ask(question, intent), request)

    async def _intend(self, question: _Question) -> Step:
        """Reserve what a call can use and record that it will be made."""
        reservation = await self._reserve(question)
        intent = Step(
            seq=self._recorder.journal.next_seq,
            kind=StepKind.MODEL,
            digest=question.digest,
            reserved_tokens=reservation.tokens,
            call=ModelCall(
                provider=self._run.agent.model_profile.provider,
                model=question.request.model,
                max_tokens=question.request.max_tokens,
                reserved_usd=None if reservation.cost_usd is None else plain(reservation.cost_usd),
            ),
            started_at_ms=now_ms(),
        )
        await self._recorder.intend(intent)
        agent = self._run.agent
        self._outlets.measures.model_asked(agent.agent_id, agent.model_profile.model)
        return intent

    async def _ask(self, question: _Question, first: Step) -> dict[str, Any]:
        """Call the provider and record what it answered, or that it refused."""
        request, started_s = question.request, time.monotonic()
        intent, tries = first, 0

        def count_try() -> None:
            nonlocal tries
            tries += 1

        async def intend_again() -> None:
            nonlocal intent, tries
            intent, tries = await self._intend(question), 0

        try:
            answer = await self._outlets.models.answer(
                self._run.agent.model_profile.provider,
                request,
                after_lost=intend_again,
                before_try=count_try,
            )
        except ModelRefused as refused:
            if refused.is_unused:
                refusal = _heard(intent, tries=tries)
                await self._recorder.settle(answered(refusal, b"", Usage()))
            raise
        except ModelCallFailed as failure:
            usage = self._outlets.prices.priced(failure.usage or Usage(), request.model)
            cut_off = _heard(intent, tries=tries, finish_reasons=["length"])
            await self._settle(cut_off, _CUT_OFF, usage)
            raise RunEnded(Reason.AGENT_ERROR, failure.detail) from failure
        finally:
            self._timings.add("model", started_s)
        usage = self._outlets.prices.priced(answer.usage, answer.model, request.model)
        heard = _heard(
            intent,
            tries=tries,
            response_id=answer.response_id[:SAID_CHARS_MAX],
            response_model=answer.model[:SAID_CHARS_MAX],
            finish_reasons=[answer.stop[:SAID_CHARS_MAX]] if answer.stop else [],
        )
        await self._settle(heard, answer.value, usage)
        return answer.value

    async def _settle(self, intent: Step, value: object, usage: Usage) -> None:
        agent = self._run.agent
        self._outlets.measures.model_answered(agent.agent_id, agent.model_profile.model, usage)
        self._log.info(
            "model_answered",
            seq=intent.seq,
            input_tokens=usage.total_tokens - usage.output_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=usage.cost_usd,
        )
        await self._recorder.settle(answered(intent, _JSON.encode(value), usage))

    async def _reserve(self, question: _Question) -> Reservation:
        """Return the most that the call can use, if that is left; nothing is asked otherwise."""
        budgets, request, digest = self._run.budgets, question.request, question.digest
        wanted = self._at_most(request, bound_of_bytes(question.size))
        over = excess(budgets, self._consumed(), wanted)
        if over is not None and over.kind is not BudgetKind.CALLS:
            counted = await self._outlets.models.count_tokens(
                self._run.agent.model_profile.provider, request
            )
            self._counted[digest] = counted_bound(counted)
            wanted = self._at_most(request, self._counted[digest])
            over = excess(budgets, self._consumed(), wanted)
        if over is not None:
            self._outlets.measures.budget_exceeded(over.kind)
            raise OverBudget(over)
        return wanted

    def _at_most(self, request: ModelRequest, input_tokens: int) -> Reservation:
        cost = self._outlets.prices.cost_at_most(request.model, input_tokens, request.max_tokens)
        return Reservation(input_tokens, request.max_tokens, cost)

    def _consumed(self) -> Consumed:
        profile = self._run.agent.model_profile
        return consumed(
            self._recorder.journal.steps,
            input_bounds=self._counted,
            max_output_tokens=profile.max_output_tokens,
            lost_token_usd=self._outlets.prices.dearest_token_usd(profile.model),
        )


def _heard(intent: Step, **of_answer: Any) -> Step:
    """Return the step with what was heard of its call."""
    assert isinstance(intent.call, ModelCall)
    return msgspec.structs.replace(intent, call=msgspec.structs.replace(intent.call, **of_answer))


def _usable(value: dict[str, Any], request: ModelRequest) -> dict[str, Any]:
    """Return a model's answer that an agent can go on with.

    Raises:
        RunEnded: The model refused, or its answer was cut off; asking again changes nothing.
    """
    stop = value.get("finish_reason")
    if stop == "content_filter":
        raise RunEnded(Reason.AGENT_ERROR, "the model refused to answer (stop reason refusal)")
    if stop == "length":
        raise RunEnded(
            Reason.AGENT_ERROR,
            f"the model's answer was cut off at its limit of {request.max_tokens} tokens; raise "
            "modelProfile.maxOutputTokens",
        )
    return value

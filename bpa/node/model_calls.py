"""Model calls with retries: one try and three more, then the run ends.

429, 5xx (529 is "overloaded") and transport errors are tried again with full jitter, honouring the
provider's retry-after; an account at its spending limit is not, since waiting does not help. A try
whose answer was lost on its way may have been billed: whoever asks is told before the next one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from bpa.domain.conversation import ModelRequest
from bpa.errors import Reason, RunEnded
from bpa.node.providers import ModelAnswer, ModelCallFailed, ModelProvider
from bpa.retry import RetryPolicy, pause_s

T = TypeVar("T")


class ModelRefused(RunEnded):
    """The call has no answer, and none will come.

    Args:
        reason: As of `RunEnded`.
        detail: As of `RunEnded`.
        is_unused: Every try since the last lost one was answered with an error, so that nothing
            was used.
    """

    def __init__(self, reason: Reason, detail: str, *, is_unused: bool) -> None:
        super().__init__(reason, detail)
        self.is_unused = is_unused


def _let_it() -> None:
    """Count no try."""


class ModelCalls:
    """The providers of models by name, with the platform's retries.

    Args:
        providers: By the name that a model profile gives.
        policy: Tries and pauses.
        sleep: Waits between tries.
        draw: Draws the jitter from [0, 1).
    """

    def __init__(
        self,
        providers: dict[str, ModelProvider],
        *,
        policy: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._providers = providers
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._draw = draw

    async def answer(
        self,
        provider: str,
        request: ModelRequest,
        *,
        after_lost: Callable[[], Awaitable[None]],
        before_try: Callable[[], None] = _let_it,
    ) -> ModelAnswer:
        """Return the model's answer.

        Args:
            provider: As a model profile names it.
            request: What to ask.
            after_lost: Awaited between a try whose answer was lost and the next one; what it
                raises ends the call.
            before_try: Called before each try, after ``after_lost``.

        Raises:
            ModelCallFailed: The answer was cut off; it was paid for.
            ModelRefused: ``RetriesExhausted`` after the last try; ``NonRetryableHttpStatus`` at
                once for another status.
            RunEnded: ``AgentError`` for an unknown provider.
        """
        chosen = self._provider(provider)

        async def ask() -> ModelAnswer:
            before_try()
            return await chosen.answer(request)

        return await self._retried(ask, after_lost)

    async def count_tokens(self, provider: str, request: ModelRequest) -> int:
        """Return the request's input tokens.

        Raises:
            RunEnded: They are not counted, for the reasons that `answer` gives.
        """
        chosen = self._provider(provider)
        try:
            return await self._retried(lambda: chosen.count_tokens(request), _costs_nothing)
        except ModelRefused as refused:  # says nothing of a call that is being paid for
            raise RunEnded(refused.reason, refused.detail) from refused

    def _provider(self, name: str) -> ModelProvider:
        provider = self._providers.get(name)
        if provider is None:
            known = ", ".join(sorted(self._providers)) or "none"
            raise RunEnded(
                Reason.AGENT_ERROR, f"there is no model provider {name!r}; this node has: {known}"
            )
        return provider

    async def _retried(
        self, call: Callable[[], Awaitable[T]], after_lost: Callable[[], Awaitable[None]]
    ) -> T:
        is_lost = False

        async def one_try() -> T:
            nonlocal is_lost
            if is_lost:
                await after_lost()
                is_lost = False
            try:
                return await call()
            except ModelCallFailed as failure:
                is_lost = failure.is_lost
                raise

        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_retryable),
            wait=self._pause_s,
            stop=stop_after_attempt(self._policy.tries),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(one_try)
        except ModelCallFailed as failure:
            if failure.usage is not None:
                raise
            reason, detail = Reason.NON_RETRYABLE_HTTP_STATUS, failure.detail
            if failure.is_retryable:
                reason = Reason.RETRIES_EXHAUSTED
                detail = f"{failure.detail} on the last of {self._policy.tries} tries"
            elif failure.status is None:
                reason = Reason.AGENT_ERROR
            raise ModelRefused(reason, detail, is_unused=not is_lost) from failure

    def _pause_s(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        asked_s = failure.retry_after_s if isinstance(failure, ModelCallFailed) else None
        return pause_s(self._policy, state.attempt_number, self._draw(), asked_s)


async def _costs_nothing() -> None:
    """Let a lost answer be: nobody is billed for a count."""


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, ModelCallFailed) and error.is_retryable

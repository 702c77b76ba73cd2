"""Model calls with retries: one try and three more, then the run ends.

429, 5xx (529 is "overloaded") and transport errors are tried again with full jitter, honouring the
provider's retry-after; an account at its spending limit is not, since waiting does not help.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from bpa.errors import Reason, RunEnded
from bpa.node.conversation import ModelRequest
from bpa.node.providers import ModelAnswer, ModelCallFailed, ModelProvider
from bpa.retry import RetryPolicy, pause_s

T = TypeVar("T")


class ModelRefused(RunEnded):
    """The call has no answer, and none will come.

    Args:
        reason: As of `RunEnded`.
        detail: As of `RunEnded`.
        is_unused: Every try was answered with an error, so that nothing was used.
    """

    def __init__(self, reason: Reason, detail: str, *, is_unused: bool) -> None:
        super().__init__(reason, detail)
        self.is_unused = is_unused


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

    async def answer(self, provider: str, request: ModelRequest) -> ModelAnswer:
        """Return the model's answer.

        Raises:
            ModelCallFailed: The answer was cut off; it was paid for.
            ModelRefused: ``RetriesExhausted`` after the last try; ``NonRetryableHttpStatus`` at
                once for another status.
            RunEnded: ``AgentError`` for an unknown provider.
        """
        chosen = self._provider(provider)
        return await self._retried(lambda: chosen.answer(request))

    async def count_tokens(self, provider: str, request: ModelRequest) -> int:
        """Return the request's input tokens; raises as `answer` does."""
        chosen = self._provider(provider)
        return await self._retried(lambda: chosen.count_tokens(request))

    def _provider(self, name: str) -> ModelProvider:
        provider = self._providers.get(name)
        if provider is None:
            known = ", ".join(sorted(self._providers)) or "none"
            raise RunEnded(
                Reason.AGENT_ERROR, f"there is no model provider {name!r}; this node has: {known}"
            )
        return provider

    async def _retried(self, call: Callable[[], Awaitable[T]]) -> T:
        lost_tries = 0

        async def one_try() -> T:
            nonlocal lost_tries
            try:
                return await call()
            except ModelCallFailed as failure:
                lost_tries += failure.status is None
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
            raise ModelRefused(reason, detail, is_unused=lost_tries == 0) from failure

    def _pause_s(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        asked_s = failure.retry_after_s if isinstance(failure, ModelCallFailed) else None
        return pause_s(self._policy, state.attempt_number, self._draw(), asked_s)


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, ModelCallFailed) and error.is_retryable

"""Model providers: one request in, one answer with its usage out, and no retries.

Each sits behind the agent framework's chat client for it, so that another provider is another
package of the framework's and a class here. What its SDK raises leaves as `ModelCallFailed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import anthropic
import httpx2
from agent_framework import ChatResponse, Content, Message
from agent_framework.exceptions import ChatClientException, ResponseInvalidatedException
from agent_framework_anthropic import AnthropicChatOptions, RawAnthropicClient
from anthropic.types.beta import BetaMessage

from bpa.domain.conversation import ModelRequest
from bpa.domain.journal import Usage
from bpa.retry import parse_retry_after

_SPENT = ("spend", "usage limit", "credit balance", "billing")
"""What a 429 says when waiting does not help: the account's limit, not a rate."""

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model answered."""

    value: dict[str, Any]
    """The framework's ``ChatResponse`` as plain values."""
    usage: Usage
    """Tokens by kind, without a price."""
    model: str
    response_id: str
    stop: str
    """The framework's finish reason: ``stop``, ``tool_calls``, ``length``, ``content_filter``."""


class ModelCallFailed(Exception):
    """A call without a usable answer.

    Args:
        detail: One line without secrets.
        status: The HTTP status; None when no answer came.
        was_sent: Whether the request may have reached the provider.
        is_retryable: Whether the same call may succeed later.
        retry_after_s: What the provider asked to wait.
        usage: What the call used all the same, if the provider said so.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        was_sent: bool = True,
        is_retryable: bool = False,
        retry_after_s: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.is_retryable = is_retryable
        self.retry_after_s = retry_after_s
        self.usage = usage
        self.is_lost = status is None and was_sent
        """Whether the provider may have answered, and billed, what never arrived."""


class ModelProvider(Protocol):
    """One provider of models."""

    @property
    def name(self) -> str:
        """The provider as telemetry calls it."""

    async def answer(self, request: ModelRequest) -> ModelAnswer:
        """Make one call, once.

        Raises:
            ModelCallFailed: There is no usable answer.
        """

    async def count_tokens(self, request: ModelRequest) -> int:
        """Return the input tokens of a request as the provider counts them.

        Raises:
            ModelCallFailed: It did not count them.
        """


class AnthropicProvider:
    """Anthropic's Messages API through the framework's client.

    Args:
        client: The SDK's client: ``anthropic.AsyncAnthropic(api_key=..., base_url=...,
            max_retries=0, timeout=...)``. One for the process; whoever made it closes it.
    """

    name = "anthropic"

    def __init__(self, client: anthropic.AsyncAnthropic) -> None:
        self._client = client
        self._chat = _ChatClient(anthropic_client=client)

    async def answer(self, request: ModelRequest) -> ModelAnswer:
        """Make one call, once."""
        self._must_have_a_key()
        try:
            response = await self._chat.get_response(
                [Message.from_dict(message) for message in request.messages],
                options=_options(request),
            )
        except ChatClientException as error:
            cause = error.__cause__
            if isinstance(cause, anthropic.APIError):
                raise _failure(cause) from error
            raise _unreadable(cause or error) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise _unreadable(error) from error  # the SDK takes any JSON for an answer
        return ModelAnswer(
            value=_plain(response),
            usage=_usage(response.usage_details or {}),
            model=response.model or request.model,
            response_id=response.response_id or "",
            stop=str(response.finish_reason or ""),
        )

    async def count_tokens(self, request: ModelRequest) -> int:
        """Ask the count_tokens endpoint, which costs nothing."""
        self._must_have_a_key()
        try:
            counted = await self._client.messages.count_tokens(**self._chat.prepared(request))
            tokens: object = counted.input_tokens
        except anthropic.APIError as error:
            raise _failure(error) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise _unreadable(error) from error
        if not isinstance(tokens, int):
            raise _unreadable(TypeError())
        return tokens

    def _must_have_a_key(self) -> None:
        """Tell a missing key from an answer: the SDK builds no request and raises TypeError."""
        if not (self._client.api_key or self._client.auth_token):
            raise ModelCallFailed(
                "this node has no key for the model provider: set anthropic.api_key",
                was_sent=False,
            )


_COUNTED = ("model", "messages", "system", "tools", "tool_choice")


class _ChatClient(RawAnthropicClient):
    """The framework's client, without its tool loop and telemetry: both are the broker's."""

    def prepared(self, request: ModelRequest) -> dict[str, Any]:
        """Return the parts of the request that have tokens, in the provider's form."""
        options = self._prepare_options(
            [Message.from_dict(message) for message in request.messages], _options(request)
        )
        return {name: options[name] for name in _COUNTED if name in options}

    def _process_message(
        self, message: BetaMessage, options: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> ChatResponse[Any]:
        try:
            return super()._process_message(message, options, *args, **kwargs)
        except ResponseInvalidatedException as error:
            # A tool call that was cut off. The framework drops the answer, but it was paid for.
            raise ModelCallFailed(
                f"the model's answer was cut off (stop reason {message.stop_reason}, limit "
                f"{options.get('max_tokens')} tokens); raise modelProfile.maxOutputTokens",
                usage=_usage(self._parse_usage_from_anthropic(message.usage) or {}),
            ) from error


def _options(request: ModelRequest) -> AnthropicChatOptions[None]:
    options: AnthropicChatOptions[None] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "instructions": request.instructions,
    }
    if request.tools:
        options["tools"] = [
            {
                "type": "custom",
                "name": tool.name,
                "description": tool.description,
                "input_schema": tool.parameters,
            }
            for tool in request.tools
        ]
        options["tool_choice"] = request.tool_choice
        options["allow_multiple_tool_calls"] = False
    return options


def _plain(response: ChatResponse[Any]) -> dict[str, Any]:
    """Return the response as values that every format can carry."""
    plain = response.to_dict(exclude={"raw_representation", "additional_properties"})
    plain["messages"] = [
        {"type": "message", "role": message.role, "contents": [*map(_content, message.contents)]}
        for message in response.messages
    ]
    return plain


def _content(content: Content) -> dict[str, Any]:
    return content.to_dict(exclude={"raw_representation", "additional_properties"})


def _usage(details: Mapping[str, Any]) -> Usage:
    """Return tokens by kind; Anthropic's ``input_tokens`` leaves cached ones out, as ours does."""
    return Usage(
        input_tokens=int(details.get("input_token_count") or 0),
        output_tokens=int(details.get("output_token_count") or 0),
        cache_read_tokens=int(details.get("cache_read_input_token_count") or 0),
        cache_write_tokens=int(details.get("cache_creation_input_token_count") or 0),
    )


def _unreadable(error: BaseException) -> ModelCallFailed:
    return ModelCallFailed(
        f"the model provider's answer cannot be read: {type(error).__name__}", is_retryable=True
    )


def _failure(error: anthropic.APIError) -> ModelCallFailed:
    if isinstance(error, anthropic.APIConnectionError):
        return ModelCallFailed(
            f"the model provider cannot be reached: {type(error).__name__}",
            was_sent=not isinstance(error.__cause__, _UNSENT),
            is_retryable=True,
        )
    if not isinstance(error, anthropic.APIStatusError):
        return _unreadable(error)
    status = error.status_code
    said = _said(error)
    if status in (401, 403):
        return ModelCallFailed(
            f"the model provider refused the key (HTTP {status}): check anthropic.api_key",
            status=status,
        )
    is_spent = status == 429 and any(word in said.lower() for word in _SPENT)
    return ModelCallFailed(
        f"the model provider answered HTTP {status}: {said}",
        status=status,
        is_retryable=(status == 429 and not is_spent) or status >= 500 or status == 408,
        retry_after_s=parse_retry_after(
            error.response.headers.get("retry-after"), datetime.now(UTC)
        ),
    )


def _said(error: anthropic.APIStatusError) -> str:
    """Return the provider's own message, in one line of bounded length."""
    body = error.body
    inner = body.get("error") if isinstance(body, dict) else None
    said = inner.get("message") if isinstance(inner, dict) else None
    text = said if isinstance(said, str) else error.message
    return "".join(c if c.isprintable() else " " for c in text)[:300]

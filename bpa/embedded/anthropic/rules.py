"""What the stub can be told to do for requests that match. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from bpa.embedded.anthropic.protocol import MessagesRequest


class Behaviour(StrEnum):
    """What a rule makes of a request, beside latency and status."""

    ANSWER = "answer"
    DROP = "drop"
    DROP_MID_STREAM = "drop_mid_stream"
    MALFORMED = "malformed"
    REFUSE = "refuse"
    WRONG_ARGUMENTS = "wrong_arguments"
    TEXT = "text"
    ANOTHER_CALL = "another_call"
    """Call the tool, after a tool's result as well, with the next route of its list."""


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests a rule is about; all that is given must fit."""

    contains: str | None = None
    """This stands in the users' text of the request."""
    model: str | None = None
    """The requested model's name."""
    after_tool_result: bool | None = None
    """Only requests whose last message brings a tool's result, or only those without."""

    def fits(self, request: MessagesRequest) -> bool:
        """Say whether a request is meant."""
        if self.model is not None and self.model != request.model:
            return False
        wanted = self.after_tool_result
        if wanted is not None and wanted != request.answers_a_tool_result:
            return False
        return self.contains is None or self.contains in request.user_text


class StubRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule of the stub's script."""

    match: Match = Match()
    every: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Apply to each n-th request that matches."""
    times: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Apply so often, then no more; null is for ever."""
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=600_000)] = 0
    """Wait so long before answering, in ms, on top of the stub's own latency."""
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    """Answer with this status instead."""
    error: str | None = None
    """The error's type; by default the one that belongs to the status."""
    message: str = "told to fail by the script"
    """The error's message."""
    retry_after_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Send ``retry-after`` with these seconds."""
    cache_read_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Say that so many of the input tokens were read from a cache."""
    cache_write_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Say that so many more were written to one."""
    behave: Behaviour = Behaviour.ANSWER
    """What to do where no status is given."""

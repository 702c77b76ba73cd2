"""What a run has done so far: steps, the calls they record, and their price."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

_CANONICAL = msgspec.json.Encoder(order="deterministic", decimal_format="string")


class StepKind(StrEnum):
    """What a step of the journal records."""

    MODEL = "model"
    EFFECT = "effect"


Amount = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+([.][0-9]+)?$", max_length=60)]
"""USD, exactly: a decimal string, for a float would round it."""


class UnitPrice(msgspec.Struct, frozen=True, kw_only=True):
    """USD per million tokens of each kind, and whose price that is."""

    input: Amount
    output: Amount
    cache_read: Amount
    cache_write: Amount
    source: str
    version: str


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one model call by kind, and what they cost."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: Amount = "0"
    """What no price is known for is not in it."""
    unpriced_tokens: int = 0
    price: UnitPrice | None = None
    """What ``cost_usd`` was computed from; None where no price is known."""

    @property
    def total_tokens(self) -> int:
        """Tokens that count against the budget."""
        return (
            self.input_tokens
            + self.output_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
        )


HOST_CHARS_MAX = 300
"""Longer than any name of a host, with scheme and port."""
Host = Annotated[str, msgspec.Meta(max_length=HOST_CHARS_MAX)]
SAID_CHARS_MAX = 200
"""Of each thing that others say of a call: a model's name, an answer's id."""
Said = Annotated[str, msgspec.Meta(max_length=SAID_CHARS_MAX)]


class ModelCall(msgspec.Struct, frozen=True, kw_only=True, tag="model", omit_defaults=True):
    """What a step says of its model call; the answer adds what follows ``reserved_usd``."""

    provider: str
    model: str
    """The model that was asked for."""
    max_tokens: int
    reserved_usd: Amount | None = None
    """The most that the call can cost; None where its model has no price."""
    tries: int = 0
    """Requests up to the answer, a refusal included. One whose answer was lost ends its step."""
    response_id: Said = ""
    response_model: Said = ""
    finish_reasons: list[Said] = []


class EffectCall(msgspec.Struct, frozen=True, kw_only=True, tag="effect", omit_defaults=True):
    """What a step says of its request to the target; the answer adds ``status`` and ``tries``."""

    host: Host
    """Scheme, host and port; empty where the deployment's address has none."""
    target_digest: Said = ""
    """Of the address without its query, by which targets behind one host are told apart; empty in
    what nodes of an earlier release recorded."""
    method: str
    of_settings: bool = False
    """Whether the address is that of the node's settings, which may call the same target anew."""
    status: int = 0
    tries: int = 0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a run in its journal: an intent, then its answer."""

    seq: int
    """Position in the journal, from 0."""
    kind: StepKind
    digest: str
    """SHA-256 of the request without ids and times that the framework invents, hex."""
    intent: bytes = b""
    """An effect's exact bytes, fixed by the first recorded intent (I4)."""
    effect_key: str = ""
    reserved_tokens: int = 0
    call: ModelCall | EffectCall | None = None
    """Whom it asked for what, and what came back, without secrets and contents; None in what nodes
    of an earlier release report."""
    answer: bytes | None = None
    """The recorded answer; None while it is not known."""
    usage: Usage = Usage()
    inherited: bool = False
    """Whether the run took it over from the one that it replays, which paid for it."""
    started_at_ms: int = 0
    ended_at_ms: int = 0
    """When the answer came. An effect that has ended without one is known not to be applied."""


def canonical(request: Any) -> bytes:
    """Return a request as JSON with sorted keys, equal for equal requests."""
    return _CANONICAL.encode(request)


def target_digest_of(host: str, url: str) -> str:
    """Return what tells one target from another: 16 hex digits of SHA-256, nothing of a secret.

    The query is none of it: it may hold a key, which may be another one tomorrow.
    """
    return hashlib.sha256(f"{host}{urlsplit(url).path}".encode()).hexdigest()[:16]


def digest_of(kind: StepKind, encoded: bytes) -> str:
    """Return the SHA-256, in hex, by which a request is recognised; see `canonical`."""
    return hashlib.sha256(kind.value.encode() + b"\n" + encoded).hexdigest()

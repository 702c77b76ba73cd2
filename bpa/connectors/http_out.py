"""http.out: post one effect over HTTP under an idempotency key, with retries.

One try and three retries by default, on 5xx, 429 and transport errors, with full jitter and the
target's Retry-After. Every try sends the same bytes and the same key, so a target that honours keys
applies the effect once. Everything else that is not a 2xx ends the run at once; redirects are not
followed, since they would carry the body elsewhere.

409 says that the target still works on an earlier request under the key: that of an execution whose
node was killed, or a try that took longer than its timeout. Nothing has failed, so it costs no try:
the same is asked again for `IN_FLIGHT_TIMEOUTS` times the timeout of a request. A target that says
so even then has lost that request, or takes longer than its deployment allows: whether the effect
was applied is not known, and the run ends as ``OutcomeUnknown``.

A request that is not idempotent is sent again only where it is known that the last one was not
applied: its body was never begun (no connection), or the answer was 429 or 503, by which a server
says that it does not take the request (RFC 6585 section 4, RFC 9110 section 15.6.4). Any other 5xx
and a lost answer end the run as ``OutcomeUnknown``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from bpa.connectors.breaker import STILL_IN_FLIGHT
from bpa.connectors.sdk import OutboundRequest, OutboundResult, OutboundTry
from bpa.errors import InvalidRequest, Reason, RunEnded
from bpa.retry import (
    STATUSES_WITH_RETRY_AFTER,
    RetryPolicy,
    is_retryable_status,
    parse_retry_after,
    pause_s,
)

EXCERPT_BYTES = 1024
"""How much of an answer is kept for people."""
IN_FLIGHT_TIMEOUTS = 3
"""How many timeouts of a request an earlier one under the same key is waited for. One should do: it
is what the deployment grants the target for an answer, counted from later than the request went."""
_NOT_TAKEN = frozenset({429, 503})
"""Statuses by which a server says that it did not take the request."""
DISCARD_BYTES = 64 * 1024
"""How much of an answer is read to keep the connection; beyond it the connection is closed."""


class _TryFailed(Exception):
    """A try that another try may mend."""

    def __init__(self, cause: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(cause)
        self.retry_after_s = retry_after_s


class _StillInFlight(Exception):
    """The target works on an earlier request under the same key."""

    def __init__(self, *, retry_after_s: float | None) -> None:
        super().__init__(f"HTTP {STILL_IN_FLIGHT}")
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class _Patience:
    """How long an effect has waited for its earlier request."""

    since_s: float | None = None
    """When the target first said that it works on it."""
    answers: int = 0


class _Body(aiohttp.BytesPayload):
    """A body that knows whether a connection has begun to take it, and asks for leave before.

    Args:
        body: The bytes.
        ask: Raises what forbids sending them. Connecting takes time, and a lease may end in it.
    """

    is_begun = False
    forbidden: Exception | None = None

    def __init__(self, body: bytes, ask: Callable[[], None] | None) -> None:
        super().__init__(body)
        self._ask = ask

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Write the bytes; the headers, which wait until now, go with them."""
        try:
            if self._ask is not None:
                self._ask()
        except Exception as forbidden:
            self.forbidden = forbidden  # the client wraps what it meets here
            raise
        self.is_begun = True
        await super().write_with_length(writer, content_length)


def _ignore(_: OutboundTry) -> None:
    """Observe nothing."""


class HttpOut:
    """A ``Sink`` over HTTP.

    Args:
        session: The shared client session. Give it a ``DummyCookieJar``: cookies of one run's
            target must not travel with another's.
        policy: Tries and pauses.
        timeout_s: The limit of one try, from connecting to the end of the answer.
        on_try: Called once after every try.
        sleep: Waits between tries.
        draw: Draws the jitter from [0, 1).
        clock: Monotonic seconds, as those of deadlines.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        policy: RetryPolicy | None = None,
        timeout_s: float = 10.0,
        on_try: Callable[[OutboundTry], None] = _ignore,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._policy = policy or RetryPolicy()
        self._timeout_s = timeout_s
        self._on_try = on_try
        self._sleep = sleep
        self._draw = draw
        self._clock = clock

    async def send(self, request: OutboundRequest) -> OutboundResult:
        """Post the effect until it is answered with a 2xx.

        Raises:
            RunEnded: ``RETRIES_EXHAUSTED`` after the last try, ``NON_RETRYABLE_HTTP_STATUS`` at
                once for any other answer, ``DEADLINE_EXCEEDED`` when the next try would start
                after the request's deadline, ``OUTCOME_UNKNOWN`` when a request that is not
                idempotent may have been applied, and when the target does not come to an end with
                an earlier one.
            InvalidRequest: The address or a header cannot be sent at all.
        """
        headers = _headers(request)
        started_s = time.monotonic()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TryFailed),
            wait=self._pause_s,
            stop=lambda state: self._gives_up(state, request.deadline_s),
            sleep=request.pause or self._sleep,
            reraise=True,
        )
        tries, patience = 0, _Patience()
        try:
            async for attempt in retrying:
                with attempt:
                    tries = attempt.retry_state.attempt_number
                    status, excerpt = await self._outlast(request, headers, tries, patience)
        except _TryFailed as failure:
            if tries >= self._policy.tries:
                raise RunEnded(
                    Reason.RETRIES_EXHAUSTED, f"{failure} on the last of {tries} tries"
                ) from failure
            raise RunEnded(
                Reason.DEADLINE_EXCEEDED, f"no time for another try after {tries}: {failure}"
            ) from failure
        return OutboundResult(
            status=status, tries=tries, elapsed_ms=_ms_since(started_s), excerpt=excerpt
        )

    async def _outlast(
        self, request: OutboundRequest, headers: dict[str, str], number: int, patience: _Patience
    ) -> tuple[int, str]:
        """Make one try, again for as long as the target works on an earlier request."""
        while True:
            try:
                return await self._try(request, headers, number)
            except _StillInFlight as answer:
                pause_s = self._patient_s(request, answer, patience)
            await (request.pause or self._sleep)(pause_s)

    def _patient_s(
        self, request: OutboundRequest, answer: _StillInFlight, patience: _Patience
    ) -> float:
        """Return how long to wait before the target is asked again; it is asked once too often."""
        now_s = self._clock()
        patience.answers += 1
        if patience.since_s is None:
            patience.since_s = now_s
        waited_s = now_s - patience.since_s
        still = "the target still works on an earlier request of this effect"
        look = "look there whether it was applied; a replay asks again under the same key"
        if waited_s >= IN_FLIGHT_TIMEOUTS * (request.timeout_s or self._timeout_s):
            raise RunEnded(
                Reason.OUTCOME_UNKNOWN, f"{still} ({answer} for {waited_s:.0f} s): {look}"
            )
        asked_again_in_s = pause_s(
            self._policy, patience.answers, self._draw(), answer.retry_after_s
        )
        if request.deadline_s is not None and now_s + asked_again_in_s >= request.deadline_s:
            raise RunEnded(
                Reason.DEADLINE_EXCEEDED,
                f"{still} ({answer}), and there is no time to ask again: {look}",
            )
        return asked_again_in_s

    async def _try(
        self, request: OutboundRequest, headers: dict[str, str], number: int
    ) -> tuple[int, str]:
        """Make one try and report it; return the status and the excerpt of a 2xx."""
        if request.before_try is not None:
            request.before_try()
        started_s = time.monotonic()
        own_timeout_s = timeout_s = request.timeout_s or self._timeout_s
        if request.deadline_s is not None:
            timeout_s = min(timeout_s, request.deadline_s - started_s)
        if timeout_s <= 0:
            raise RunEnded(
                Reason.DEADLINE_EXCEEDED, f"the deadline passed before try {number} could start"
            )
        body = _Body(request.body, request.before_try)
        try:
            status, retry_after, excerpt = await self._post(request, headers, body, timeout_s)
        except aiohttp.InvalidURL as error:
            # which may hold a secret, and this becomes a dead letter's text
            raise InvalidRequest("its baseUrl is no address; write https://host/path") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if body.forbidden is not None:
                raise body.forbidden from None
            kind, elapsed_ms = type(error).__name__, _ms_since(started_s)
            cut_short = isinstance(error, TimeoutError) and timeout_s < own_timeout_s
            self._tell(
                request,
                OutboundTry(
                    number=number,
                    status=None,
                    elapsed_ms=elapsed_ms,
                    error=kind,
                    cut_short=cut_short,
                    in_doubt=body.is_begun,
                ),
            )
            if body.is_begun and not request.idempotent:
                raise _outcome_unknown(f"no answer ({kind})", number) from error
            raise _TryFailed(f"no answer ({kind})") from error
        self._tell(
            request,
            OutboundTry(
                number=number,
                status=status,
                elapsed_ms=_ms_since(started_s),
                in_doubt=_leaves_in_doubt(request, status),
            ),
        )
        if not 200 <= status < 300:
            raise _unsuccessful(request, status, retry_after, number)
        return status, excerpt

    def _tell(self, request: OutboundRequest, tried: OutboundTry) -> None:
        self._on_try(tried)
        if request.after_try is not None:
            request.after_try(tried)

    async def _post(
        self, request: OutboundRequest, headers: dict[str, str], body: _Body, timeout_s: float
    ) -> tuple[int, float | None, str]:
        async with self._session.post(
            request.url,
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            retry_after = None
            if response.status in STATUSES_WITH_RETRY_AFTER:
                retry_after = parse_retry_after(
                    response.headers.get("Retry-After"), datetime.now(UTC)
                )
            return response.status, retry_after, await _excerpt(response)

    def _pause_s(self, state: RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        retry_after_s = failure.retry_after_s if isinstance(failure, _TryFailed) else None
        return pause_s(self._policy, state.attempt_number, self._draw(), retry_after_s)

    def _gives_up(self, state: RetryCallState, deadline_s: float | None) -> bool:
        if state.attempt_number >= self._policy.tries:
            return True
        return deadline_s is not None and time.monotonic() + state.upcoming_sleep >= deadline_s


def quoted_key(key: str) -> str:
    """Return an idempotency key as the quoted string that the header carries.

    The header is a structured-field string (RFC 8941, 3.3.3; draft-ietf-httpapi-idempotency-key).

    Raises:
        InvalidRequest: The key is empty or holds anything but printable ASCII.
    """
    if not key or not key.isascii() or not key.isprintable():
        raise InvalidRequest("an idempotency key is one or more printable ASCII characters")
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _outcome_unknown(what: str, number: int) -> RunEnded:
    return RunEnded(
        Reason.OUTCOME_UNKNOWN,
        f"{what} on try {number}, and the target is declared not idempotent: look there whether "
        "the effect was applied; it is not sent again",
    )


def _leaves_in_doubt(request: OutboundRequest, status: int) -> bool:
    """Say whether an answer leaves it open what became of the effect."""
    if status == STILL_IN_FLIGHT:
        return request.idempotent
    return status >= 500 and status not in _NOT_TAKEN


def _unsuccessful(
    request: OutboundRequest, status: int, retry_after_s: float | None, number: int
) -> Exception:
    """Return what an answer that is no 2xx means for the effect."""
    if status == STILL_IN_FLIGHT and request.idempotent:
        return _StillInFlight(retry_after_s=retry_after_s)
    if is_retryable_status(status) and (request.idempotent or status in _NOT_TAKEN):
        return _TryFailed(f"HTTP {status}", retry_after_s=retry_after_s)
    if status >= 500:
        return _outcome_unknown(f"HTTP {status}", number)
    return RunEnded(
        Reason.NON_RETRYABLE_HTTP_STATUS, f"the target answered HTTP {status} on try {number}"
    )


def _headers(request: OutboundRequest) -> dict[str, str]:
    headers = dict(request.headers)
    headers["Content-Type"] = request.content_type
    headers["Idempotency-Key"] = quoted_key(request.idempotency_key)
    headers["Accept-Encoding"] = "identity"  # no decompression of what is only excerpted
    if request.traceparent is not None:
        headers["traceparent"] = request.traceparent
        if request.tracestate is not None:
            headers["tracestate"] = request.tracestate
    if any(not value.isprintable() for pair in headers.items() for value in pair):
        raise InvalidRequest("a header holds a control character")
    return headers


async def _excerpt(response: aiohttp.ClientResponse) -> str:
    """Return the start of the body and read a bounded rest; the status alone decides."""
    kept = b""
    seen = 0
    try:
        async for chunk in response.content.iter_chunked(16 * 1024):
            kept += chunk[: EXCERPT_BYTES - len(kept)]
            seen += len(chunk)
            if seen > DISCARD_BYTES:
                response.close()
                break
    except (aiohttp.ClientError, TimeoutError, OSError):
        # The status has arrived, and with it the outcome; a body cut short does not change it.
        response.close()
    text = kept.decode("utf-8", errors="replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _ms_since(started_s: float) -> float:
    return (time.monotonic() - started_s) * 1000.0

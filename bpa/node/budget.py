"""What a run may still use: pure arithmetic over its recorded and reserved calls (I8).

A reservation commits before the call it is for, at an upper bound, and is settled by the usage
that the provider reports; a call that the provider refused is settled with an empty answer and no
usage. What was reserved and never settled (the node died or the connection broke while the call was
out) stays charged: somebody may have been billed for it. Such a call is *unknown*, each lost try of
one execution as well. A run's cost is what its answers report, with no unknown call in it. The
provider's own ledger lies between that and the same with the reservations of the unknown calls.

Bound on the tokens of a call
    input <= bytes of the request as JSON in UTF-8 + `PROMPT_OVERHEAD_TOKENS`, output <= its
    ``max_tokens``. No token of a byte-level vocabulary is shorter than a byte, and the JSON's own
    syntax outweighs the marks that the provider puts around messages. The overhead covers the
    prompt that a provider adds when tools are offered (Anthropic documents 346 tokens and fewer:
    "Tool use system prompt token count").
Exact count
    When the bound does not fit what is left, the provider's own count is asked for. It is an
    estimate by its documentation ("may differ by a small amount"), hence `counted_bound` adds
    `COUNT_MARGIN_TOKENS` and one percent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from bpa.domain.executions import BudgetKind, Excess
from bpa.domain.journal import Step, StepKind
from bpa.domain.specs import Budgets
from bpa.errors import Reason, RunEnded
from bpa.node.pricing import plain

PROMPT_OVERHEAD_TOKENS = 512
COUNT_MARGIN_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Consumed:
    """What a run has used over all its calls and executions, unsettled reservations included."""

    tokens: int = 0
    calls: int = 0
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Reservation:
    """The most that one call can use."""

    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    """None: the model has no price."""

    @property
    def tokens(self) -> int:
        """Tokens that are set aside for the call."""
        return self.input_tokens + self.output_tokens


class OverBudget(RunEnded):
    """The run ends here: its next call does not fit a budget."""

    def __init__(self, excess: Excess) -> None:
        super().__init__(Reason.BUDGET_EXCEEDED, str(excess))
        self.excess = excess


def input_bound(request_bytes: int) -> int:
    """Return the most input tokens that a request of so many JSON bytes can have."""
    return request_bytes + PROMPT_OVERHEAD_TOKENS


def counted_bound(counted_tokens: int) -> int:
    """Return the most input tokens of a request that the provider counted."""
    return counted_tokens + COUNT_MARGIN_TOKENS + counted_tokens // 100


def consumed(
    steps: Iterable[Step],
    *,
    input_bounds: Mapping[str, int],
    max_output_tokens: int,
    lost_token_usd: Decimal,
) -> Consumed:
    """Sum up what the journal charges; what it inherited was charged to another run.

    Args:
        steps: The journal.
        input_bounds: Digest -> input tokens at most, for requests that were counted since. A
            reservation whose answer was lost is charged at its own bound, or at this tighter one.
        max_output_tokens: Of one answer, with which lost calls are charged then.
        lost_token_usd: USD for each token of a lost call, at the model's dearest price.
    """
    listed = [step for step in steps if step.kind is StepKind.MODEL]
    known = dict(input_bounds)
    for step in listed:
        if step.answer:
            usage = step.usage
            known[step.digest] = usage.total_tokens - usage.output_tokens
    tokens = 0
    cost = Decimal(0)
    own = [step for step in listed if not step.inherited]
    for step in own:
        if step.answer is not None:
            tokens += step.usage.total_tokens
            cost += Decimal(step.usage.cost_usd)
            continue
        lost = step.reserved_tokens
        if step.digest in known:
            lost = min(lost, known[step.digest] + max_output_tokens)
        tokens += lost
        cost += lost * lost_token_usd
    return Consumed(tokens, len(own), cost)


def excess(budgets: Budgets, used: Consumed, wanted: Reservation) -> Excess | None:
    """Return which budget ``wanted`` does not fit, or None when it fits them all."""
    counted = (
        (BudgetKind.CALLS, budgets.max_calls, used.calls, 1),
        (BudgetKind.TOKENS, budgets.max_tokens, used.tokens, wanted.tokens),
    )
    for kind, limit, so_far, more in counted:
        if so_far + more > limit:
            return Excess(kind=kind, limit=str(limit), consumed=str(so_far), refused=str(more))
    if budgets.max_usd is None:
        return None
    limit_usd = Decimal(str(budgets.max_usd))
    if wanted.cost_usd is not None and used.cost_usd + wanted.cost_usd <= limit_usd:
        return None
    return Excess(
        kind=BudgetKind.USD,
        limit=plain(limit_usd),
        consumed=plain(used.cost_usd),
        refused=None if wanted.cost_usd is None else plain(wanted.cost_usd),
    )

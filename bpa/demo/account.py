"""Whether what was seen is what was expected: every message once, nothing more, nothing less.

Each check returns a line for each discrepancy; the account balances when there is none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from bpa.demo.documents import Expectation
from bpa.demo.seen import Seen, SeenInvoice, SeenRun, SeenTotal

_COPIED = ("invoice_id", "vendor", "route", "total", "currency", "issued_on", "kind")
_FIELDS = frozenset({"run_id", "confidence", *_COPIED})
_DISPOSITIONS = {"completed": "complete", "dead_lettered": "dead_letter"}


def discrepancies(expected: Sequence[Expectation], seen: Seen) -> list[str]:
    """Return a line for each thing that is not as expected.

    A document that has not ended gets one line, which says where it is: what it leaves missing
    elsewhere goes without saying.
    """
    by_file: dict[str, list[SeenRun]] = defaultdict(list)
    for run in seen.runs:
        by_file[run.file].append(run)
    alive = {
        one.name for one in expected if not any(run.has_ended for run in by_file.get(one.name, ()))
    }
    ended = [one for one in expected if one.name not in alive]
    return [
        *_runs(expected, by_file, seen.left_in_queue),
        *_target(ended, by_file, seen),
        *_dead_letters(ended, seen),
        *(f"{name}: still in the queue" for name in seen.left_in_queue if name not in alive),
        *_totals(seen),
    ]


def _runs(
    expected: Sequence[Expectation],
    by_file: Mapping[str, Sequence[SeenRun]],
    left_in_queue: Sequence[str],
) -> Iterator[str]:
    for one in expected:
        runs = by_file.get(one.name, ())
        if not runs:
            where = "still in the queue" if one.name in left_in_queue else "not in the queue either"
            yield f"{one.name}: no run, and {where}"
        elif len(runs) > 1:
            yield f"{one.name}: {len(runs)} runs instead of one"
        for run in runs:
            yield from _run(one, run)
    names = {one.name for one in expected}
    for file, runs in by_file.items():
        if file not in names:
            yield from (f"run {run.run_id}: of a message that nobody sent here" for run in runs)


def _run(one: Expectation, run: SeenRun) -> Iterator[str]:
    got = _ending(run.status, run.reason)
    if got != _ending(one.outcome, one.reason):
        why = run.detail or run.waiting_reason
        yield (
            f"{one.name}: {got} instead of {_ending(one.outcome, one.reason)}"
            f"{f' ({why})' if why else ''}, run {run.run_id}"
        )
    elif run.dispositions[-1:] != (_DISPOSITIONS[one.outcome],):
        last = run.dispositions[-1] if run.dispositions else ""
        yield (
            f"{one.name}: its message was settled as {last or 'nothing yet'!r} instead of "
            f"{_DISPOSITIONS[one.outcome]!r}, run {run.run_id}"
        )


def _ending(status: str, reason: str) -> str:
    return f"{status}: {reason}" if reason else status


def _target(
    ended: Sequence[Expectation], by_file: Mapping[str, Sequence[SeenRun]], seen: Seen
) -> Iterator[str]:
    by_key: dict[str, list[SeenInvoice]] = defaultdict(list)
    for invoice in seen.received:
        by_key[invoice.key].append(invoice)
    wanted = {run.effect_key for run in seen.runs if not run.has_ended}
    for one in ended:
        if one.outcome != "completed":
            continue
        for run in by_file.get(one.name, ()):
            wanted.add(run.effect_key)
            yield from _posted(one, run, by_key.get(run.effect_key, ()))
    for key, invoices in by_key.items():
        if key not in wanted:
            who = invoices[0].body.get("invoice_id")
            yield f"target: key {key} was not expected (invoice {who!r})"


def _posted(one: Expectation, run: SeenRun, invoices: Sequence[SeenInvoice]) -> Iterator[str]:
    where = f"{one.name}: key {run.effect_key}"
    if not invoices:
        yield f"{where} is missing at the target"
        return
    times = sum(invoice.applied for invoice in invoices)
    if times != 1:
        yield f"{where} was applied {times} times"
    for invoice in invoices:
        if invoice.bodies != 1:
            yield f"{where} came with {invoice.bodies} different bodies"
        yield from (f"{one.name}: {line}" for line in _body(one, run, invoice))


def _body(one: Expectation, run: SeenRun, invoice: SeenInvoice) -> Iterator[str]:
    body = invoice.body
    for name in _COPIED:
        if body.get(name) != getattr(one, name):
            yield f"{name} is {body.get(name)!r} instead of {getattr(one, name)!r}"
    if body.get("run_id") != run.run_id:
        yield f"run_id is {body.get('run_id')!r} instead of {run.run_id!r}"
    confidence = body.get("confidence")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        yield f"confidence is {confidence!r} instead of a number"
    elif not 0 <= confidence <= 1:
        yield f"confidence is {confidence!r} instead of 0 to 1"
    further = sorted(set(body) - _FIELDS)
    if further:
        yield f"the body has further fields: {', '.join(further)}"


def _dead_letters(ended: Sequence[Expectation], seen: Seen) -> Iterator[str]:
    wanted = Counter((one.name, one.reason) for one in ended if one.outcome == "dead_lettered")
    got = Counter((letter.file, letter.reason) for letter in seen.dead_letters)
    for (file, reason), count in sorted((wanted - got).items()):
        yield f"{file}: {count} missing in the dead-letter queue as {reason}"
    for (file, reason), count in sorted((got - wanted).items()):
        yield f"{file}: {count} in the dead-letter queue as {reason or 'no reason'}, not expected"


def _totals(seen: Seen) -> Iterator[str]:
    if seen.totals is None:
        return
    told = {(total.status, total.reason): total for total in seen.totals}
    groups: dict[tuple[str, str], list[SeenRun]] = defaultdict(list)
    for run in seen.runs:
        groups[run.status, run.reason].append(run)
    for group in sorted({*told, *groups}):
        total = told.get(group) or _sum(group, ())
        own = _sum(group, groups.get(group, ()))
        for name in ("runs", "tokens_in", "tokens_out", "cost_usd"):
            if getattr(total, name) != getattr(own, name):
                yield (
                    f"total of {_ending(*group)}: {name} is {getattr(total, name)}, "
                    f"but its runs come to {getattr(own, name)}"
                )


def _sum(group: tuple[str, str], runs: Sequence[SeenRun]) -> SeenTotal:
    status, reason = group
    return SeenTotal(
        status=status,
        reason=reason,
        runs=len(runs),
        tokens_in=sum(run.tokens_in for run in runs),
        tokens_out=sum(run.tokens_out for run in runs),
        cost_usd=sum((run.cost_usd for run in runs), Decimal(0)),
    )

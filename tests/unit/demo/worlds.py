"""A small demonstration that balances, for tests to put out of balance."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from bpa.demo.documents import Expectation
from bpa.demo.seen import Seen, SeenDeadLetter, SeenInvoice, SeenRun, SeenTotal

EXPECTED = [
    Expectation(
        file="invoices/1.json", content_type="application/json", outcome="completed",
        vendor="Papierhaus", route="office", invoice_id="P-1", currency="EUR", total="12.50",
        issued_on="2026-01-31", kind="invoice",
    ),
    Expectation(
        file="invoices/2.xml", content_type="application/xml", outcome="completed",
        vendor="Redgum", route="it", invoice_id="R-2", currency="AUD", total="-7.00",
        issued_on="2026-02-01", kind="credit_note",
    ),
    Expectation(
        file="invoices/3.txt", content_type="text/plain", outcome="dead_lettered",
        reason="BudgetExceeded",
    ),
]  # fmt: skip


def run_of(number: int, **changes: Any) -> SeenRun:
    one = EXPECTED[number - 1]
    completed = one.outcome == "completed"
    run = SeenRun(
        run_id=f"run-{number}",
        file=one.name,
        status=one.outcome,
        reason=one.reason,
        sequence_number=number,
        dispositions=("complete" if completed else "dead_letter",),
        tokens_in=500 if completed else 0,
        tokens_out=40 if completed else 0,
        cost_usd=Decimal("0.0021") if completed else Decimal(0),
        latency_ms=100.0 * number,
    )
    return replace(run, **changes)


def body_of(number: int, **changes: Any) -> dict[str, Any]:
    one = EXPECTED[number - 1]
    copied = ("vendor", "route", "invoice_id", "currency", "total", "issued_on", "kind")
    body = {name: getattr(one, name) for name in copied}
    return {"run_id": f"run-{number}", "confidence": 0.9, **body, **changes}


def invoice_of(number: int, **changes: Any) -> SeenInvoice:
    return SeenInvoice(key=f"run-{number}:{number}", body=body_of(number, **changes))


LETTER = SeenDeadLetter(file="3.txt", reason="BudgetExceeded", description="too long")
TOTALS = (
    SeenTotal(
        status="completed", reason="", runs=2, tokens_in=1000, tokens_out=80,
        cost_usd=Decimal("0.0042"),
    ),
    SeenTotal(
        status="dead_lettered", reason="BudgetExceeded", runs=1, tokens_in=0, tokens_out=0,
        cost_usd=Decimal("0.000000"),
    ),
)  # fmt: skip
BALANCED = Seen(
    runs=(run_of(1), run_of(2), run_of(3)),
    received=(invoice_of(1), invoice_of(2)),
    dead_letters=(LETTER,),
    totals=TOTALS,
)

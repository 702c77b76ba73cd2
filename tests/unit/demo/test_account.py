from dataclasses import replace
from decimal import Decimal

import pytest

from bpa.demo.account import discrepancies
from bpa.demo.seen import Seen, SeenDeadLetter, SeenInvoice
from tests.unit.demo.worlds import (
    BALANCED,
    EXPECTED,
    LETTER,
    TOTALS,
    body_of,
    invoice_of,
    run_of,
)


def only(seen: Seen) -> str:
    """The one discrepancy."""
    (line,) = discrepancies(EXPECTED, seen)
    return line


def with_run(number: int, **changes: object) -> Seen:
    runs = tuple(run_of(n, **(changes if n == number else {})) for n in (1, 2, 3))
    return replace(BALANCED, runs=runs, totals=None)


def test_what_happened_as_expected_balances():
    assert discrepancies(EXPECTED, BALANCED) == []


def test_an_earlier_lost_delivery_of_a_settled_message_is_no_discrepancy():
    assert discrepancies(EXPECTED, with_run(1, dispositions=("lost", "complete"))) == []


def test_sums_are_left_out_where_others_runs_are_in_them():
    assert discrepancies(EXPECTED, replace(BALANCED, totals=None)) == []


def test_nothing_at_all_is_a_line_for_each_document():
    assert discrepancies(EXPECTED, Seen()) == [
        "1.json: no run, and not in the queue either",
        "2.xml: no run, and not in the queue either",
        "3.txt: no run, and not in the queue either",
    ]


def test_a_message_nobody_received_is_named_once():
    seen = replace(
        BALANCED,
        runs=(run_of(2), run_of(3)),
        received=(invoice_of(2),),
        left_in_queue=("1.json",),
        totals=None,
    )
    assert only(seen) == "1.json: no run, and still in the queue"


def test_a_run_that_waits_is_named_once_with_what_it_waits_for():
    waiting = {"status": "queued", "waiting_reason": "no free slot", "dispositions": ("",)}
    seen = replace(with_run(1, **waiting), received=(invoice_of(2),), left_in_queue=("1.json",))
    assert only(seen) == "1.json: queued instead of completed (no free slot), run run-1"


def test_a_dead_letter_that_has_not_come_yet_is_named_once():
    seen = replace(with_run(3, status="running", reason="", dispositions=("",)), dead_letters=())
    assert only(seen).startswith("3.txt: running instead of dead_lettered: BudgetExceeded")


def test_what_a_living_run_has_already_posted_is_expected():
    seen = with_run(1, status="running", dispositions=("",))
    assert only(seen).startswith("1.json: running instead of completed")


def test_a_second_run_of_a_message_is_found():
    second = run_of(1, run_id="run-9", sequence_number=9)
    lines = discrepancies(EXPECTED, replace(BALANCED, runs=(*BALANCED.runs, second), totals=None))
    assert lines == [
        "1.json: 2 runs instead of one",
        "1.json: key run-9:9 is missing at the target",
    ]


def test_a_run_of_a_message_that_nobody_sent_is_found():
    stranger = run_of(3, file="?", run_id="run-9")
    seen = replace(BALANCED, runs=(*BALANCED.runs, stranger), totals=None)
    assert only(seen) == "run run-9: of a message that nobody sent here"


def test_a_completed_run_that_should_be_dead_lettered_is_found():
    seen = with_run(3, status="completed", reason="", dispositions=("complete",))
    lines = discrepancies(EXPECTED, replace(seen, dead_letters=()))
    assert lines == [
        "3.txt: completed instead of dead_lettered: BudgetExceeded, run run-3",
        "3.txt: 1 missing in the dead-letter queue as BudgetExceeded",
    ]


def test_a_dead_lettered_run_that_should_complete_is_found_with_its_detail():
    seen = with_run(1, status="dead_lettered", reason="AgentError", detail="it raised")
    lines = discrepancies(EXPECTED, replace(seen, received=(invoice_of(2),)))
    assert lines == [
        "1.json: dead_lettered: AgentError instead of completed (it raised), run run-1",
        "1.json: key run-1:1 is missing at the target",
    ]


def test_another_reason_than_the_expected_is_found_in_run_and_dead_letter():
    seen = with_run(3, reason="DeadlineExceeded")
    letter = replace(LETTER, reason="DeadlineExceeded")
    lines = discrepancies(EXPECTED, replace(seen, dead_letters=(letter,)))
    assert lines == [
        "3.txt: dead_lettered: DeadlineExceeded instead of dead_lettered: BudgetExceeded, "
        "run run-3",
        "3.txt: 1 missing in the dead-letter queue as BudgetExceeded",
        "3.txt: 1 in the dead-letter queue as DeadlineExceeded, not expected",
    ]


@pytest.mark.parametrize(
    ("dispositions", "told"),
    [((), "nothing yet"), (("",), "nothing yet"), (("lost",), "lost"), (("abandon",), "abandon")],
)
def test_a_message_that_was_not_settled_as_its_run_ended_is_found(dispositions, told):
    line = only(with_run(1, dispositions=dispositions))
    assert line == f"1.json: its message was settled as '{told}' instead of 'complete', run run-1"


def test_a_dead_letter_whose_message_was_completed_is_found():
    assert "settled as 'complete' instead of 'dead_letter'" in only(
        with_run(3, dispositions=("complete",))
    )


def test_an_invoice_that_is_missing_at_the_target_is_found():
    seen = replace(BALANCED, received=(invoice_of(2),))
    assert only(seen) == "1.json: key run-1:1 is missing at the target"


def test_an_invoice_listed_twice_under_its_key_is_found():
    seen = replace(BALANCED, received=(*BALANCED.received, invoice_of(1)))
    assert only(seen) == "1.json: key run-1:1 was applied 2 times"


def test_an_invoice_the_target_says_it_applied_twice_is_found():
    twice = replace(invoice_of(1), applied=2)
    seen = replace(BALANCED, received=(twice, invoice_of(2)))
    assert only(seen) == "1.json: key run-1:1 was applied 2 times"


def test_two_bodies_under_one_key_are_found():
    changed = replace(invoice_of(2), bodies=2)
    seen = replace(BALANCED, received=(invoice_of(1), changed))
    assert only(seen) == "2.xml: key run-2:2 came with 2 different bodies"


def test_an_invoice_under_a_key_of_its_own_making_is_found_twice():
    odd = SeenInvoice(key="run-1:7", body=body_of(1))
    lines = discrepancies(EXPECTED, replace(BALANCED, received=(odd, invoice_of(2))))
    assert lines == [
        "1.json: key run-1:1 is missing at the target",
        "target: key run-1:7 was not expected (invoice 'P-1')",
    ]


def test_the_invoice_of_a_dead_lettered_run_is_found_at_the_target():
    applied = SeenInvoice(key="run-3:3", body={"invoice_id": "X"})
    seen = replace(BALANCED, received=(*BALANCED.received, applied))
    assert only(seen) == "target: key run-3:3 was not expected (invoice 'X')"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("invoice_id", "P-2"), ("vendor", "papierhaus"), ("route", "it"), ("total", "12.5"),
        ("total", 12.5), ("currency", "USD"), ("issued_on", "2026-31-01"), ("kind", "credit_note"),
        ("vendor", None),
    ],
)  # fmt: skip
def test_a_field_that_is_not_as_in_the_document_is_found(field, value):
    seen = replace(BALANCED, received=(invoice_of(1, **{field: value}), invoice_of(2)))
    expected = getattr(EXPECTED[0], field)
    assert only(seen) == f"1.json: {field} is {value!r} instead of {expected!r}"


def test_another_runs_id_in_the_body_is_found():
    seen = replace(BALANCED, received=(invoice_of(1, run_id="run-2"), invoice_of(2)))
    assert only(seen) == "1.json: run_id is 'run-2' instead of 'run-1'"


@pytest.mark.parametrize("confidence", [None, "0.9", True, -0.1, 1.1])
def test_a_confidence_that_is_none_is_found(confidence):
    seen = replace(BALANCED, received=(invoice_of(1, confidence=confidence), invoice_of(2)))
    assert only(seen).startswith(f"1.json: confidence is {confidence!r} instead of ")


def test_a_field_too_many_is_found():
    seen = replace(BALANCED, received=(invoice_of(1, note="x", iban="y"), invoice_of(2)))
    assert only(seen) == "1.json: the body has further fields: iban, note"


def test_a_missing_dead_letter_is_found():
    line = only(replace(BALANCED, dead_letters=()))
    assert line == "3.txt: 1 missing in the dead-letter queue as BudgetExceeded"


def test_a_dead_letter_that_is_there_twice_is_found():
    line = only(replace(BALANCED, dead_letters=(LETTER, LETTER)))
    assert line == "3.txt: 1 in the dead-letter queue as BudgetExceeded, not expected"


def test_a_dead_letter_of_no_document_is_found():
    stranger = SeenDeadLetter(file="message 7", reason="")
    line = only(replace(BALANCED, dead_letters=(LETTER, stranger)))
    assert line == "message 7: 1 in the dead-letter queue as no reason, not expected"


def test_a_message_that_stays_in_the_queue_is_found():
    line = only(replace(BALANCED, left_in_queue=("2.xml",)))
    assert line == "2.xml: still in the queue"


@pytest.mark.parametrize(
    ("field", "value"),
    [("runs", 3), ("tokens_in", 999), ("tokens_out", 0), ("cost_usd", Decimal("0.0021"))],
)
def test_a_sum_that_its_runs_do_not_come_to_is_found(field, value):
    line = only(replace(BALANCED, totals=(replace(TOTALS[0], **{field: value}), TOTALS[1])))
    own = getattr(TOTALS[0], field)
    assert line == f"total of completed: {field} is {value}, but its runs come to {own}"


def test_a_group_that_is_missing_among_the_sums_is_found():
    lines = discrepancies(EXPECTED, replace(BALANCED, totals=TOTALS[:1]))
    assert lines == ["total of dead_lettered: BudgetExceeded: runs is 0, but its runs come to 1"]


def test_a_group_of_runs_that_nobody_listed_is_found():
    extra = replace(TOTALS[1], reason="CrashLoop")
    line = only(replace(BALANCED, totals=(*TOTALS, extra)))
    assert line == "total of dead_lettered: CrashLoop: runs is 1, but its runs come to 0"

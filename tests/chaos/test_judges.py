"""The judges find what is wrong: each account is falsified once."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from bpa import amqp
from tests.chaos import judges
from tests.chaos.judges import Verdict
from tests.chaos.load import Load
from tests.chaos.settlements import Disposition, Frames, lock_lost, read_disposition

RUN: dict[str, Any] = {
    "run_id": "r-1", "message_id": "m-1", "status": "completed", "reason": None, "detail": None,
    "replay_number": 0, "replayed_as": None,
    "effect_key": "r-1:1", "executions": 1, "infra_failures": 0, "deliveries": 1, "leases": 0,
}  # fmt: skip
DEAD = {"status": "dead_lettered", "reason": "AgentError", "detail": "none"}
REPLAY = {**RUN, "run_id": "r-2", "replay_number": 1}
STEP: dict[str, Any] = {
    "run_id": "r-1", "seq": 0, "digest": "d", "known": True, "answered": True, "inherited": False,
}  # fmt: skip
APPLIED = {"applied": True, "bodies": 1, "tries": 1, "outcomes": {"applied": 1}}


def sent(*invoice_ids: str) -> Load:
    load = Load("", "m", 1, 1.0)
    load.accepted.update(invoice_ids)
    return load


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([], "m-1 has 0 runs"),
        ([RUN, {**RUN, "run_id": "r-2"}], "m-1 has 2 runs"),
        ([RUN, {**RUN, "message_id": "m-2"}], "nobody sent"),
        ([{**RUN, "status": "running"}], "not ended"),
        ([{**RUN, "leases": 1}], "leases of runs that have ended"),
        ([RUN, REPLAY, {**REPLAY, "run_id": "r-3"}], "replay 1 of m-1 has 2 runs"),
        ([RUN], ""),
        ([{**RUN, **DEAD}, REPLAY], ""),
    ],
)
def test_a_message_is_in_exactly_one_place(runs: list[dict[str, Any]], told: str) -> None:
    verdict = Verdict()
    judges._one_place(verdict, sent("m-1"), runs)
    assert_told(verdict, told)


@pytest.mark.parametrize(
    ("run", "letters", "told"),
    [
        ({**RUN, **DEAD}, {}, "dead at the broker []"),
        (RUN, {"m-1": ["MaxDeliveryCountExceeded"]}, "MaxDeliveryCountExceeded"),
        ({**RUN, **DEAD}, {"m-1": ["Cancelled"]}, "Cancelled"),
        ({**RUN, **DEAD}, {"m-1": ["AgentError"]}, ""),
        ({**RUN, **DEAD, "replayed_as": "r-2"}, {"m-1": ["AgentError"]}, "in Postgres []"),
        ({**RUN, **DEAD, "replayed_as": "r-2"}, {}, ""),
    ],
)
def test_the_broker_and_postgres_agree_on_who_is_dead(
    run: dict[str, Any], letters: dict[str, list[str]], told: str
) -> None:
    verdict = Verdict()
    judges._dead_letters(verdict, [run], letters)
    assert_told(verdict, told)


@pytest.mark.parametrize(
    ("run", "tries", "told"),
    [
        (RUN, {}, "applied 0 times"),
        (RUN, {"r-1:1": {**APPLIED, "bodies": 2}}, "2 bodies"),
        (RUN, {"r-1:1": APPLIED, "r-1:2": APPLIED}, "used the keys"),
        ({**RUN, **DEAD}, {"r-1:1": APPLIED}, "dead_lettered: applied 1 times"),
        (RUN, {"r-1:1": {**APPLIED, "tries": 3}}, ""),
    ],
)
def test_a_run_has_one_effect_under_one_key_with_one_body(
    run: dict[str, Any], tries: dict[str, dict[str, Any]], told: str
) -> None:
    verdict = Verdict()
    judges._effects(verdict, [run], tries)
    assert_told(verdict, told)


@pytest.mark.parametrize(
    ("steps", "answers", "told"),
    [
        ([STEP], 2, "2 answers paid, 1 calls"),
        ([STEP], 0, "0 were given"),
        ([STEP, {**STEP, "seq": 1}], 2, "paid for again"),
        ([STEP, {**STEP, "seq": 1, "answered": False, "known": False}], 2, "paid for again"),
        ([{**STEP, "answered": False, "known": False}, {**STEP, "seq": 1}], 2, ""),
        ([STEP, {**STEP, "seq": 1, "digest": "e"}], 2, ""),
    ],
)
def test_a_recorded_answer_is_paid_once(
    steps: list[dict[str, Any]], answers: int, told: str
) -> None:
    verdict = Verdict()
    judges._paid_once(verdict, [RUN], steps, Counter({"m-1": answers}))
    assert_told(verdict, told)


PAID = {"tokens": 1_010, "usd": Decimal("0.00105"), "known": True, "inherited": False,
        "reserved_tokens": 3_000, "reserved_usd": Decimal("0.005")}  # fmt: skip
LOST = {**PAID, "tokens": 0, "usd": Decimal(0), "known": False}
BILL = {"model": "claude-haiku-4-5", "input_tokens": 1_000, "output_tokens": 10,
        "cache_read_tokens": 0, "cache_write_tokens": 0}  # fmt: skip
DEAR = {**BILL, "input_tokens": 0, "output_tokens": 1_010}


@pytest.mark.parametrize(
    ("steps", "entries", "told"),
    [
        ([PAID], [BILL], ""),
        ([PAID, {**PAID, "inherited": True}], [BILL], ""),
        ([PAID], [BILL, BILL], "has 2020 tokens, ours 1010 and at most 0 unknown"),
        ([PAID, PAID], [BILL], "has 1010 tokens, ours 2020"),
        ([PAID], [DEAR], "has 0.00505 USD, ours 0.00105"),
        ([PAID, LOST], [BILL], ""),
        ([PAID, LOST], [BILL, BILL], ""),
        ([PAID, LOST], [BILL, DEAR], "and at most 0.005 unknown"),
    ],
)
def test_the_model_s_account_is_ours_but_for_unknown_calls(
    steps: list[dict[str, Any]], entries: list[dict[str, Any]], told: str
) -> None:
    verdict = Verdict()
    judges._accounted(verdict, steps, entries)
    assert_told(verdict, told)


def test_slots_and_epochs_are_watched() -> None:
    watch = judges.Watch(servers=None, fleet=None)  # type: ignore[arg-type]
    watch._compare({"slots": {"n": 6}, "deployed": {"d": 12}, "epochs": {"r": 4}}, 6)
    assert not watch.violations
    watch._compare({"slots": {"n": 7}, "deployed": {"d": 13}, "epochs": {"r": 3}}, 6)
    assert len(watch.violations) == 3


def test_a_settlement_is_told_from_its_answer() -> None:
    asked = Disposition(b"\x00\x01", 7, is_settlement=True)
    frame = lock_lost(asked)
    assert amqp.value_end(frame, 8) == len(frame)
    assert read_disposition(frame) == Disposition(b"\x00\x01", 7, is_settlement=False)


def test_frames_are_cut_wherever_the_bytes_were() -> None:
    frames = [b"AMQP\x00\x01\x00\x00", lock_lost(Disposition(b"\x00\x00", 1, is_settlement=True))]
    stream = b"".join(frames) * 3
    cutter = Frames()
    found = [frame for at in range(0, len(stream), 5) for frame in cutter.feed(stream[at : at + 5])]
    assert found == frames * 3


def assert_told(verdict: Verdict, told: str) -> None:
    if told:
        assert any(told in violation for violation in verdict.violations), verdict.violations
    else:
        assert not verdict.violations

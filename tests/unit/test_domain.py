import uuid

import msgspec
import pytest

from bpa.domain.journal import Usage
from bpa.domain.quantities import cpu_millis, duration_s, memory_bytes
from bpa.domain.runs import TERMINAL, TRANSITIONS, RunStatus, effect_key_of, run_id_of
from bpa.domain.specs import DeploymentSpec
from bpa.errors import InvalidRequest


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-1", "1e3", "", " 1", "1.", "1" * 61])
def test_an_amount_that_is_no_plain_decimal_is_refused(amount):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"cost_usd": amount}, Usage)
    assert msgspec.convert({"cost_usd": "0.0000003"}, Usage).cost_usd == "0.0000003"


def test_the_run_id_of_a_known_message_is_known():
    run_id = run_id_of("sbemulatorns", "invoices", 42, 1_763_800_000_123)
    assert run_id == "019aaaac-267b-8c23-9995-9f87069ce7ce"
    assert effect_key_of(run_id, 42) == f"{run_id}:42"


def test_a_run_id_is_a_version_8_uuid_that_sorts_by_arrival():
    ids = [run_id_of("ns", "q", n, 1_763_800_000_000 + n) for n in range(50)]
    assert ids == sorted(ids)
    assert {uuid.UUID(i).version for i in ids} == {8}
    assert {uuid.UUID(i).variant for i in ids} == {uuid.RFC_4122}


def test_names_compare_without_case_as_service_bus_does():
    assert run_id_of("NS", "Invoices", 1, 5) == run_id_of("ns", "invoices", 1, 5)


def test_every_part_of_a_message_identity_changes_the_run_id():
    base = ("ns", "q", 1, 5)
    others = [("x", "q", 1, 5), ("ns", "x", 1, 5), ("ns", "q", 2, 5), ("ns", "q", 1, 6)]
    assert len({run_id_of(*key) for key in [base, *others]}) == 5


def test_nothing_leaves_a_terminal_status():
    for status in TERMINAL:
        assert TRANSITIONS[status] == {}


def test_every_status_is_in_the_table_and_can_reach_an_end():
    assert set(TRANSITIONS) == set(RunStatus)
    for status in set(RunStatus) - TERMINAL:
        seen, todo = set(), [status]
        while todo:
            at = todo.pop()
            seen.add(at)
            todo += [to for to in TRANSITIONS[at].values() if to not in seen]
        assert seen >= TERMINAL


def test_the_deployment_of_the_architecture_document_is_read():
    spec = msgspec.json.decode(
        b"""{"agentId": "invoice-classifier", "version": "1.0.0", "environment": "dev",
        "target": {"slotBudget": 4, "resources": {"cpu": "500m", "memory": "1Gi"}},
        "placement": {"affinity": {"region": ["aus-east"]}}}""",
        type=DeploymentSpec,
    )
    assert spec.run_limit == 4
    assert cpu_millis(spec.target.resources.cpu) == 500
    assert memory_bytes(spec.target.resources.memory) == 2**30
    assert spec.placement.affinity == {"region": ["aus-east"]}
    assert (spec.budgets.max_tokens, spec.budgets.max_duration_s) == (4000, 60.0)


@pytest.mark.parametrize("text", ["", "60", "s", "-1s", "1 s", "1d"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InvalidRequest, match="duration"):
        duration_s(text)


@pytest.mark.parametrize("parse", [cpu_millis, memory_bytes])
@pytest.mark.parametrize("text", ["", "lots", "-1", "1e3"])
def test_what_is_no_quantity_is_refused(parse, text):
    with pytest.raises(InvalidRequest, match="quantity"):
        parse(text)

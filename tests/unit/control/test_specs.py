"""Specs of deployments: what is wrong with one, how two differ, one edit on top of another."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bpa.control.spec_changes import Change, changes, rebased
from bpa.control.spec_checks import check, problems_of, read_spec
from bpa.domain.specs import Budgets, DeploymentSpec, HttpOutSpec, Placement, Target
from bpa.errors import InvalidRequest

SPEC = DeploymentSpec(
    agent_id="a",
    version="1.0.0",
    environment="dev",
    placement=Placement({"region": ["east", "west"]}),
    input_schema={"type": "object"},
)
TREE = msgspec.to_builtins(SPEC)


def tree(**more):
    return {**TREE, **more}


def test_a_spec_is_read_back_as_it_was_written():
    assert read_spec(TREE) == (SPEC, [])


def test_every_wrong_field_is_named_and_not_the_first_alone():
    wrong = tree(
        agentId=7,
        target={"slotBudget": "x", "colour": 1, "resources": {"cpu": "much"}},
        routes=[1],
        placement={"affinity": {"region": "east"}},
        budgets={"maxTokens": 0, "maxDuration": "soon"},
        httpOut={"baseUrl": "https://me:secret@host"},
        maxEffects=9,
        inputSchema={"type": "nonsense"},
    )
    del wrong["version"]
    spec, problems = read_spec(wrong)
    assert spec is None
    assert sorted(one.field for one in problems) == [
        "agentId",
        "budgets.maxDuration",
        "budgets.maxTokens",
        "httpOut.baseUrl",
        "inputSchema",
        "maxEffects",
        "placement.affinity",
        "routes",
        "target.colour",
        "target.resources.cpu",
        "target.slotBudget",
        "version",
    ]
    texts = dict(problems)
    assert texts["target.slotBudget"] == "a whole number is needed here, not a text"
    assert texts["version"] == "is needed"
    assert "secret" not in texts["httpOut.baseUrl"]


@pytest.mark.parametrize("odd", [None, [], "text", 7, {}, {"target": 3}, {"a.b": {"c": 1}}])
def test_whatever_comes_as_a_spec_is_answered_with_problems(odd):
    spec, problems = read_spec(odd)
    assert spec is None
    assert problems


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(TREE)) | st.text(max_size=5), _JSON))
def test_no_values_of_any_kind_are_too_much_for_the_check(values):
    spec, problems = read_spec(tree(**values))
    assert (spec is None) == bool(problems)


def test_a_spec_that_makes_no_sense_is_refused_with_a_line_a_field():
    with pytest.raises(InvalidRequest) as refused:
        check(replace(SPEC, routes=[], version=""))
    assert [line.split(":")[0] for line in refused.value.errors] == ["version", "routes"]


def test_specs_differ_leaf_by_leaf_in_the_order_of_a_spec():
    after = replace(
        SPEC,
        version="2.0.0",
        target=Target(slot_budget=8),
        placement=Placement({"zone": ["b"]}),
        input_schema={"type": "array"},
        budgets=Budgets(max_usd=0.5),
    )
    assert changes(SPEC, after) == [
        Change("version", "1.0.0", "2.0.0"),
        Change("target.slotBudget", 4, 8),
        Change("placement.affinity.region", ["east", "west"], None),
        Change("placement.affinity.zone", None, ["b"]),
        Change("budgets.maxUsd", None, 0.5),
        Change("inputSchema", {"type": "object"}, {"type": "array"}),
    ]
    assert changes(SPEC, SPEC) == []


@pytest.mark.parametrize("query", ["sig=hunter2", "v=1&code=hunter2", "api_key=hunter2"])
def test_an_address_with_a_key_in_its_query_is_refused_without_repeating_it(query):
    (problem,) = problems_of(replace(SPEC, http_out=HttpOutSpec(base_url=f"https://h/p?{query}")))
    assert problem.field == "httpOut.baseUrl"
    assert "http_out.base_url of the nodes' settings" in problem.text
    assert "hunter2" not in problem.text
    plain = replace(SPEC, http_out=HttpOutSpec(base_url="https://h/p?v=1"))
    assert [*problems_of(plain)] == []


def test_an_edit_is_put_on_top_of_another_and_clashes_are_told():
    theirs = replace(SPEC, target=Target(slot_budget=6), routes=["theirs"], max_effects=2)
    mine = replace(
        SPEC, target=Target(slot_budget=8), http_out=HttpOutSpec(timeout_s=5), max_effects=2
    )
    put = rebased(SPEC, theirs, mine)
    spec = msgspec.convert(put.tree, DeploymentSpec)
    assert spec == replace(mine, routes=["theirs"])
    assert put.clashes == (Change("target.slotBudget", 6, 8),)


_SPECS = st.builds(
    lambda slots, routes, regions, version, usd: replace(
        SPEC,
        version=version,
        target=Target(slot_budget=slots),
        routes=routes,
        placement=Placement(regions),
        budgets=Budgets(max_usd=usd),
    ),
    st.integers(1, 3),
    st.lists(st.sampled_from("ab"), min_size=1, max_size=2),
    st.dictionaries(st.sampled_from(["region", "zone"]), st.lists(st.sampled_from("ew"))),
    st.sampled_from(["1.0.0", "2.0.0"]),
    st.none() | st.integers(0, 2),
)


@given(_SPECS, _SPECS)
def test_an_edit_on_top_of_none_is_that_edit_and_none_on_top_of_one_is_that_one(base, other):
    for put in (rebased(base, base, other), rebased(base, other, base)):
        assert msgspec.convert(put.tree, DeploymentSpec) == other
        assert put.clashes == ()

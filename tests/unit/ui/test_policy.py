"""The form of a deployment and its JSON: one tree, written both ways, and typed into either."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.control.rest.revision_schemas import FieldProblem, Simulation
from bpa.domain.specs import DeploymentSpec, Placement
from bpa.ui.views import policy, policy_form
from bpa.ui.views.policy_form import FIELDS, json_text, patched, shown

SPEC = DeploymentSpec(
    agent_id="a",
    version="1.0.0",
    environment="dev",
    placement=Placement({"region": ["east", "west"]}),
    routes=["it", "general"],
)
TREE = msgspec.to_builtins(SPEC)
HOSTILE = "<b>\u202eevil\u200b" + "e" + "\u0301" * 50


def fields(tree=TREE, **typed):
    return {one.path: shown(one, tree) for one in FIELDS} | typed


def test_every_value_but_the_names_and_the_schema_has_a_field():
    def paths(tree, before=""):
        for key, value in tree.items():
            path = f"{before}{key}"
            if isinstance(value, dict) and path != "placement.affinity":
                yield from paths(value, f"{path}.")
            else:
                yield path

    assert {one.path for one in FIELDS} == {*paths(TREE)} - {
        "agentId", "environment", "inputSchema",
    }  # fmt: skip


def test_fields_that_nobody_typed_into_change_nothing():
    odd = {**TREE, "routes": [HOSTILE], "version": HOSTILE, "target": {"slotBudget": [HOSTILE]}}
    for tree in (TREE, odd, {}):
        typed = {name: text.replace("\n", "\r\n") for name, text in fields(tree).items()}
        assert patched(tree, tree, typed) == tree


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("target.slotBudget", " 8 ", 8),
        ("target.slotBudget", "many", "many"),
        ("target.slotBudget", "nan", "nan"),
        ("target.slotBudget", "9" * 400, "9" * 400),
        ("httpOut.timeoutS", "2.5", 2.5),
        ("httpOut.idempotent", "no", False),
        ("budgets.maxUsd", "0.5", 0.5),
        ("routes", "it\r\n\r\n travel ", ["it", "travel"]),
        ("routes", "", []),
        ("placement.affinity", "zone: a, b\r\nregion: c", {"zone": ["a", "b"], "region": ["c"]}),
        ("placement.affinity", "no colon", {"no colon": "no colon"}),
        ("placement.affinity", "", {}),
        ("version", "2.0.0", "2.0.0"),
    ],
)
def test_what_is_typed_into_a_field_is_put_into_the_tree(path, text, value):
    tree = patched(TREE, TREE, fields(**{path: text}))
    for key in path.split("."):
        tree = tree[key]
    assert tree == value


def test_fields_and_json_may_both_have_been_typed_into():
    typed = json.loads(json.dumps(TREE))
    typed["budgets"]["maxCalls"] = 3
    both = patched(typed, TREE, fields(**{"target.slotBudget": "8"}))
    assert (both["budgets"]["maxCalls"], both["target"]["slotBudget"]) == (3, 8)
    assert typed["target"]["slotBudget"] == 4, "what came in stays as it is"


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=8) | st.integers()))
def test_json_that_is_shown_reads_as_the_same_and_hides_nothing(tree):
    for compact in (True, False):
        text = json_text(tree, compact=compact)
        assert json.loads(text) == tree
    assert "\u202e" not in json_text({"a": HOSTILE})


def drafted(**typed):
    sent = {"json": json_text(TREE), "etag": "1", "based_on": "1", **fields(**typed)}
    return policy.draft_of(sent, TREE, TREE, "")


def page(draft, **more):
    simulated = Simulation(
        deployment_id="a-dev", etag="1", valid=not more, problems=more.get("problems", []),
        changes=[], cautions=[], fleet=None,
    )  # fmt: skip
    return policy.editor("a-dev", draft, simulated, ["1.0.0"], present=TREE, revision=1)


def test_what_was_typed_since_the_last_look_is_not_saved_unseen():
    assert drafted().is_checked
    assert not drafted(**{"target.slotBudget": "9"}).is_checked
    assert not policy.draft_of({"json": "{"}, None, TREE, "no JSON").is_checked


def test_a_problem_stands_at_its_field_and_in_the_list():
    draft = drafted(**{"target.resources.cpu": "much"})
    problems = [
        FieldProblem(field="target.resources.cpu", problem="no quantity"),
        FieldProblem(field="placement.affinity.zone", problem="odd"),
        FieldProblem(field="target.slotBudget x target.replicas", problem="too many"),
        FieldProblem(field="inputSchema", problem="no schema"),
    ]
    shown_page = page(draft, problems=problems)
    at = {one.field.path: one.problem for _, group in shown_page.groups for one in group}
    assert at["target.resources.cpu"] == "no quantity"
    assert at["placement.affinity"] == "odd"
    assert at["target.slotBudget"] == at["target.replicas"] == "too many"
    assert len(shown_page.problems) == 4
    assert not shown_page.can_save
    assert "no quantity" in shown_page.said


def test_json_that_is_none_is_kept_as_it_was_typed_with_the_fields_as_they_were():
    sent = {"json": '{"a": ', "etag": "1", "based_on": "1", **fields(**{"target.slotBudget": "9"})}
    shown_page = page(policy.draft_of(sent, None, TREE, "not JSON"))
    assert (shown_page.json, shown_page.problems) == ('{"a": ', [("json", "not JSON")])
    values = {one.field.path: one.value for _, group in shown_page.groups for one in group}
    assert (values["target.slotBudget"], values["version"]) == ("9", "1.0.0")
    assert json.loads(shown_page.synced) == TREE, "the fields are still compared with it"
    assert policy_form.TEXT_CHARS_MAX > 100_000

"""What a model was asked, derived from what is kept.

That it is what a sandbox asks is held by ``tests/integration/node/test_executor.py``.
"""

import json

from bpa.control.contents import contents_of
from bpa.control.disclosure import Disclosure, Show
from bpa.control.prompts import Declared, prompts
from bpa.documents.answers import tool_of
from bpa.documents.values import Document
from bpa.documents.wire import to_wire
from bpa.domain.conversation import compose
from bpa.domain.journal import StepKind, canonical, digest_of
from bpa.domain.specs import AgentSpec

AGENT = AgentSpec(agent_id="a", version="1", name="A", instructions="Post it.")
DECLARED = Declared(AGENT, ["it"], 1)
DOCUMENT = Document("text", "An invoice for Jane.", None)
CALL = {"type": "function_call", "call_id": "c1", "name": "post_invoice",
        "arguments": '{"vendor": "V", "reason": "for Jane"}'}  # fmt: skip
ANSWER = json.dumps({"messages": [{"role": "assistant", "contents": [CALL]}]}).encode()
USER = {"role": "user", "contents": [{"type": "text", "text": DOCUMENT.text}]}
WISH = {"messages": [USER], "options": {"tool_choice": "required"}}
TOOL = tool_of(DOCUMENT, DECLARED.routes, 1)
DIGEST = digest_of(StepKind.MODEL, canonical(compose(WISH, AGENT, [TOOL])))
RUN = {
    "run_id": "r", "document": to_wire(DOCUMENT),
    "spec": {"agentId": "a", "version": "1", "name": "A", "instructions": "Post it."},
    "target": {"agentId": "a", "version": "1", "environment": "dev", "routes": ["it"]},
}  # fmt: skip
WHOLE = Disclosure(Show.WHOLE, frozenset(), str)
MASKED = Disclosure(Show.MASKED, frozenset({"reason"}), str)


def step(seq: int, kind: str = "model", digest: str = DIGEST, **kept) -> dict:
    return {"seq": seq, "kind": kind, "digest": digest, "intent": None, "answer": None, **kept}


def test_a_prompt_is_exact_while_its_digest_says_so():
    ((seq, asked),) = prompts(DECLARED, DOCUMENT, [step(0)])
    assert (seq, asked.is_exact) == (0, True)
    changed = Declared(AGENT, ["it", "office"], 1)
    ((_, asked),) = prompts(changed, DOCUMENT, [step(0)])
    assert not asked.is_exact


def test_a_call_whose_answer_was_lost_or_refused_is_asked_again_alike():
    steps = [step(0), step(1, answer=b""), step(2, answer=ANSWER), step(3, digest="other")]
    asked = dict(prompts(DECLARED, DOCUMENT, steps))
    assert [one.is_exact for one in asked.values()] == [True, True, True, False]
    assert [len(one.request.messages) for one in asked.values()] == [1, 1, 1, 3]


def test_an_answer_that_no_conversation_goes_on_from_ends_what_can_be_derived():
    odd = json.dumps({"messages": [{"role": "robot", "contents": [{"type": "image"}]}]}).encode()
    for answer in (odd, b"no JSON", b"[]", b"[" * 9_999, b'{"messages": [3]}', b'{"messages": {}}'):
        asked = dict(prompts(DECLARED, DOCUMENT, [step(0, answer=answer), step(1)]))
        assert asked[0].is_exact


def test_contents_are_told_in_order_and_by_their_rule():
    kept = [step(0, answer=ANSWER), step(1, "effect", "e", intent=b'{"total": "5"}', answer=b"{}")]
    model, effect = contents_of(RUN, kept, WHOLE)["steps"]
    assert model["prompt"]["messages"][0]["text"] == DOCUMENT.text
    assert model["answer"][0]["kind"] == "tool_call"
    assert json.loads(model["answer"][0]["text"])["reason"] == "for Jane"
    assert (effect["payload"], effect["result"]) == ('{"total":"5"}', "{}")
    masked = contents_of(RUN, kept, MASKED)
    assert "Jane" not in str(masked)
    assert masked["document"]["text"] == "(withheld: 20 characters)"


def test_what_is_gone_or_another_release_s_is_left_out():
    for missing in ({"spec": None}, {"target": None}, {"target": {"x": 1}}, {"document": b"{}"}):
        found = contents_of({**RUN, **missing}, [step(0, answer=ANSWER)], WHOLE)
        assert found["steps"][0]["prompt"] is None
        assert found["steps"][0]["answer"]
    assert contents_of({**RUN, "document": None}, [], WHOLE)["document"] is None

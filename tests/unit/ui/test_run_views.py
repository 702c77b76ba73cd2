"""What the page of one run shows, as values."""

from datetime import timedelta

import msgspec
import pytest

from bpa.control.disclosure import Show
from bpa.control.rest.content_schemas import Prompt, RunContents, Said, StepContents, laid_out
from bpa.control.rest.run_schemas import DeliveryView, MessageView, ReplayLink, Run, StageView
from bpa.ui.rendering import LONG_CHARS_MAX, _long
from bpa.ui.views import run_contents, run_facts, run_log
from bpa.ui.views.run import run_page
from bpa.ui.views.run_facts import Outside
from tests.unit.ui.hostile import HOSTILE
from tests.unit.ui.test_views import NOW
from tests.unit.ui.test_views import RUN as SUMMARY

RUN = Run(
    **msgspec.structs.asdict(SUMMARY), revision=3,
    input_ref={"queue": "in/voices", "sequence_number": 7},
    effect_key="k", replay_of=None, enqueued_at=NOW, lease_epoch=1, lease_expires_at=None,
    cancel_asked_at=None, cancel_asked_by=None, cancel_detail=None, waiting_nodes=None,
    agent_failures=0, crashes=0, infra_failures=0, worked_s=1.0, timings={}, costs={},
    outcome=None, unknown_calls=0, timeline=[], steps=[], deliveries=[], message=None, replays=[],
)  # fmt: skip
DEAD = msgspec.structs.replace(RUN, status="dead_lettered", reason="AgentError", ended_at=NOW)
NOWHERE = Outside()


def delivery(number: int, disposition: str) -> DeliveryView:
    return DeliveryView(
        delivery_id=number, sequence_number=number, owner="c", delivery_count=number - 7,
        received_at=NOW, settled_at=NOW, disposition=disposition,
    )  # fmt: skip


def test_a_run_leads_to_each_of_its_dead_letters_until_it_is_replayed():
    twice = [delivery(7, "dead_letter"), delivery(8, "dead_letter"), delivery(9, "lost")]
    dead = msgspec.structs.replace(DEAD, deliveries=twice)
    assert run_facts.letters(dead) == [
        ("in~voices:7", "/ui/dead-letters/in~voices%3A7"),
        ("in~voices:8", "/ui/dead-letters/in~voices%3A8"),
    ]
    assert "bpa dlq show in~voices:8" in [*run_facts.commands(dead)]
    assert run_facts.letters(msgspec.structs.replace(dead, replayed_as="r-2")) == []
    assert run_facts.letters(RUN) == []


def test_a_link_to_the_outside_has_the_run_s_ids_in_it():
    outside = Outside("https://t/{trace_id}?x={other}", "http://l/{run_id}/{trace_id}")
    page = run_page(RUN, None, NOW, outside=outside, contents=Show.HIDDEN)
    (trace,) = [link for link in page.about if link.name == "trace"]
    assert trace.outside == "https://t/t?x={other}"
    assert page.logs_address == f"http://l/{RUN.run_id}/t"
    page = run_page(RUN, None, NOW, outside=NOWHERE, contents=Show.HIDDEN)
    assert page.logs_address == ""
    assert not any(link.outside for link in page.about)


def test_a_message_says_what_came_with_it_and_what_was_not_kept():
    kept = MessageView(
        content_type=None, correlation_id="c", properties={"a": "1"}, properties_left_out=3
    )
    run = msgspec.structs.replace(RUN, message=kept, deliveries=[delivery(8, "abandon")])
    told = {link.name: link.text for link in run_facts.message(run)}
    assert (told["content type"], told["correlation id"]) == ("none said", "c")
    assert told["delivered"] == "2 times"
    assert run_facts.properties(kept) == [("a", "1"), ("…", "3 more were not kept")]
    assert "content type" not in {link.name for link in run_facts.message(RUN)}
    assert run_facts.properties(None) == []


def test_replays_are_told_from_the_original_on():
    def link(number: int, status: str | None) -> ReplayLink:
        return ReplayLink(
            run_id=RUN.run_id if number == 1 else f"r{number}", replay_number=number,
            edited=number == 1, requested_by="me" if number else None,
            requested_at=NOW if number else None, status=status, reason=None,
        )  # fmt: skip

    chain = [link(0, "dead_lettered"), link(1, "running"), link(2, None)]
    told = run_facts.replays(msgspec.structs.replace(RUN, replays=chain))
    assert [one.name for one in told] == ["the original", "replay 1", "replay 2"]
    assert [one.path for one in told] == ["/ui/runs/r0", "", "/ui/runs/r2"]
    assert told[1].about == "asked for by me, with another body"
    assert told[2].badge is None


def test_a_log_says_who_did_what_in_order():
    stage = StageView(
        name="think", span_id="s", parent_id="", started_at=NOW,
        ended_at=NOW + timedelta(seconds=2),
        attempt=2, node_id="n", step=None, error="AgentError", detail="raised", attributes={},
    )  # fmt: skip
    alive = msgspec.structs.replace(stage, span_id="s2", ended_at=None)
    note = {"audit_id": 1, "at": NOW, "actor": "ui:me", "action": "run.cancel",
            "detail": {"detail": "a mistake"}}  # fmt: skip
    run = msgspec.structs.replace(RUN, timeline=[stage, alive])
    first, second = run_log.log(run, [note], NOWHERE).lines
    assert (first.who, first.what, first.said) == ("ui:me", "asked to cancel it", "a mistake")
    assert (second.level, second.what, second.took) == ("error", "think, attempt 2", "2 s")
    assert second.said == "AgentError: raised"


def contents(prompt: Prompt | None, said: list[Said]) -> RunContents:
    steps = [
        StepContents(
            seq=0, kind="model", prompt=prompt, answer=said, payload=None, result=None
        ),
        StepContents(
            seq=1, kind="effect", prompt=None, answer=[], payload='{"a":1}', result=None
        ),
    ]  # fmt: skip
    return RunContents(run_id="r", shown=Show.WHOLE, document=None, steps=steps)


def test_what_only_looks_like_json_is_laid_out_as_it_is():
    for text in ("[" * 100_000, '{"cut": "of', "[x]", "prose", ""):
        assert laid_out(text) == text


@pytest.mark.parametrize("is_exact", [True, False])
def test_contents_say_what_each_text_is_and_whether_a_prompt_is_exact(is_exact: bool):  # noqa: FBT001
    call = Said(role="assistant", kind="tool_call", name="post_invoice", text='{"vendor":"V"}')
    prompt = Prompt(
        is_exact=is_exact, model="m", max_tokens=400, instructions="Do.", tools=[],
        tool_choice="required", messages=[Said(role="user", kind="text", name="", text="{cut")],
    )  # fmt: skip
    page = run_contents.contents_page(contents(prompt, [call]))
    assert "could not be read" in page.document.note
    asked, answered = page.steps[0].parts
    assert ("to the byte as it was sent" in asked.note) is is_exact
    assert [piece.text for piece in asked.pieces] == ["Do.", "{cut", "[]"]
    assert answered.pieces[0].name == "the model calls post_invoice"
    assert answered.pieces[0].text == '{\n  "vendor": "V"\n}'
    payload, result = page.steps[1].parts
    assert (payload.pieces[0].text, result.note) == ('{\n  "a": 1\n}', "none is recorded")
    nothing = run_contents.contents_page(contents(None, []))
    assert "cannot be derived" in nothing.steps[0].parts[0].note


def test_a_long_text_is_shown_harmless_and_bounded():
    shown = _long(HOSTILE + "x" * 100_000)
    assert len(shown) <= LONG_CHARS_MAX + 1
    assert not {"\0", "\x1b", "\u202e", "\u2066", "\u200b"} & {*shown}
    assert "\u0301" * 4 not in shown

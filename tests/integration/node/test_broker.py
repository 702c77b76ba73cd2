import asyncio
import contextlib
import dataclasses
import json
import socket
import time
from decimal import Decimal

import pytest
import pytest_asyncio
import structlog
from agent_framework import ChatResponse
from msgspec.structs import replace

from bpa.connectors.breaker import host_of
from bpa.connectors.http_out import HttpOut
from bpa.domain.journal import EffectCall, ModelCall, StepKind, target_digest_of
from bpa.domain.specs import Budgets, HttpOutSpec
from bpa.embedded.web import Listener, json_response
from bpa.errors import Reason, RunEnded, StaleLease
from bpa.node.broker import Broker
from bpa.node.frames import Call
from bpa.node.pricing import cost_of
from tests.integration.node.control_server import an_offer
from tests.integration.node.outside import DOCUMENT, PRICES, ROUTES, WIRE, RecordingLease, outside

WISH = {
    "messages": [
        {
            "type": "message",
            "role": "user",
            "contents": [{"type": "text", "text": DOCUMENT.text}],
        }
    ],
    "options": {"tool_choice": "required"},
}
OTHER = json.loads(json.dumps(WISH))
OTHER["messages"][0]["contents"][0]["text"] += " again"
ARGUMENTS = {
    "vendor": "Nordbyte Cloud Hosting GmbH",
    "route": "hosting",
    "confidence": 0.9,
    "reason": "It says hosting.",
}
ROOMY = Budgets(max_tokens=50_000)


@pytest_asyncio.fixture
async def world():
    async with outside() as world:
        yield world


def think(call_id=1, wish=None):
    return Call(call_id, "model", wish or WISH)


def post(call_id=2, **changes):
    return Call(call_id, "tool", {"name": "post_invoice", "arguments": {**ARGUMENTS, **changes}})


class Execution:
    """A broker with its lease; another one goes on where its journal ends."""

    def __init__(self, world, lease, *, deadline_s=30.0):
        self.lease = lease
        self.broker = Broker(
            world.outlets,
            lease,
            document=DOCUMENT,
            deadline_s=time.monotonic() + deadline_s,
            log=structlog.get_logger(),
        )

    async def serve(self, *calls):
        for call in calls:
            answer = await self.broker.serve(call)
            assert answer.ok
        return answer.value


def execution(world, *, journal=(), **spec):
    spec = {"document": WIRE, "routes": ROUTES, "journal": list(journal)} | spec
    return Execution(world, RecordingLease(an_offer("r1", **spec)))


@contextlib.contextmanager
def ends_with(reason, said=""):
    with pytest.raises(RunEnded) as caught:
        yield
    assert caught.value.reason is reason
    assert said in caught.value.detail
    assert "a-secret-key" not in caught.value.detail


# -- model calls -----------------------------------------------------------------------------------


async def test_a_model_call_is_reserved_then_answered_priced_and_recorded(world):
    run = execution(world)
    value = await run.serve(think())
    response = ChatResponse.from_dict(value)
    (call,) = [c for c in response.messages[0].contents if c.type == "function_call"]
    assert call.name == "post_invoice"
    intent, answered = run.lease.reported
    assert (intent.kind, intent.seq, intent.answer) == (StepKind.MODEL, 0, None)
    assert answered.digest == intent.digest
    assert json.loads(answered.answer) == value
    assert intent.reserved_tokens >= answered.usage.total_tokens > 0
    assert cost_of(answered.usage) == Decimal(answered.usage.cost_usd) > 0
    assert cost_of(answered.usage) <= Decimal(intent.call.reserved_usd)
    assert (answered.usage.price.source, answered.usage.price.version) == (
        PRICES.source,
        PRICES.version,
    )
    profile = run.lease.offer.run.agent.model_profile
    asked = ModelCall(
        provider="anthropic",
        model=profile.model,
        max_tokens=profile.max_output_tokens,
        reserved_usd=intent.call.reserved_usd,
    )
    assert intent.call == asked
    heard = {"tries": 1, "response_model": profile.model, "finish_reasons": ["tool_calls"]}
    response_id = answered.call.response_id
    assert answered.call == replace(asked, response_id=response_id, **heard)
    assert response_id.startswith("msg_")
    assert world.counts.tokens == answered.usage.total_tokens


async def test_no_answer_is_given_before_it_is_recorded(world):
    run = execution(world)

    def lose_the_answer(step):
        if step.answer is not None:
            raise StaleLease("moved on")

    run.lease.before_report = lose_the_answer
    with pytest.raises(StaleLease):
        await run.serve(think())
    assert [endpoint for endpoint, _ in await world.model_requests()] == ["messages"]


async def test_a_recorded_answer_is_never_paid_for_again(world):
    first = execution(world)
    value = await first.serve(think())
    again = execution(world, journal=first.lease.journal)
    assert await again.serve(think()) == value
    assert again.lease.reported == []
    assert len(await world.model_requests()) == 1
    assert world.counts.replayed == {"model": 1}


async def test_ids_that_the_framework_invents_do_not_change_a_request(world):
    first = execution(world)
    await first.serve(think())
    wish = json.loads(json.dumps(WISH))
    wish["messages"][0] |= {"message_id": "x", "author_name": None, "additional_properties": {}}
    wish["messages"][0]["contents"][0] |= {"id": "y", "annotations": None}
    await execution(world, journal=first.lease.journal).serve(think(wish=wish))
    assert len(await world.model_requests()) == 1


async def test_a_call_whose_answer_was_lost_is_made_again_and_both_are_charged(world):
    first = execution(world)
    await first.serve(think())
    lost = [first.lease.reported[0]]
    again = execution(world, journal=lost, budgets=Budgets(max_tokens=50_000))
    await again.serve(think())
    assert [s.seq for s in again.lease.reported] == [1, 1]
    assert len(await world.model_requests()) == 2


async def test_a_document_over_the_token_budget_ends_the_run_without_a_model_call(world):
    run = execution(world, budgets=Budgets(max_tokens=100))
    with ends_with(Reason.BUDGET_EXCEEDED, "tokens budget of 100: 0 used"):
        await run.serve(think())
    assert await world.model_requests() == [("messages/count_tokens", "counted")]
    assert run.lease.reported == []
    assert world.counts.exceeded == ["tokens"]


async def test_what_only_the_coarse_bound_forbids_is_counted_exactly_and_goes_on(world):
    roomy = execution(world)
    await roomy.serve(think())
    used = roomy.lease.reported[1].usage
    tight = execution(world, budgets=Budgets(max_tokens=used.input_tokens + 400 + 64))
    assert tight.lease.offer.run.budgets.max_tokens < roomy.lease.reported[0].reserved_tokens
    await tight.serve(think())
    assert [e for e, _ in await world.model_requests()] == [
        "messages",
        "messages/count_tokens",
        "messages",
    ]


@pytest.mark.parametrize("body", [{}, {"input_tokens": "many"}, [], "text"])
async def test_a_count_that_cannot_be_read_ends_the_run_for_its_reason(body):
    async def count(_request):
        return json_response(body)

    async with contextlib.AsyncExitStack() as stack:
        provider = Listener(
            count, host="127.0.0.1", port=0, port_setting="", max_body_bytes=1 << 20, finish_s=0.1
        )
        stack.push_async_callback(provider.aclose)
        await provider.start()
        world = await stack.enter_async_context(outside(model_url=provider.url))
        with ends_with(Reason.RETRIES_EXHAUSTED, "cannot be read"):
            await execution(world, budgets=Budgets(max_tokens=100)).serve(think())


@pytest.mark.parametrize("max_tokens", [100, 1_000_000], ids=["counting", "answering"])
async def test_a_missing_key_is_said_and_is_no_unreadable_answer(max_tokens):
    async with outside(api_key="") as world:
        with ends_with(Reason.AGENT_ERROR, "set anthropic.api_key"):
            await execution(world, budgets=Budgets(max_tokens=max_tokens)).serve(think())
        assert await world.model_requests() == []


async def test_usage_of_earlier_executions_counts_against_the_budget(world):
    first = execution(world)
    await first.serve(think())
    spent = first.lease.reported[1].usage.total_tokens
    run = execution(world, journal=first.lease.journal, budgets=Budgets(max_tokens=spent + 500))
    with ends_with(Reason.BUDGET_EXCEEDED, f"{spent} used"):
        await run.serve(think(wish=OTHER))


async def test_the_budget_of_calls_and_the_one_of_usd_are_kept(world):
    with ends_with(Reason.BUDGET_EXCEEDED, "calls budget of 0"):
        await execution(world, budgets=Budgets(max_calls=0)).serve(think())
    with ends_with(Reason.BUDGET_EXCEEDED, "usd budget of 0.001"):
        await execution(world, budgets=Budgets(max_usd=0.001)).serve(think())
    assert "messages" not in [endpoint for endpoint, _ in await world.model_requests()]


@pytest.mark.parametrize("status", [529, 429])
async def test_a_model_that_fails_thrice_is_asked_a_fourth_time_within_one_step(world, status):
    await world.script_model({"status": status, "times": 3})
    run = execution(world)
    await run.serve(think())
    assert len(await world.model_requests()) == 4
    assert [step.call.tries for step in run.lease.reported] == [0, 4]


async def test_every_try_after_a_lost_answer_is_a_step_of_its_own(world):
    await world.script_model({"behave": "drop", "times": 3})
    run = execution(world, budgets=ROOMY)
    await run.serve(think())
    assert [outcome for _, outcome in await world.model_requests()][:3] == ["dropped"] * 3
    assert [s.seq for s in run.lease.reported] == [0, 1, 2, 3, 3]
    assert [s.answer is None for s in run.lease.journal] == [True, True, True, False]
    assert [s.call.tries for s in run.lease.journal] == [0, 0, 0, 1]


async def test_the_cost_and_the_unknown_calls_account_for_what_the_provider_billed(world):
    await world.script_model({"behave": "malformed", "times": 2})
    run = execution(world, budgets=ROOMY)
    await run.serve(think())
    unknown = [s for s in run.lease.journal if s.answer is None]
    (recorded,) = [s for s in run.lease.journal if s.answer]
    totals = await world.model_totals()
    assert (totals["by_outcome"], len(unknown)) == ({"malformed": 2, "tool_use": 1}, 2)
    billed = totals["input_tokens"] + totals["output_tokens"]
    cost = recorded.usage.total_tokens
    assert cost < billed <= cost + sum(s.reserved_tokens for s in unknown)


async def test_a_lost_try_stays_charged_beside_the_answer_that_followed(world):
    measured = execution(world)
    await measured.serve(think())
    usage = measured.lease.reported[1].usage
    output_max = measured.lease.offer.run.agent.model_profile.max_output_tokens
    charged = usage.total_tokens + usage.input_tokens + output_max
    # What fits two calls with one answered, and not two with one lost.
    budgets = Budgets(max_tokens=2 * (usage.input_tokens + output_max + 100))
    await execution(world, journal=measured.lease.journal, budgets=budgets).serve(think(wish=OTHER))
    await world.script_model({"behave": "drop", "times": 1})

    run = execution(world, budgets=budgets)
    await run.serve(think())
    again = execution(world, journal=run.lease.journal, budgets=budgets)
    await again.serve(think())  # from the journal

    for execution_of_it in (run, again):
        with ends_with(Reason.BUDGET_EXCEEDED, f": {charged} used"):
            await execution_of_it.serve(think(wish=OTHER))


async def test_a_try_after_a_lost_one_that_no_longer_fits_is_not_made(world):
    measured = execution(world)
    await measured.serve(think())
    enough_for_one = measured.lease.reported[1].usage.input_tokens + 400 + 64
    await world.script_model({"behave": "drop"})
    run = execution(world, budgets=Budgets(max_tokens=enough_for_one))
    with ends_with(Reason.BUDGET_EXCEEDED, f"tokens budget of {enough_for_one}: "):
        await run.serve(think())
    made = [outcome for endpoint, outcome in await world.model_requests() if endpoint == "messages"]
    assert made[1:] == ["dropped"]
    assert [s.answer for s in run.lease.reported] == [None]


@pytest.mark.parametrize("is_lean", [False, True])
async def test_a_call_that_never_reached_the_provider_is_not_charged(is_lean):
    with socket.socket() as deaf:  # bound and not listening: every connection is refused
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with outside(model_url=url, lean=is_lean) as world:
            run = execution(world)
            with ends_with(Reason.RETRIES_EXHAUSTED, "cannot be reached"):
                await run.serve(think())
    assert [s.answer for s in run.lease.reported] == [None, b""]


async def test_a_model_that_fails_for_ever_exhausts_the_retries(world):
    await world.script_model({"status": 503, "retry_after_s": 0.01})
    run = execution(world)
    with ends_with(Reason.RETRIES_EXHAUSTED, "HTTP 503: told to fail by the script on the last"):
        await run.serve(think())
    assert len(await world.model_requests()) == 4
    assert run.lease.reported[-1].answer == b""
    assert run.lease.reported[-1].usage.total_tokens == 0


async def test_a_model_that_never_answers_stays_charged_as_reserved(world):
    await world.script_model({"behave": "drop"})
    run = execution(world, budgets=ROOMY)
    with ends_with(Reason.RETRIES_EXHAUSTED, "cannot be reached"):
        await run.serve(think())
    assert [(s.seq, s.answer) for s in run.lease.reported] == [(n, None) for n in range(4)]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"status": 400}, "HTTP 400: told to fail"),
        ({"status": 401}, "check anthropic.api_key"),
        ({"status": 403}, "check anthropic.api_key"),
        ({"status": 429, "message": "You have reached your monthly spend limit"}, "spend limit"),
    ],
)
async def test_an_error_that_stays_is_not_tried_again(world, rule, said):
    await world.script_model(rule)
    with ends_with(Reason.NON_RETRYABLE_HTTP_STATUS, said):
        await execution(world).serve(think())
    assert len(await world.model_requests()) == 1


async def test_a_refusal_ends_the_run_and_is_paid_for_once(world):
    await world.script_model({"behave": "refuse"})
    run = execution(world)
    with ends_with(Reason.AGENT_ERROR, "refused to answer"):
        await run.serve(think())
    assert run.lease.reported[-1].usage.total_tokens > 0
    with ends_with(Reason.AGENT_ERROR, "refused to answer"):
        await execution(world, journal=run.lease.journal).serve(think())
    assert len(await world.model_requests()) == 1


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"messages": []},
        {"messages": [{"role": "system", "contents": []}]},
        {"messages": [{"role": "user", "contents": [{"type": "uri", "uri": "http://evil"}]}]},
        {"messages": [{"role": "user", "contents": [{"type": "text", "text": 5}]}]},
        {"messages": [{"role": "user", "contents": "text"}]},
        {"messages": ["text"]},
        {"messages": WISH["messages"], "options": {"tool_choice": "evil"}},
        {"messages": [{"role": "user", "contents": []}] * 65},
    ],
)
async def test_a_wish_that_is_no_conversation_is_a_breach_of_the_protocol(world, wish):
    with ends_with(Reason.SANDBOX_PROTOCOL):
        await execution(world).serve(Call(1, "model", wish))
    assert await world.model_requests() == []


# -- the effect ------------------------------------------------------------------------------------


async def test_the_effect_is_recorded_and_sent_and_its_answer_goes_with_the_outcome(world):
    run = execution(world)
    await run.serve(post())
    (intent,) = run.lease.reported
    applied = run.broker.completed.effect
    assert (intent.kind, intent.effect_key, intent.answer) == (StepKind.EFFECT, "r1:1", None)
    (received,) = await world.received()
    assert received["key"] == "r1:1"
    body = json.loads(intent.intent)
    assert body["vendor"] == "Nordbyte Cloud Hosting GmbH"
    assert (body["total"], body["currency"], body["route"]) == ("1234.50", "EUR", "hosting")
    assert applied.intent == intent.intent
    host = host_of(world.target.url)
    asked = EffectCall(
        host=host,
        target_digest=target_digest_of(host, f"{world.target.url}/invoices"),
        method="POST",
        of_settings=True,
    )
    assert (intent.call, applied.call) == (asked, replace(asked, status=201, tries=1))
    assert run.broker.completed.result == json.loads(applied.answer)
    assert run.broker.completed.result == {
        "status": 201,
        "tries": 1,
        "vendor": "Nordbyte Cloud Hosting GmbH",
        "route": "hosting",
        "confidence": 0.9,
        "invoice_id": "NB-2026-0117",
        "total": "1234.50",
        "currency": "EUR",
    }


async def test_nothing_is_sent_whose_intent_is_not_recorded(world):
    run = execution(world)

    def refuse(step):
        raise StaleLease("moved on")

    run.lease.before_report = refuse
    with pytest.raises(StaleLease):
        await run.serve(post())
    assert await world.tries() == []


async def test_nothing_is_sent_under_a_lease_that_has_run_out(world):
    run = execution(world)

    def expire(step):
        run.lease.is_good = False

    run.lease.before_report = expire
    with pytest.raises(StaleLease):
        await run.serve(post())
    assert await world.tries() == []


async def test_no_further_try_starts_under_a_lease_that_has_run_out(world):
    await world.script_target({"status": 503})

    def expire(_try):
        run.lease.is_good = False

    sink = HttpOut(world.session, on_try=expire)
    world.outlets = dataclasses.replace(world.outlets, sink=sink)
    run = execution(world)
    with pytest.raises(StaleLease):
        await run.serve(post())
    assert [tried["tries"] for tried in await world.tries()] == [1]


async def test_a_new_execution_sends_the_bytes_of_the_first_intent(world):
    first = execution(world)
    await first.serve(post())
    intent = first.lease.reported[0]
    again = execution(world, journal=[intent])
    await again.serve(post())
    assert again.lease.reported == []
    assert again.broker.completed.effect.seq == intent.seq
    (tried,) = await world.tries()
    assert (len(await world.received()), tried["key"]) == (1, "r1:1")
    assert again.broker.completed.result["status"] == 201


async def test_a_repeat_gets_the_recorded_answer_and_other_arguments_are_refused(world):
    run = execution(world)
    assert await run.serve(post(), post(3)) == {"status": "posted"}
    assert len(run.lease.reported) == 1
    with ends_with(Reason.POLICY_DENIED, "may have 1 effect(s) (maxEffects)"):
        await run.serve(post(4, route="it"))
    assert [tried["tries"] for tried in await world.tries()] == [1]


async def test_a_deployment_may_allow_more_effects_each_under_a_key_of_its_own(world):
    run = execution(world, max_effects=2)
    assert await run.serve(post()) == {"status": "posted"}
    assert run.broker.completed is None
    assert await run.serve(post(3, route="it")) == {"status": "posted"}
    assert await run.serve(post(4)) == {"status": "posted"}
    with ends_with(Reason.POLICY_DENIED, "may have 2 effect(s) (maxEffects)"):
        await run.serve(post(5, route="general"))
    sent = {r["key"]: r["body"]["route"] for r in await world.received()}
    assert sent == {"r1:1": "hosting", "r1:1:2": "it"}
    assert {tried["tries"] for tried in await world.tries()} == {1}
    first, applied, second = run.lease.reported
    assert (first.seq, applied.seq, second.seq) == (0, 0, 1)
    assert applied.answer is not None  # recorded before the agent went on
    outcome = run.broker.completed
    assert (outcome.effect.seq, outcome.effect.effect_key) == (1, "r1:1:2")
    assert outcome.result["route"] == "hosting"
    assert [more["route"] for more in outcome.result["further"]] == ["it"]


async def test_a_further_effect_keeps_the_key_that_its_first_intent_took(world):
    first = execution(world, max_effects=3)
    await first.serve(post(), post(3, route="it"))
    journal = [s for s in first.lease.journal if s.answer is None or s.seq == 0]
    again = execution(world, max_effects=3, journal=journal)
    again_sent = await again.serve(post(), post(3, route="it"), post(4, route="general"))
    assert again_sent == {"status": "posted"}
    assert [s.effect_key for s in again.broker._journal.effects] == ["r1:1", "r1:1:2", "r1:1:3"]
    assert len(await world.received()) == 3
    assert again.broker.replayed == [0]


async def test_an_agent_that_finishes_has_posted_what_it_posted(world):
    run = execution(world, max_effects=3)
    assert run.broker.finish() is None
    await run.serve(post())
    outcome = run.broker.finish()
    assert (outcome.kind, outcome.result["route"]) == ("completed", "hosting")
    assert outcome.effect is None  # its answer is recorded already
    assert "further" not in outcome.result
    again = execution(world, max_effects=3, journal=run.lease.journal)
    with ends_with(Reason.AGENT_ERROR, "diverged after an effect"):
        again.broker.finish()


async def test_another_effect_than_the_recorded_one_that_lies_ahead_is_not_sent(world):
    first = execution(world, max_effects=2)
    await first.serve(post())
    again = execution(world, max_effects=2, journal=first.lease.journal)
    with ends_with(Reason.AGENT_ERROR, "diverged after an effect"):
        await again.serve(post(route="it"))
    assert len(await world.received()) == 1


# -- a target that was changed meanwhile -----------------------------------------------------------


async def at_another(world, journal):
    """Return an execution whose deployment posts elsewhere now, which is the same server here."""
    elsewhere = world.target.url.replace("127.0.0.1", "localhost")
    return execution(world, http_out=HttpOutSpec(base_url=elsewhere), journal=journal)


@pytest.mark.parametrize("lost", [{"drop": "after"}, {"status": 500}])
async def test_an_effect_that_one_target_may_have_applied_goes_to_no_other(world, lost):
    await world.script_target({**lost, "times": 4})
    first = execution(world)
    with ends_with(Reason.RETRIES_EXHAUSTED):
        await first.serve(post())
    (intent,) = an_intent_without_an_answer(first)
    assert intent.ended_at_ms == 0
    await world.script_target()
    moved = await at_another(world, [intent])
    with ends_with(Reason.OUTCOME_UNKNOWN, f"to {host_of(world.target.url)}, and the deployment"):
        await moved.serve(post())
    assert moved.lease.reported == []
    back = execution(world, journal=[intent])
    await back.serve(post())
    assert len(await world.received()) == 1


async def test_another_path_of_the_same_host_is_another_target_but_another_query_is_not(world):
    gateway, key = f"{world.target.url}?code=1", f"{world.target.url}?code=2"
    await world.script_target({"drop": "after", "times": 4})
    first = execution(world, http_out=HttpOutSpec(base_url=gateway))
    with ends_with(Reason.RETRIES_EXHAUSTED):
        await first.serve(post())
    (intent,) = an_intent_without_an_answer(first)
    await world.script_target()
    moved = execution(
        world, http_out=HttpOutSpec(base_url=f"{world.target.url}/erp-2"), journal=[intent]
    )
    with ends_with(Reason.OUTCOME_UNKNOWN, "posts to another path there now"):
        await moved.serve(post())
    same = execution(world, http_out=HttpOutSpec(base_url=key), journal=[intent])
    assert await same.serve(post()) == {"status": "posted"}
    assert len(await world.received()) == 1


async def test_an_effect_that_was_never_applied_goes_to_the_target_that_there_is_now(world):
    await world.script_target({"status": 503, "times": 4})
    first = execution(world)
    with ends_with(Reason.RETRIES_EXHAUSTED):
        await first.serve(post())
    (intent,) = an_intent_without_an_answer(first)
    moved = await at_another(world, [intent])
    assert await moved.serve(post()) == {"status": "posted"}
    (again,) = moved.lease.reported
    assert (again.ended_at_ms, again.intent) == (0, intent.intent)
    assert again.call.host.startswith("http://localhost")
    (received,) = await world.received()
    assert received["key"] == "r1:1"


async def test_a_try_of_unknown_end_stays_so_whatever_later_tries_come_to(world):
    await world.script_target({"status": 500, "times": 1}, {"status": 503, "times": 3})
    first = execution(world)
    with ends_with(Reason.RETRIES_EXHAUSTED, "HTTP 503"):
        await first.serve(post())
    await world.script_target({"status": 503, "times": 4})
    again = execution(world, journal=an_intent_without_an_answer(first))
    with ends_with(Reason.RETRIES_EXHAUSTED, "HTTP 503"):
        await again.serve(post())
    assert again.lease.reported == [], "nobody knows more than before"


# -- a target that is not idempotent ---------------------------------------------------------------

UNSAFE = HttpOutSpec(idempotent=False)


def an_intent_without_an_answer(run):
    return [s for s in run.lease.journal if s.kind is StepKind.EFFECT and s.answer is None]


async def test_an_effect_whose_outcome_nobody_knows_is_not_sent_again(world):
    await world.script_target({"drop": "after"})
    first = execution(world, http_out=UNSAFE)
    with ends_with(Reason.OUTCOME_UNKNOWN, "look there whether the effect was applied"):
        await first.serve(post())
    (intent,) = an_intent_without_an_answer(first)
    assert intent.ended_at_ms == 0
    await world.script_target()
    again = execution(world, http_out=UNSAFE, journal=[intent])
    with ends_with(Reason.OUTCOME_UNKNOWN, "an earlier execution ended while it sent r1:1"):
        await again.serve(post())
    (tried,) = await world.tries()
    assert (tried["tries"], tried["applied"]) == (1, True)


async def test_an_effect_that_is_known_not_to_be_applied_may_be_sent_by_a_later_execution(world):
    await world.script_target({"status": 503, "times": 4})
    first = execution(world, http_out=UNSAFE)
    with ends_with(Reason.RETRIES_EXHAUSTED, "HTTP 503"):
        await first.serve(post())
    (intent,) = an_intent_without_an_answer(first)
    assert intent.ended_at_ms > 0
    again = execution(world, http_out=UNSAFE, journal=[intent])
    assert await again.serve(post()) == {"status": "posted"}
    assert [s.ended_at_ms for s in again.lease.reported] == [0]  # it may be applied from now on
    assert len(await world.received()) == 1


@pytest.mark.parametrize("is_lost", [True, False])
async def test_a_lease_that_ends_between_two_tries_leaves_what_may_be_recorded(world, is_lost):
    await world.script_target({"status": 503})

    def refuse(_step):
        raise StaleLease("moved on")

    def end(_try):
        run.lease.is_good = False
        if is_lost:
            run.lease.before_report = refuse

    sink = HttpOut(world.session, on_try=end)
    world.outlets = dataclasses.replace(world.outlets, sink=sink)
    run = execution(world, http_out=UNSAFE)
    with pytest.raises(StaleLease):
        await run.serve(post())
    (intent,) = an_intent_without_an_answer(run)
    assert (intent.ended_at_ms == 0, len(run.lease.reported)) == (is_lost, 1 if is_lost else 2)
    assert [tried["tries"] for tried in await world.tries()] == [1]


async def test_an_agent_that_goes_another_way_after_an_effect_is_stopped(world):
    first = execution(world)
    await first.serve(think(), post())
    journal = [s for s in first.lease.journal if s.kind is StepKind.EFFECT]
    with ends_with(Reason.AGENT_ERROR, "diverged after an effect"):
        await execution(world, journal=journal).serve(think())


async def test_a_target_that_fails_for_ever_gets_four_tries_under_one_key(world):
    await world.script_target({"status": 503})
    run = execution(world)
    with ends_with(Reason.RETRIES_EXHAUSTED, "HTTP 503"):
        await run.serve(post())
    assert (run.broker.heard.status, run.broker.heard.tries) == (503, 4)
    (tried,) = await world.tries()
    assert (tried["key"], tried["tries"]) == ("r1:1", 4)


async def test_a_target_that_answers_422_ends_the_run_at_once(world):
    await world.script_target({"status": 422})
    run = execution(world)
    with ends_with(Reason.NON_RETRYABLE_HTTP_STATUS, "HTTP 422"):
        await run.serve(post())
    assert (run.broker.heard.status, run.broker.heard.tries) == (422, 1)


async def test_an_answer_lost_on_the_way_back_is_applied_once(world):
    await world.script_target({"drop": "after", "times": 1})
    run = execution(world)
    await run.serve(post())
    assert run.broker.completed.result["tries"] == 2
    assert run.broker.heard is None, "its step says what the target answered"
    assert len(await world.received()) == 1


async def test_the_deployment_says_where_the_effect_goes(world):
    url = f"{world.target.url}/elsewhere"
    await execution(world, http_out=HttpOutSpec(base_url=url)).serve(post())
    assert (await world.received())[0]["path"] == "/elsewhere"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Call(1, "tool", {"name": "shell", "arguments": {}}), Reason.POLICY_DENIED),
        (Call(1, "tool", {}), Reason.POLICY_DENIED),
        (post(route="elsewhere"), Reason.SCHEMA_VALIDATION_FAILED),
        (post(more="x"), Reason.SCHEMA_VALIDATION_FAILED),
        (Call(1, "tool", {"name": "post_invoice"}), Reason.SCHEMA_VALIDATION_FAILED),
    ],
)
async def test_a_tool_call_that_is_not_allowed_ends_the_run(world, call, reason):
    with ends_with(reason):
        await execution(world).serve(call)
    assert await world.tries() == []


# -- telemetry -------------------------------------------------------------------------------------


async def test_executions_at_the_same_time_do_not_mix(world):
    runs = [execution(world) for _ in range(4)]
    await asyncio.gather(*(run.serve(think(), post()) for run in runs))
    assert all(run.broker.completed.result["status"] == 201 for run in runs)


# -- the transport ---------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def lean():
    async with outside(lean=True) as world:
        yield world


async def test_the_lean_transport_answers_alike(world, lean):
    values = [await execution(one).serve(think()) for one in (world, lean)]
    for value in values:
        value.pop("response_id")
        value["messages"][0]["contents"][-1].pop("call_id")
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("rule", "reason", "said"),
    [
        ({"behave": "drop"}, Reason.RETRIES_EXHAUSTED, "cannot be reached"),
        ({"status": 503}, Reason.RETRIES_EXHAUSTED, "HTTP 503: told to fail"),
        ({"status": 401}, Reason.NON_RETRYABLE_HTTP_STATUS, "check anthropic.api_key"),
        ({"behave": "malformed"}, Reason.RETRIES_EXHAUSTED, "cannot be read"),
    ],
)
async def test_the_lean_transport_fails_alike(lean, rule, reason, said):
    await lean.script_model(rule)
    with ends_with(reason, said):
        await execution(lean, budgets=ROOMY).serve(think())
    assert len(await lean.model_requests()) == (4 if reason is Reason.RETRIES_EXHAUSTED else 1)


async def test_a_model_that_is_too_slow_for_the_timeout_is_tried_again():
    async with outside(lean=True, timeout_s=0.2) as world:
        await world.script_model({"latency_ms": 5_000, "times": 1})
        await execution(world).serve(think())

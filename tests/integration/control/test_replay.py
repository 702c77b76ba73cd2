"""Dead letters replayed over REST: real queue, Postgres and Valkey, and cuts at each point."""

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from azure.servicebus.amqp import AmqpAnnotatedMessage
from msgspec.structs import replace

from bpa.connectors import OutgoingMessage, SettlementLost
from bpa.connectors.service_bus import DeadLetterLocks, ServiceBusPublisher
from bpa.connectors.service_bus.client import SOCKET_POLL_S, close, connect, opened
from bpa.control import dead_letters as module
from bpa.control.burials import Swept
from bpa.control.timeline import timeline
from bpa.domain.journal import StepKind
from bpa.domain.runs import RunId, effect_key_of, run_id_of
from bpa.errors import Unavailable
from bpa.postgres import fetch_all
from bpa.telemetry.spans import replaying
from tests.eventually import eventually
from tests.integration.control.desk import COMPLETED, FAILED, Desk, buried_elsewhere, cut, desk_of
from tests.integration.control.fleet import AGENT, DEPLOYMENT, Fleet
from tests.integration.control.intaking import GOOD
from tests.integration.control.rest import rest_over
from tests.integration.control.sweeping import sweep_of, use_up

OTHER = GOOD.replace(b"A-1", b"A-2")
NOBODY = "018f0000-0000-8000-8000-000000000000"


@pytest_asyncio.fixture
async def desk(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[Desk]:
    async with desk_of(fleet, database, valkey_url) as desk:
        yield desk


async def test_a_replay_is_a_new_run_under_the_same_key_that_goes_on_from_what_was_paid(
    desk: Desk,
):
    sent = {"tenant": "acme", "urgent": True}
    original = await desk.dead(intend=True, message_id="m-1", properties=sent)
    (letter,) = await desk.letters()
    assert (letter["runId"], letter["runStatus"]) == (original, "dead_lettered")
    assert (letter["effects"], letter["effectsApplied"], letter["replayCount"]) == (1, 0, 0)

    (result,) = await desk.replay(requestedBy="ops@desk")

    assert result["result"] == "replayed"
    assert (result["inheritedSteps"], result["edited"]) == (2, False)
    assert desk.intaking.broker() == (1, 0, 0)
    message = await desk.waiting()
    key = effect_key_of(RunId(original), letter["sequenceNumber"])
    assert message.body == GOOD
    assert message.message_id not in ("m-1", None)
    assert message.properties == {
        **sent,
        "x-replayed": True,
        "x-replay-count": 1,
        "x-original-message-id": "m-1",
        "x-original-run-id": original,
        "x-original-dead-letter-reason": "RetriesExhausted",
        "x-replay-run-id": result["runId"],
        "traceparent": str(replaying(result["runId"])),
        "Diagnostic-Id": str(replaying(result["runId"])),
    }

    (run_id,) = await desk.take(1)
    assert run_id == result["runId"] != original
    run = await desk.run(run_id)
    first, received, *_ = timeline(run)
    assert (first.name, first.link) == ("replay", (await desk.run(original))["traceparent"])
    assert (received.name, received.parent_id) == ("receive", first.span_id)
    assert run["trace_id"] == replaying(run_id).trace_id
    assert (run["effect_key"], run["trace_id"] != "") == (key, True)
    assert [(s["seq"], s["inherited_from"]) for s in run["steps"]] == [(0, original), (2, original)]
    offer = await desk.offered(run_id)
    assert offer.run.effect_key == key
    assert [(s.answer, s.intent, s.inherited) for s in offer.run.journal] == [
        (b"it", b"", True),
        (None, b'{"total": "10.00"}', True),
    ]
    await desk.fleet.leases.acknowledge(RunId(run_id), offer.epoch)
    await desk.fleet.runs.finish(RunId(run_id), offer.epoch, COMPLETED)
    await eventually(lambda: desk.intaking.broker() == (0, 0, 0))

    old, new = await desk.run(original), await desk.run(run_id)
    assert (old["replay_of"], old["replayed_as"]) == (None, run_id)
    assert (new["replay_of"], new["replayed_as"]) == (original, None)
    assert (old["cost_usd"], old["tokens_used"]) == ("0.001", 920)
    assert (new["cost_usd"], new["tokens_used"]) == ("0", 0)
    (row,) = await desk.rows("replays")
    assert row["sent_at"] <= row["settled_at"]
    (audit,) = [row for row in await desk.rows("audit") if row["action"] == "dead_letter.replay"]
    assert (audit["actor"], audit["subject"]) == ("api:ops@desk", original)
    assert audit["detail"]["run_id"] == run_id
    assert desk.replayed("replayed") == 1


CUTS = {
    "before the send": (ServiceBusPublisher, "send_encoded", False, Unavailable("cut"), 0),
    "after the send": (ServiceBusPublisher, "send_encoded", True, Unavailable("cut"), 1),
    "before the dead letter goes": (DeadLetterLocks, "complete", False, SettlementLost("cut"), 1),
}


@pytest.mark.parametrize("point", CUTS)
async def test_a_replay_that_is_cut_off_and_repeated_makes_one_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, point: str
):
    owner, name, after, error, sent = CUTS[point]
    original = await desk.dead()
    async with cut(monkeypatch, owner, name, after=after, error=error):
        (first,) = await desk.replay()
    assert first["result"] in ("failed", "sent")
    assert desk.intaking.broker() == (sent, 0, 1)
    (letter,) = await desk.letters()
    assert letter["halfReplayedAs"] == first["runId"]
    begun = await desk.take(sent)

    (second,) = await desk.replay()

    assert second["runId"] == first["runId"]
    assert second["replayNumber"] == first["replayNumber"] == 1
    assert desk.intaking.broker()[2] == 0
    begun += await desk.take(desk.intaking.broker()[0])
    assert begun == [first["runId"]]
    await desk.finish(first["runId"])
    assert desk.intaking.broker() == (0, 0, 0)
    (row,) = await desk.rows("replays")
    assert row["replayed_run_id"].hex == original.replace("-", "")


async def test_a_message_sent_twice_for_one_replay_joins_its_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    await desk.dead()
    error = Unavailable("the answer was lost")
    async with cut(monkeypatch, ServiceBusPublisher, "send_encoded", after=True, error=error):
        (first,) = await desk.replay()
    (second,) = await desk.replay()
    assert (first["result"], second["result"]) == ("failed", "replayed")
    assert desk.intaking.broker() == (2, 0, 0)
    assert await desk.take(2) == [first["runId"]]
    await desk.finish(first["runId"])
    deliveries = (await desk.run(first["runId"]))["deliveries"]
    assert [delivery["disposition"] for delivery in deliveries] == ["complete", "complete"]


async def test_copies_of_one_message_have_one_successor(desk: Desk, monkeypatch):
    await desk.dead()
    error = Unavailable("the answer was lost")
    async with cut(monkeypatch, ServiceBusPublisher, "send_encoded", after=True, error=error):
        (first,) = await desk.replay()
    await desk.replay()
    await desk.take(2)
    run_id = first["runId"]
    epoch = await desk.fleet.granted(RunId(run_id))
    await desk.fleet.leases.acknowledge(RunId(run_id), epoch)
    await desk.fleet.runs.finish(RunId(run_id), epoch, FAILED)
    await eventually(lambda: desk.intaking.broker() == (0, 0, 2))

    results = await desk.replay()

    assert sorted(result["result"] for result in results) == ["replayed", "settled"]
    assert len({result["runId"] for result in results}) == 1
    assert desk.intaking.broker() == (1, 0, 0)


async def test_an_effect_that_was_applied_is_known_to_the_replay(desk: Desk):
    await desk.intaking.send(GOOD)
    (original,) = await desk.take(1)
    await desk.fail(original, intend=True, applied=True)
    (letter,) = await desk.letters()
    assert (letter["effects"], letter["effectsApplied"]) == (1, 1)
    (shown,) = (await desk.rest.get(f"/v1/dead-letters/{letter['id']}")).json["sent"]
    assert shown["effectKey"].startswith(original)
    assert shown["appliedAt"] is not None
    (result,) = await desk.replay()
    assert result["effectsApplied"] == 1
    (run_id,) = await desk.take(1)
    journal = (await desk.offered(run_id)).run.journal
    assert [s.answer for s in journal if s.kind is StepKind.EFFECT] == [b'{"status": 201}']


async def test_an_edited_body_gets_its_own_key_and_an_empty_journal(desk: Desk):
    original = await desk.dead(intend=True)
    body = base64.b64encode(OTHER).decode()
    (result,) = await desk.replay(body=body, mayRepeatEffect=True)
    assert (result["edited"], result["effectKey"], result["inheritedSteps"]) == (True, None, 0)
    message = await desk.waiting()
    assert message.body == OTHER
    (run_id,) = await desk.take(1)
    run = await desk.run(run_id)
    assert run["steps"] == []
    assert run["effect_key"] == effect_key_of(RunId(run_id), message.sequence_number)
    assert not run["effect_key"].startswith(original)


async def test_another_body_beside_what_the_target_may_have_is_refused_until_asked_for(desk: Desk):
    original = await desk.dead(intend=True)
    key = (await desk.run(original))["effect_key"]
    body = base64.b64encode(OTHER).decode()
    for is_dry in (True, False):
        (result,) = await desk.replay(body=body, dryRun=is_dry)
        assert (result["result"], result["repeatsEffect"]) == ("refused", True)
        assert f"may be at the target already under {key}" in result["why"]
    assert desk.intaking.broker() == (0, 0, 1)
    assert await desk.rows("replays") == []
    (result,) = await desk.replay(body=body, mayRepeatEffect=True)
    assert (result["result"], result["repeatsEffect"]) == ("replayed", True)
    assert f"may be at the target already under {key}" in result["why"]


async def test_the_same_bytes_are_no_edit(desk: Desk):
    original = await desk.dead()
    (result,) = await desk.replay(body=base64.b64encode(GOOD).decode())
    assert (result["edited"], result["inheritedSteps"]) == (False, 1)
    assert result["effectKey"].startswith(original)


async def test_a_half_done_replay_is_not_finished_with_another_body(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    await desk.dead()
    error = Unavailable("cut")
    async with cut(monkeypatch, ServiceBusPublisher, "send_encoded", after=False, error=error):
        (first,) = await desk.replay()
    (refused,) = await desk.replay(body=base64.b64encode(OTHER).decode())
    assert refused["result"] == "refused"
    assert first["runId"] in refused["why"]
    assert desk.intaking.broker() == (0, 0, 1)
    (finished,) = await desk.replay()
    assert (finished["result"], finished["runId"]) == ("replayed", first["runId"])


async def test_what_could_not_be_decoded_is_replayed_with_another_body(desk: Desk):
    address = desk.intaking.queue.emulator.connection_string
    sender = connect(address).get_queue_sender("invoices", socket_timeout=SOCKET_POLL_S)
    open_sender = await opened(sender, "invoices")
    await sender.send_messages(AmqpAnnotatedMessage(value_body={"total": 10}))
    await close(open_sender)
    await desk.take(1)
    await eventually(lambda: desk.intaking.broker() == (0, 0, 1))
    (letter,) = await desk.letters()
    assert letter["reason"] == "DeserializationError"

    (again,) = await desk.replay()
    assert again["result"] == "replayed"
    await desk.take(1)
    await eventually(lambda: desk.intaking.broker() == (0, 0, 1))
    (letter,) = await desk.letters()
    assert (letter["reason"], letter["replayCount"]) == ("DeserializationError", 1)

    asked = {"body": base64.b64encode(GOOD).decode(), "contentType": "application/json"}
    (mended,) = await desk.replay(**asked)
    (run_id,) = await desk.take(1)
    assert run_id == mended["runId"]
    assert (await desk.run(run_id))["status"] == "queued"


async def test_a_replay_of_a_replay_keeps_the_key_and_the_first_original(desk: Desk):
    original = await desk.dead(message_id="m-1")
    (first,) = await desk.replay()
    (run_id,) = await desk.take(1)
    await desk.fail(run_id, intend=True)
    (letter,) = await desk.letters()
    assert (letter["replayCount"], letter["originalRunId"]) == (1, original)

    (second,) = await desk.replay()

    assert second["effectKey"] == first["effectKey"]
    assert (second["replayNumber"], second["originalRunId"]) == (2, original)
    properties = (await desk.waiting()).properties
    assert properties["x-replay-count"] == 2
    assert properties["x-original-run-id"] == original
    assert properties["x-original-message-id"] == "m-1"
    (last,) = await desk.take(1)
    run = await desk.run(last)
    assert [s["inherited_from"] for s in run["steps"]] == [original, run_id]
    assert run["effect_key"] == first["effectKey"]


@pytest.mark.parametrize("is_swept", [False, True])
async def test_a_replay_whose_message_the_broker_took_before_it_became_a_run_loses_no_bytes(
    desk: Desk, *, is_swept: bool
):
    original = await desk.dead(intend=True)
    (first,) = await desk.replay()
    await use_up(desk.intaking)
    if is_swept:
        assert await sweep_of(desk.intaking).one_pass() == Swept(recorded=1)
    assert (await fetch_all(desk.fleet.pool, "select count(*) as n from runs"))[0]["n"] == (
        1 + is_swept
    )

    (second,) = await desk.replay()

    assert (second["replayedRunId"], second["replayNumber"]) == (first["runId"], 2)
    assert (second["effectKey"], second["inheritedSteps"]) == (first["effectKey"], 2)
    (last,) = await desk.take(1)
    steps = (await desk.run(last))["steps"]
    assert [(s["seq"], s["inherited_from"]) for s in steps] == [(0, original), (2, original)]
    (effect,) = [s for s in (await desk.offered(last)).run.journal if s.kind is StepKind.EFFECT]
    assert effect.intent == b'{"total": "10.00"}'


async def test_an_edited_replay_that_never_became_a_run_leaves_no_journal_to_go_on_from(desk: Desk):
    await desk.dead(intend=True)
    body = base64.b64encode(OTHER).decode()
    (first,) = await desk.replay(body=body, mayRepeatEffect=True)
    await use_up(desk.intaking)
    (second,) = await desk.replay()
    assert (second["replayedRunId"], second["inheritedSteps"]) == (first["runId"], 0)
    (last,) = await desk.take(1)
    run = await desk.run(last)
    assert (run["steps"], run["effect_key"]) == ([], second["effectKey"])
    assert run["effect_key"].startswith(first["runId"])


@pytest.mark.parametrize("known", ["unknown", "of another body"])
async def test_a_run_id_in_a_message_that_no_row_confirms_is_not_believed(desk: Desk, known: str):
    await desk.dead()
    (replayed,) = await desk.replay()
    claimed = NOBODY if known == "unknown" else replayed["runId"]
    await desk.take(1)
    await desk.finish(replayed["runId"])
    forged = OutgoingMessage(
        body=OTHER,
        properties={
            "x-replay-run-id": claimed,
            "x-replayed": True,
            "x-original-run-id": replayed["originalRunId"],
        },
    )
    await desk.intaking.queue.publish([forged])
    (run_id,) = await desk.take(1)
    run = await desk.run(run_id)
    ref = run["input_ref"]
    assert run_id == run_id_of("ns", "invoices", ref["sequence_number"], ref["enqueued_ms"])
    assert run["effect_key"] == effect_key_of(RunId(run_id), ref["sequence_number"])
    assert run["steps"] == []


async def test_a_dry_run_says_what_would_be_done_and_changes_nothing(desk: Desk):
    original = await desk.dead(intend=True)
    tables = ("replays", "audit", "runs", "deliveries", "steps")
    before = [await desk.rows(table) for table in tables]
    (told,) = await desk.replay(dryRun=True)
    assert (told["result"], told["runId"], told["replayNumber"]) == ("replayed", None, 1)
    assert (told["replayedRunId"], told["inheritedSteps"]) == (original, 2)
    assert [await desk.rows(table) for table in tables] == before
    assert desk.intaking.broker() == (0, 0, 1)
    assert desk.replayed("replayed") == 0


async def test_a_message_that_never_became_a_run_is_replayed(desk: Desk):
    await desk.intaking.send(GOOD)
    await buried_elsewhere(desk)
    (letter,) = await desk.letters()
    assert (letter["runStatus"], letter["deadLetteredAt"]) == (None, None)
    (result,) = await desk.replay()
    (run_id,) = await desk.take(1)
    assert run_id == result["runId"]
    key = effect_key_of(RunId(letter["runId"]), letter["sequenceNumber"])
    assert (await desk.run(run_id))["effect_key"] == key


async def test_a_living_run_s_dead_letter_is_refused(desk: Desk):
    await desk.intaking.send(GOOD)
    (run_id,) = await desk.take(1)
    (held,) = desk.intaking.settlement._held.pop(RunId(run_id))
    await held.source.dead_letter(held.message, "MaxDeliveryCountExceeded", "")
    (result,) = await desk.replay()
    assert (result["result"], "queued" in result["why"]) == ("refused", True)
    assert desk.intaking.broker() == (0, 0, 1)
    assert await desk.rows("replays") == []
    assert desk.replayed("refused") == 1


async def test_a_completed_run_s_dead_letter_is_only_removed(desk: Desk):
    await desk.intaking.send(GOOD)
    (run_id,) = await desk.take(1)
    (held,) = desk.intaking.settlement._held.pop(RunId(run_id))
    await held.source.dead_letter(held.message, "MaxDeliveryCountExceeded", "")
    await desk.intaking.finish(RunId(run_id))
    (edited,) = await desk.replay(body=base64.b64encode(OTHER).decode())
    assert edited["result"] == "refused"
    (result,) = await desk.replay()
    assert result["result"] == "settled"
    assert desk.intaking.broker() == (0, 0, 0)
    (audit,) = await desk.rows("audit")
    assert (audit["action"], audit["subject"]) == ("dead_letter.settle", run_id)


async def test_dead_letters_are_listed_by_reason_in_pages_and_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(3):
        await desk.intaking.send(GOOD)
        await buried_elsewhere(desk)
    await desk.dead()
    assert [x["reason"] for x in await desk.letters("?reason=RetriesExhausted")] == [
        "RetriesExhausted"
    ]
    seen: list[str] = []
    query = "?reason=MaxDeliveryCountExceeded&limit=2"
    while query:
        answer = await desk.rest.get(f"/v1/dead-letters{query}")
        seen += [letter["id"] for letter in answer.json["deadLetters"]]
        cursor = answer.json["nextCursor"]
        query = f"?reason=MaxDeliveryCountExceeded&limit=2&cursor={cursor}" if cursor else ""
    assert seen == ["invoices:1", "invoices:2", "invoices:3"]
    totals = (await desk.rest.get("/v1/dead-letters/totals")).json
    assert [(t["reason"], t["count"], t["complete"]) for t in totals] == [
        ("MaxDeliveryCountExceeded", 3, True),
        ("RetriesExhausted", 1, True),
    ]
    monkeypatch.setattr(module, "SCANNED_AT_MOST", 2)
    (total,) = (await desk.rest.get("/v1/dead-letters/totals")).json
    assert (total["count"], total["complete"]) == (2, False)
    short = (await desk.rest.get("/v1/dead-letters?reason=RetriesExhausted")).json
    assert (short["deadLetters"], short["nextCursor"] is None) == ([], False)


async def test_a_queue_that_the_broker_does_not_have_hides_no_dead_letters_of_others(desk: Desk):
    await desk.dead()
    spec = replace(DEPLOYMENT, agent_id="sorter", queue="a-queue-to-come")
    await desk.fleet.agents.create(replace(AGENT, agent_id="sorter"))
    await desk.fleet.deployments.create(spec)
    assert [letter["id"] for letter in await desk.letters()] == ["invoices:1"]
    assert len((await desk.rest.get("/v1/dead-letters/totals")).json) == 1
    asked = await desk.rest.get("/v1/dead-letters?queue=a-queue-to-come")
    assert (asked.status, "create it" in asked.json["detail"]) == (404, True)


async def test_one_dead_letter_is_shown_whole_without_secrets(desk: Desk):
    hostile = {"api-key": "s3cret", "note": "tab\tand\x1b[31m", "n": 7}
    original = await desk.dead(intend=True, properties=hostile)
    (listed,) = await desk.letters()
    shown = (await desk.rest.get(f"/v1/dead-letters/{listed['id']}")).json
    assert shown["properties"]["api-key"] == "(withheld)"
    assert "s3cret" not in str(shown)
    assert "\x1b" not in shown["properties"]["note"]
    assert shown["excerpt"].startswith('{"invoice_id"')
    assert shown["replay"]["action"] == "replay"
    assert [effect["effectKey"] for effect in shown["sent"]] == [shown["effectKey"]]
    assert shown["effectKey"].startswith(original)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/dead-letters/invoices:99", 404),
        ("/v1/dead-letters/nowhere:1", 404),
        ("/v1/dead-letters/nonsense", 404),
        ("/v1/dead-letters/invoices:%C2%B2", 404),
        ("/v1/dead-letters?queue=nowhere", 404),
        ("/v1/dead-letters?cursor=nonsense", 400),
        ("/v1/dead-letters?limit=0", 400),
    ],
)
async def test_what_is_not_there_is_said(desk: Desk, path: str, status: int):
    answer = await desk.rest.get(path)
    assert (answer.status, answer.json["status"]) == (status, status)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"ids": []},
        {"ids": ["invoices:1"] * 101},
        {"ids": ["invoices:1"], "contentType": "text/plain"},
        {"ids": ["invoices:1", "invoices:2"], "body": "e30="},
        {"ids": ["invoices:1"], "body": "no base64!"},
        {"ids": ["invoices:1"], "reason": "AgentError"},
    ],
)
async def test_a_replay_that_makes_no_sense_is_refused(desk: Desk, asked: dict[str, Any]):
    answer = await desk.rest.post("/v1/dead-letters:replay", asked)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request"), answer.text


async def test_a_dead_letter_that_is_gone_is_said_beside_those_that_are_not(desk: Desk):
    await desk.dead()
    results = await desk.replay("invoices:1", "invoices:99")
    assert [result["result"] for result in results] == ["replayed", "gone"]


async def test_a_dead_letter_that_somebody_else_has_is_busy(desk: Desk):
    await desk.dead()
    address = desk.intaking.queue.emulator.connection_string
    async with DeadLetterLocks(address, "invoices") as other:
        assert await other.next_of({1}) is not None
        (result,) = await desk.replay("invoices:1")
    assert result["result"] == "busy"
    assert await desk.rows("replays") == []


async def test_a_broker_that_is_away_is_unavailable(fleet: Fleet):
    async with rest_over(fleet) as rest:
        listed = await rest.get("/v1/dead-letters")
        replayed = await rest.post("/v1/dead-letters:replay", {"ids": ["invoices:1"]})
        assert (listed.status, replayed.status) == (503, 503)


async def test_retrying_a_dead_lettered_run_replays_its_message(desk: Desk):
    original = await desk.dead()
    answer = await desk.rest.post(f"/v1/runs/{original}:retry", {"requestedBy": "ops"})
    assert answer.status == 200, answer.text
    assert answer.json["replayed"]["replayedRunId"] == original
    again = await desk.rest.post(f"/v1/runs/{original}:retry")
    assert again.status == 409
    assert answer.json["replayed"]["runId"] in again.json["detail"]
    assert await desk.take(1) == [answer.json["replayed"]["runId"]]


async def test_retrying_a_run_that_backs_off_means_now(desk: Desk):
    await desk.intaking.send(GOOD)
    (run_id,) = await desk.take(1)
    late = "update runs set not_before = now() + interval '1 hour' where run_id = %(id)s::uuid"
    await fetch_all(desk.fleet.pool, late, id=run_id)
    answer = await desk.rest.post(f"/v1/runs/{run_id}:retry")
    assert (answer.status, answer.json["replayed"]) == (200, None)
    (due,) = await fetch_all(desk.fleet.pool, "select not_before <= now() as now from runs")
    assert due["now"]
    assert "woken" in desk.rest.told
    assert [row["action"] for row in await desk.rows("audit")] == ["run.retry"]


async def test_a_run_at_work_or_completed_is_not_retried(desk: Desk):
    await desk.intaking.send(GOOD)
    (run_id,) = await desk.take(1)
    epoch = await desk.fleet.granted(RunId(run_id))
    await desk.fleet.leases.acknowledge(RunId(run_id), epoch)
    working = await desk.rest.post(f"/v1/runs/{run_id}:retry")
    assert (working.status, "is running" in working.json["detail"]) == (409, True)
    await desk.fleet.runs.finish(RunId(run_id), epoch, COMPLETED)
    over = await desk.rest.post(f"/v1/runs/{run_id}:retry")
    assert (over.status, "is completed" in over.json["detail"]) == (409, True)
    nobody = await desk.rest.post(f"/v1/runs/{NOBODY}:retry")
    assert nobody.status == 404


async def test_a_replay_row_remembers_the_bytes_that_it_stands_for(desk: Desk):
    await desk.dead()
    await desk.replay()
    (row,) = await desk.rows("replays")
    assert row["body_sha256"] == hashlib.sha256(GOOD).digest()


async def test_a_body_can_be_had_byte_for_byte_and_shown_by_no_browser(
    desk: Desk,
):
    await desk.dead(message_id="m-1")
    (letter,) = await desk.letters()
    async with desk.rest.session.get(f"/v1/dead-letters/{letter['id']}/body") as answer:
        assert (answer.status, await answer.read()) == (200, GOOD)
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"] == "attachment"
    async with desk.rest.session.get("/v1/dead-letters/invoices:999/body") as answer:
        assert answer.status == 404

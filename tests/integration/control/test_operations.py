"""Operations over REST and in the background: frozen sets, rates, cuts, two replicas."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from bpa.connectors import OutgoingMessage
from bpa.connectors.service_bus import DeadLetterLocks, DeadLetterReader
from bpa.control import operations as module
from bpa.control.batches import jsonb
from bpa.control.operating import _QUERIES as QUERIES
from bpa.control.operating import AT_ONCE, Operating
from bpa.domain.runs import RunId
from bpa.errors import Unavailable
from bpa.postgres import fetch_all
from tests.eventually import eventually
from tests.integration.control.desk import Desk, cut, desk_of
from tests.integration.control.fleet import Fleet, arrival
from tests.integration.control.intaking import GOOD
from tests.integration.control.rest import Rest, rest_over

NOBODY = "018f0000-0000-8000-8000-000000000000"


@pytest_asyncio.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


@pytest_asyncio.fixture
async def desk(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[Desk]:
    async with desk_of(fleet, database, valkey_url) as desk:
        yield desk


def operating(rest: Rest, fleet: Fleet) -> Operating:
    return Operating(fleet.pool, fleet.runs, rest.services.replaying, lambda: None)


async def ask(rest: Rest, status: int = 201, **asked: Any) -> dict[str, Any]:
    answer = await rest.post("/v1/operations", asked)
    assert answer.status == status, answer.text
    return dict(answer.json)


async def shown(rest: Rest, operation: dict[str, Any]) -> dict[str, Any]:
    return dict((await rest.get(f"/v1/operations/{operation['id']}")).json)


async def results(rest: Rest, operation: dict[str, Any]) -> list[str | None]:
    answer = await rest.get(f"/v1/operations/{operation['id']}/items?limit=500")
    return [item["result"] for item in answer.json["items"]]


async def let_pass(fleet: Fleet, seconds: float) -> None:
    """Let time go by for operations, by Postgres's clock."""
    for table, column in (("operations", "next_at"), ("operation_items", "due_at")):
        await fetch_all(
            fleet.pool,
            f"update {table} set {column} = {column} - make_interval(secs => %(s)s)",
            s=seconds,
        )


async def queued(fleet: Fleet, *numbers: int) -> list[str]:
    return [str((await fleet.runs.receive(arrival(number))).run_id) for number in numbers]


async def test_what_comes_in_after_the_set_was_frozen_is_left_alone(rest: Rest, fleet: Fleet):
    first = await queued(fleet, 1, 2, 3)
    operation = await ask(
        rest, action="cancel", runs={"q": "status:queued"}, detail="sent twice", requestedBy="ops"
    )
    (late,) = await queued(fleet, 4)
    assert (operation["state"], operation["items"], operation["remaining"]) == ("running", 3, 3)
    assert rest.told == ["operation_started"]

    assert await operating(rest, fleet).one_pass() == 3

    done = await shown(rest, operation)
    assert (done["state"], done["counts"], done["remaining"]) == ("done", {"cancelled": 3}, 0)
    assert done["succeeded"] == 3
    assert [await fleet.status(RunId(one)) for one in first] == ["dead_lettered"] * 3
    assert await fleet.status(RunId(late)) == "queued"
    run = await fleet.history.get(RunId(first[0]))
    assert (run["reason"], run["detail"]) == ("Cancelled", "cancelled by api:ops: sent twice")
    audit = await fetch_all(
        fleet.pool, "select actor, action from audit where subject = %(id)s", id=operation["id"]
    )
    assert audit == [{"actor": "api:ops", "action": "operation.running"}]


async def test_a_set_that_is_another_by_now_is_refused(rest: Rest, fleet: Fleet):
    await queued(fleet, 1, 2)
    asked = {"action": "cancel", "runs": {"q": "status:queued"}}
    preview = (await rest.post("/v1/operations:preview", asked)).json
    assert (preview["count"], preview["lookedAtAll"]) == (2, True)
    assert [item["result"] for item in preview["sample"]] == ["cancelled", "cancelled"]
    await queued(fleet, 3)
    refused = await ask(rest, 409, **asked, expectedCount=2)
    assert "3 are found by now" in refused["detail"]
    assert (await rest.get("/v1/operations")).json["operations"] == []
    assert (await ask(rest, **asked, expectedCount=3))["items"] == 3


async def test_a_held_set_waits_for_its_start_and_is_let_go_by_a_stop(rest: Rest, fleet: Fleet):
    (run,) = await queued(fleet, 1)
    worker = operating(rest, fleet)
    held = await ask(rest, action="cancel", ids=[run], hold=True)
    assert held["state"] == "held"
    assert await worker.one_pass() == 0
    sample = (await rest.get(f"/v1/operations/{held['id']}/sample")).json
    assert [(one["subject"], one["result"]) for one in sample] == [(run, "cancelled")]

    path = f"/v1/operations/{held['id']}"
    started = await rest.post(f"{path}:start", {"detail": "at last", "ratePerS": 5})
    assert (started.json["state"], started.json["detail"]) == ("running", "at last")
    assert (await rest.post(f"{path}:start")).json["ratePerS"] == 5
    assert await worker.one_pass() == 1
    assert (await rest.post(f"{path}:stop")).status == 409

    other = await ask(rest, action="retry", ids=[run], hold=True)
    stopped = (await rest.post(f"/v1/operations/{other['id']}:stop")).json
    assert (stopped["state"], stopped["stoppedBy"]) == ("stopped", "api")
    assert (await rest.post(f"/v1/operations/{other['id']}:start")).status == 409


async def test_a_rate_is_kept_by_any_number_of_replicas_together(rest: Rest, fleet: Fleet):
    runs = await queued(fleet, *range(1, 6))
    operation = await ask(rest, action="cancel", ids=runs, ratePerS=2)
    one, another = operating(rest, fleet), operating(rest, fleet)
    assert await one.one_pass() == 2, "a second's worth at most"
    assert await pauses(fleet) == [1.0]
    await let_pass(fleet, 1)
    assert await another.one_pass() == 2
    await let_pass(fleet, 1)
    assert await one.one_pass() == 1
    assert await pauses(fleet) == [0.5]
    assert (await shown(rest, operation))["state"] == "done"

    slow = await ask(rest, action="cancel", ids=runs[:2], ratePerS=0.01)
    assert await one.one_pass() == 1
    assert await another.one_pass() == 0
    await let_pass(fleet, 50)
    assert await one.one_pass() == 0
    await let_pass(fleet, 50)
    assert await another.one_pass() == 1
    assert (await shown(rest, slow))["counts"] == {"cancelled": 2}


async def pauses(fleet: Fleet) -> list[float]:
    """Return for how many seconds each operation rests, from when its last items were taken."""
    rows = await fetch_all(
        fleet.pool,
        """
        select extract(epoch from next_at - max(due_at) + interval '60 s')::float8 as pause_s
        from operations join operation_items using (operation_id)
        group by operation_id, next_at
        """,
    )
    return [row["pause_s"] for row in rows]


async def test_what_two_replicas_record_at_once_is_all_counted(rest: Rest, fleet: Fleet):
    runs = await queued(fleet, 1, 2, 3)
    operation = await ask(rest, action="cancel", ids=runs)

    def told(*numbers: int) -> dict[str, Any]:
        rows = [{"nth": nth, "result": "cancelled", "why": "it is so"} for nth in numbers]
        return {"operation_id": operation["id"], "rows": jsonb(rows)}

    async with fleet.pool.connection() as first, first.transaction():
        await first.execute(QUERIES.record, told(1, 2))
        second = asyncio.create_task(fetch_all(fleet.pool, QUERIES.record, **told(2, 3)))

        async def waits() -> bool:
            waiting = "select 1 from pg_locks where not granted"
            return bool(await fetch_all(fleet.pool, waiting))

        await eventually(waits)
    assert await second == [{"finished": 1}], "the other one was recorded first"
    done = await shown(rest, operation)
    assert (done["state"], done["counts"], done["remaining"]) == ("done", {"cancelled": 3}, 0)


async def test_replicas_share_an_operation_and_no_item_is_done_by_two(rest: Rest, fleet: Fleet):
    runs = await queued(fleet, *range(1, 61))
    operation = await ask(rest, action="cancel", ids=runs)
    passes = await asyncio.gather(*(operating(rest, fleet).one_pass() for _ in range(3)))
    while more := await operating(rest, fleet).one_pass():
        passes.append(more)
    assert sum(passes) == 60
    assert max(passes) <= AT_ONCE
    done = await shown(rest, operation)
    assert (done["state"], done["counts"]) == ("done", {"cancelled": 60})
    tries = await fetch_all(fleet.pool, "select distinct tries from operation_items")
    assert tries == [{"tries": 1}]


async def test_what_is_stopped_leaves_the_rest_alone(rest: Rest, fleet: Fleet):
    runs = await queued(fleet, 1, 2, 3)
    operation = await ask(rest, action="cancel", ids=runs, ratePerS=1)
    worker = operating(rest, fleet)
    assert await worker.one_pass() == 1
    stopped = await rest.post(f"/v1/operations/{operation['id']}:stop", {"requestedBy": "ops"})
    assert (stopped.json["state"], stopped.json["remaining"]) == ("stopped", 2)
    await let_pass(fleet, 100)
    assert await worker.one_pass() == 0
    assert await results(rest, operation) == ["cancelled", None, None]
    assert [await fleet.status(RunId(one)) for one in runs].count("queued") == 2


async def test_runs_that_a_node_has_or_that_have_ended_say_what_became_of_them(
    rest: Rest, fleet: Fleet
):
    await fleet.register()
    running, _ = await fleet.running(1)
    (waiting,) = await queued(fleet, 2)
    await fleet.runs.cancel(RunId(waiting), "somebody", "before")
    asked = {"action": "cancel", "ids": [running, waiting, NOBODY]}
    operation = await ask(rest, **asked)
    assert await operating(rest, fleet).one_pass() == 3
    assert await results(rest, operation) == ["cancelling", "cancelled", "gone"]
    chosen = await rest.get(f"/v1/operations/{operation['id']}/items?result=gone&result=failed")
    assert [item["subject"] for item in chosen.json["items"]] == [NOBODY]


async def test_a_replica_that_dies_between_the_act_and_its_note_leaves_nothing_undone_or_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(2):
        await desk.dead()
    (waiting,) = await queued(desk.fleet, 900)
    fleet, rest = desk.fleet, desk.rest
    replay = await ask(rest, action="replay", deadLetters={"reason": "RetriesExhausted"})
    cancel = await ask(rest, action="cancel", ids=[waiting])
    worker = operating(rest, fleet)
    async with cut(monkeypatch, Operating, "_record", after=False, error=Killed()):
        for _ in range(2):
            with pytest.raises(Killed):
                await worker.one_pass()
    assert await desk.letters() == []
    assert await worker.one_pass() == 0, "the items are taken still"

    await let_pass(fleet, 61)
    assert await worker.one_pass() + await worker.one_pass() == 3

    assert (await shown(rest, replay))["counts"] == {"replayed": 2}
    assert (await shown(rest, cancel))["counts"] == {"cancelled": 1}
    items = (await rest.get(f"/v1/operations/{replay['id']}/items")).json["items"]
    replays = {str(row["run_id"]) for row in await desk.rows("replays")}
    assert {item["runId"] for item in items} == replays
    assert len(replays) == 2
    assert desk.intaking.broker() == (2, 0, 0)


class Killed(Exception):
    """What a process that is killed does not live to see."""


async def test_dead_letters_are_grouped_by_cause_and_a_group_is_replayed(desk: Desk):
    rest = desk.rest
    first = await desk.dead()
    await desk.dead(GOOD.replace(b"A-1", b"A-2"))
    await desk.intaking.queue.publish([OutgoingMessage(body=b"{")])
    await desk.take(1)
    await eventually(lambda: desk.intaking.broker()[2] == 3)
    groups = (await rest.get("/v1/dead-letters/groups")).json
    assert [(one["reason"], one["count"]) for one in groups] == [
        ("RetriesExhausted", 2),
        ("DeserializationError", 1),
    ]
    group = groups[0]
    assert group["cause"] == "HTTP 503 four times"
    assert group["complete"]
    assert group["firstEnqueuedAt"] < group["lastEnqueuedAt"]
    inside = await desk.letters(f"?group={group['id']}")
    assert inside[0]["id"] == group["sampleId"]
    assert (inside[0]["runId"], inside[0]["cause"]) == (first, group["cause"])
    totals = (await rest.get("/v1/dead-letters/totals")).json
    assert [(one["reason"], one["count"]) for one in totals] == [
        ("DeserializationError", 1),
        ("RetriesExhausted", 2),
    ]

    chosen = {"action": "replay", "deadLetters": {"group": group["id"]}}
    preview = (await rest.post("/v1/operations:preview", chosen)).json
    assert (preview["count"], preview["lookedAtAll"]) == (2, True)
    assert {item["result"] for item in preview["sample"]} == {"replayed"}
    assert len(await desk.letters()) == 3
    operation = await ask(rest, **chosen, requestedBy="ops@desk")
    await desk.dead(GOOD.replace(b"A-1", b"A-3"))
    assert await operating(rest, desk.fleet).one_pass() == 2
    assert (await shown(rest, operation))["counts"] == {"replayed": 2}
    assert [one["count"] for one in (await rest.get("/v1/dead-letters/groups")).json] == [1, 1]
    assert {row["requested_by"] for row in await desk.rows("replays")} == {"api:ops@desk"}


async def test_runs_are_retried_by_a_search_and_those_replayed_before_are_none_of_it(desk: Desk):
    rest, fleet = desk.rest, desk.fleet
    dead = [await desk.dead(), await desk.dead(GOOD.replace(b"A-1", b"A-2"))]
    waiting = await queued(fleet, 900)
    (replayed,) = await desk.replay((await desk.letters())[0]["id"])
    assert replayed["replayedRunId"] == dead[0]
    chosen = {"action": "retry", "runs": {"q": "error:RetriesExhausted"}}
    assert (await ask(rest, **chosen, hold=True))["items"] == 1

    operation = await ask(rest, action="retry", ids=[*dead, *waiting])
    assert await operating(rest, fleet).one_pass() == 3
    items = (await rest.get(f"/v1/operations/{operation['id']}/items")).json["items"]
    assert [item["result"] for item in items] == ["refused", "replayed", "hurried"]
    assert f"as run {replayed['runId']}" in items[0]["why"]


async def test_a_letter_that_somebody_holds_is_tried_again_later(desk: Desk):
    await desk.dead()
    (letter,) = await desk.letters()
    rest, fleet = desk.rest, desk.fleet
    operation = await ask(rest, action="replay", ids=[letter["id"]])
    worker = operating(rest, fleet)
    bus = desk.intaking.queue.emulator.connection_string
    async with DeadLetterLocks(bus, "invoices") as locks:
        held = await locks.next_of([letter["sequenceNumber"]])
        assert held is not None
        assert await worker.one_pass() == 0
        (item,) = (await rest.get(f"/v1/operations/{operation['id']}/items")).json["items"]
        assert (item["result"], item["tries"]) == (None, 1)
        assert "somebody else has it" in item["why"]
        assert await worker.one_pass() == 0, "it is left alone for a while"
        await locks.give_back(held)
    await let_pass(fleet, 5)
    assert await worker.one_pass() == 1
    assert (await shown(rest, operation))["counts"] == {"replayed": 1}


async def test_a_broker_that_does_not_answer_is_waited_for_in_words(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    await desk.dead()
    rest, fleet = desk.rest, desk.fleet
    operation = await ask(rest, action="replay", deadLetters={})
    worker = operating(rest, fleet)
    away = Unavailable("the broker is away")
    async with cut(monkeypatch, DeadLetterReader, "find", after=False, error=away):
        assert await worker.one_pass() == 0
    assert (await shown(rest, operation))["trouble"] == "the broker is away"
    await let_pass(fleet, 6)
    assert await worker.one_pass() == 1
    done = await shown(rest, operation)
    assert (done["trouble"], done["counts"]) == ("", {"replayed": 1})


async def test_letters_that_there_was_no_time_to_look_at_are_said_to_be_none_of_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    await desk.dead()
    await desk.dead(GOOD.replace(b"A-1", b"A-2"))
    monkeypatch.setattr("bpa.control.dead_letters.CHOOSING_S", -1.0)
    operation = await ask(desk.rest, action="replay", deadLetters={}, hold=True)
    assert (operation["items"], operation["lookedAtAll"]) == (1, False)


async def test_more_than_an_operation_takes_is_refused(
    rest: Rest, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
):
    await queued(fleet, 1, 2, 3)
    monkeypatch.setattr(module, "ITEMS_AT_MOST", 2)
    refused = await ask(rest, 400, action="cancel", runs={"q": ""})
    assert "more than 2 are found" in refused["detail"]
    first = await queued(fleet, 1)
    monkeypatch.undo()
    oldest = await ask(rest, action="cancel", runs={"q": ""}, limit=1, hold=True)
    items = (await rest.get(f"/v1/operations/{oldest['id']}/items")).json["items"]
    assert [item["subject"] for item in items] == first


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({"action": "cancel"}, 400, "give either runs or ids"),
        ({"action": "cancel", "deadLetters": {}}, 400, "give either runs or ids"),
        ({"action": "replay", "runs": {"q": ""}}, 400, "give either deadLetters or ids"),
        ({"action": "cancel", "runs": {"q": ""}, "ids": [NOBODY]}, 400, "either runs or ids"),
        ({"action": "cancel", "runs": {"q": "colour:red"}}, 400, "no qualifier"),
        ({"action": "cancel", "runs": {"q": "status:completed"}}, 400, "cannot be cancelled"),
        ({"action": "retry", "runs": {"q": "status:running"}}, 400, "cannot be retried"),
        ({"action": "cancel", "runs": {"q": ""}}, 404, "nothing to cancel"),
        ({"action": "cancel", "ids": ["x"]}, 404, "its id is a UUID"),
        ({"action": "replay", "ids": ["x"]}, 404, "an id reads queue:number"),
        ({"action": "replay", "deadLetters": {"queue": "no"}}, 404, "no deployment feeds"),
        ({"action": "explode", "ids": [NOBODY]}, 400, ""),
        ({"action": "cancel", "ids": [NOBODY], "ratePerS": 0}, 400, ""),
        ({"action": "cancel", "ids": []}, 400, ""),
        ({"action": "cancel", "ids": [NOBODY], "limit": 100_001}, 400, ""),
    ],
)
async def test_what_makes_no_sense_is_refused(
    rest: Rest, asked: dict[str, Any], status: int, told: str
):
    answer = await ask(rest, status, **asked)
    assert told in answer["detail"]


async def test_the_same_request_again_is_the_same_operation(rest: Rest, fleet: Fleet):
    runs = await queued(fleet, 1, 2)
    asked = {"id": str(uuid.uuid4()), "action": "cancel", "ids": runs}
    first = await ask(rest, **asked)
    assert await operating(rest, fleet).one_pass() == 2
    again = await ask(rest, **asked)
    assert (again["id"], again["state"]) == (first["id"], "done")
    await ask(rest, 409, **{**asked, "action": "retry"})
    assert (await rest.get(f"/v1/operations/{NOBODY}")).status == 404
    assert (await rest.get("/v1/operations/x")).status == 404
    for verb in ("start", "stop"):
        assert (await rest.post(f"/v1/operations/{NOBODY}:{verb}")).status == 404


async def test_operations_and_their_items_are_listed_a_page_at_a_time(rest: Rest, fleet: Fleet):
    runs = await queued(fleet, 1, 2, 3)
    made = [(await ask(rest, action="cancel", ids=runs, hold=True))["id"] for _ in range(3)]
    page = (await rest.get("/v1/operations?limit=2")).json
    assert [one["id"] for one in page["operations"]] == made[:0:-1]
    rest_of = (await rest.get(f"/v1/operations?limit=2&cursor={page['nextCursor']}")).json
    assert ([one["id"] for one in rest_of["operations"]], rest_of["nextCursor"]) == (made[:1], None)
    path = f"/v1/operations/{made[0]}/items"
    answer = await rest.get(f"{path}?limit=2")
    cursor = answer.json["nextCursor"]
    assert quote(cursor) in answer.headers["Link"]
    last = (await rest.get(f"{path}?limit=2&cursor={cursor}")).json
    assert ([item["nth"] for item in last["items"]], last["nextCursor"]) == ([3], None)
    assert (await rest.get(f"/v1/operations/{made[1]}/items?cursor={cursor}")).status == 400
    assert (await rest.get(f"{path}?cursor=nonsense")).status == 400


async def test_what_ended_long_ago_or_was_never_started_is_removed(rest: Rest, fleet: Fleet):
    runs = await queued(fleet, 1)
    old = await ask(rest, action="cancel", ids=runs)
    held = await ask(rest, action="cancel", ids=runs, hold=True)
    young = await ask(rest, action="retry", ids=runs, hold=True)
    worker = operating(rest, fleet)
    assert await worker.one_pass() == 1
    assert await worker.forget() == 0
    shift = (
        "update operations set {} = now() - make_interval(days => {}) where operation_id = %(id)s"
    )
    await fetch_all(fleet.pool, shift.format("ended_at", 31), id=old["id"])
    await fetch_all(fleet.pool, shift.format("created_at", 2), id=held["id"])
    assert await worker.forget() == 2
    left = (await rest.get("/v1/operations")).json["operations"]
    assert [one["id"] for one in left] == [young["id"]]
    assert len(await fetch_all(fleet.pool, "select nth from operation_items")) == 1


async def test_progress_is_named_on_the_stream_of_changes(rest: Rest, fleet: Fleet):
    runs = await queued(fleet, 1)
    operation = await ask(rest, action="cancel", ids=runs)
    async with rest.session.get("/v1/events?topic=operation") as stream:
        assert b"refetch" in await anext(part async for part in events(stream))
        await operating(rest, fleet).one_pass()
        told = await anext(part async for part in events(stream))
    assert b"event: operation" in told
    assert operation["id"].encode() in told


async def events(stream: Any) -> AsyncIterator[bytes]:
    """Yield events, without the comments and the word on when to come back."""
    while True:
        event = b""
        while (line := await stream.content.readline()).strip():
            event += line
        if event.startswith(b"event:"):
            yield event


async def test_the_next_items_of_many_are_found_without_sorting_what_is_left(fleet: Fleet):
    await fetch_all(
        fleet.pool,
        """
        with made as (
            insert into operations (
                operation_id, action, chosen, requested_by, state, looked_at_all, items
            )
            values (gen_random_uuid(), 'cancel', '{}', 'ops', 'running', true, 20000)
            returning operation_id
        ),
        frozen as (
            insert into operation_items (operation_id, nth, subject)
            select operation_id, nth, gen_random_uuid()::text
            from made cross join generate_series(1, 20000) as nth
        )
        select from made
        """,
    )
    taking = "explain (costs off) " + QUERIES.take
    rows = await fetch_all(fleet.pool, taking, at_most=AT_ONCE, for_s=30.0)
    plan = "\n".join(row["QUERY PLAN"] for row in rows)
    chosen = plan[plan.index("CTE chosen") : plan.index("CTE taken")]
    assert "on operation_items" in chosen
    assert "Sort" not in chosen, "statistics know nothing of what was just written"

"""The admin UI over real stores: each page, each form, and what hostile text does to them."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from psycopg.types.json import Jsonb

import bpa.ui
from bpa.connectors import OutgoingMessage
from bpa.control.operating import Operating
from bpa.control.readiness import State
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.journal import Step, StepKind, Usage
from tests.eventually import eventually
from tests.integration.control.desk import Desk, desk_of
from tests.integration.control.fleet import DEP_ID, Fleet
from tests.integration.control.pages_read import check_harmless, read_page
from tests.integration.control.rest import Answer, Rest, rest_over
from tests.unit.ui.hostile import HOSTILE as WITH_NUL

OURS = {"Sec-Fetch-Site": "same-origin"}
HOSTILE = WITH_NUL.replace("\0", "")
NOBODY = "018f0000-0000-8000-8000-000000000000"


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


@pytest_asyncio.fixture
async def desk(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[Desk]:
    async with desk_of(fleet, database, valkey_url) as desk:
        yield desk


async def post(rest: Rest, path: str, **fields: str) -> Answer:
    return await rest.request("POST", path, data=fields, headers=OURS, allow_redirects=False)


@pytest.mark.parametrize("place", ["", "/runs", "/fleet", "/deployments", "/costs", "/operations"])
async def test_an_empty_system_is_shown_and_says_what_to_do(rest: Rest, place: str):
    answer = await rest.get(f"/ui{place}")
    assert answer.status == 200, answer.text
    page = check_harmless(answer.text)
    assert "h1" in page.tags
    if place != "/deployments":  # one is there
        assert "bpa " in page.text


def cookie_of(answer: Answer) -> str:
    return answer.headers["Set-Cookie"].partition(";")[0]


async def test_every_answer_forbids_what_is_not_ours(rest: Rest):
    for path in ("/ui", "/ui/nothing", f"/ui/runs/{NOBODY}"):
        headers = (await rest.get(path)).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Type"] == "text/html; charset=utf-8"


async def test_files_are_named_by_their_content_and_kept_for_good(rest: Rest):
    page = read_page((await rest.get("/ui")).text)
    names = [link for link in page.links if link.startswith("/ui/static/")]
    assert {name.split("/")[-1].split(".")[0] for name in names} >= {"bpa", "htmx", "mark"}
    for name in names:
        answer = await rest.get(name)
        assert answer.status == 200
        assert "immutable" in answer.headers["Cache-Control"]
    assert (await rest.get("/ui/static/bpa.000000000000.css")).status == 404


async def test_htmx_gets_a_page_s_living_part_alone(rest: Rest):
    part = (await rest.get("/ui/fleet", headers={"HX-Request": "true"})).text
    assert part.lstrip().startswith('<div id="live"')
    assert "<html" not in part
    assert part.strip().removesuffix("</div>").strip() in (await rest.get("/ui/fleet")).text


async def test_what_is_not_there_is_a_page(rest: Rest):
    for path in ("/ui/nothing", f"/ui/runs/{NOBODY}", "/ui/fleet/nobody", "/ui/runs/x%2F..%2F"):
        answer = await rest.get(path)
        assert answer.status == 404, path
        assert "There is no such thing" in check_harmless(answer.text).text
    assert (await rest.get("/v1/nothing")).headers["Content-Type"] == "application/problem+json"


async def test_before_the_schema_is_there_a_page_says_what_is_waited_for(fleet: Fleet):
    state = State(started=False, reasons=["Postgres has not answered yet"])
    async with rest_over(fleet, lambda: state) as rest:
        answer = await rest.get("/ui")
        page = check_harmless(answer.text)
        assert answer.status == 503
        assert "Postgres has not answered yet" in page.text
        style, *_ = [link for link in page.links if link.endswith(".css")]
        assert (await rest.get(style)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://elsewhere"},
        {},
    ],
)
async def test_what_another_site_sends_changes_nothing(rest: Rest, fleet: Fleet, headers):
    await fleet.register()
    answer = await rest.request("POST", "/ui/fleet/node-1/cordon", data={}, headers=headers)
    assert answer.status == 403
    assert (await fleet.nodes.get("node-1"))["cordoned_at"] is None


async def test_a_foreign_name_for_loopback_is_answered_with_nothing(rest: Rest):
    answer = await rest.get("/ui", headers={"Host": "evil.example"})
    assert answer.status == 403
    assert "answers to localhost alone" in answer.text


async def test_a_run_is_cancelled_and_the_page_says_so_once(rest: Rest, fleet: Fleet):
    run_id = await fleet.queued()
    page = await rest.get(f"/ui/runs/{run_id}")
    assert "Cancel the run" in page.text
    answer = await post(rest, f"/ui/runs/{run_id}/cancel", detail="a mistake")
    assert (answer.status, answer.headers["Location"]) == (303, f"/ui/runs/{run_id}")
    assert (await fleet.history.get(run_id))["detail"] == "cancelled by ui:local: a mistake"
    said = await rest.get(f"/ui/runs/{run_id}", headers={"Cookie": cookie_of(answer)})
    assert "The run is cancelled." in said.text
    assert cookie_of(said) == 'bpa_said=""'
    again = await post(rest, f"/ui/runs/{run_id}/cancel")
    assert again.status == 409


async def test_a_node_is_drained_moved_forced_and_given_back(rest: Rest, fleet: Fleet):
    await fleet.register()
    run_id, _ = await fleet.running()
    assert (await post(rest, "/ui/fleet/node-1/drain", deadline="10m")).status == 303
    page = read_page((await rest.get("/ui/fleet/node-1")).text)
    assert "1 run left" in page.text
    assert str(run_id)[-8:] in page.text
    assert (await post(rest, "/ui/fleet/node-1/drain", deadline="soon")).status == 400
    assert (await post(rest, "/ui/fleet/node-1/drain", deadline="9999h")).status == 400
    assert (await post(rest, "/ui/fleet/node-1/drain", force="1")).status == 303
    assert "Deadline passed" in (await rest.get("/ui/fleet/node-1")).text
    assert (await post(rest, "/ui/fleet/node-1/uncordon")).status == 303
    assert (await fleet.nodes.get("node-1"))["cordoned_at"] is None
    (drained,) = await rows(fleet, "select actor from audit where action = 'node.uncordon'")
    assert drained["actor"] == "ui:local"


async def test_the_runs_that_were_marked_are_cancelled_and_no_others(rest: Rest, fleet: Fleet):
    first, second, third = [await fleet.queued(number) for number in (1, 2, 3)]
    page = await rest.get("/ui/runs/many", params={"q": "status:queued"})
    assert all(str(one) in page.text for one in (first, second, third))
    await fleet.runs.cancel(second, "somebody", "sooner")
    form = [("id", first), ("id", second), ("detail", "a flood"), ("action", "cancel")]
    path = await started(rest, form)
    operating = Operating(fleet.pool, fleet.runs, rest.services.replaying, lambda: None)
    assert await operating.one_pass() == 2
    shown = check_harmless((await rest.get(path)).text)
    assert "Cancel 2 runs" in shown.text
    assert "2 cancelled" in shown.text
    assert (await fleet.history.get(first))["detail"] == "cancelled by ui:local: a flood"
    assert await fleet.status(third) == "queued"
    assert (await post(rest, "/ui/operations", action="cancel")).status == 400
    assert (await post(rest, "/ui/operations", action="explode", id=str(third))).status == 400
    assert (await post(rest, "/ui/operations", action="cancel", q="acme")).status == 404


async def started(rest: Rest, form: list[tuple[str, object]]) -> str:
    """Send the form that starts an operation; return where its page is."""
    answer = await rest.request(
        "POST", "/ui/operations", data=form, headers=OURS, allow_redirects=False
    )
    assert answer.status == 303, answer.text
    return str(answer.headers["Location"])


async def test_all_that_a_search_finds_is_held_until_somebody_has_seen_the_count(
    rest: Rest, fleet: Fleet
):
    first = await fleet.queued(1)
    operating = Operating(fleet.pool, fleet.runs, rest.services.replaying, lambda: None)
    found = await rest.get("/ui/runs", params={"q": "status:queued"})
    assert "Act on all 1 run …" in found.text
    form = [("q", "status:queued"), ("hold", "1"), ("action", "cancel")]
    path = await started(rest, form)
    later = await fleet.queued(2)
    held = check_harmless((await rest.get(path)).text)
    for words in ("Cancel 1 run", "held, not started", "it waits, and ends at once"):
        assert words in held.text
    assert "bpa runs cancel --where status:queued" in held.text
    assert await operating.one_pass() == 0
    assert (await post(rest, f"{path}/start", rate="many")).status == 400
    assert (await post(rest, f"{path}/start", rate="5", detail="a flood")).status == 303
    assert "5 a second" in (await rest.get(path)).text
    assert await operating.one_pass() == 1
    assert "1 cancelled" in (await rest.get(path)).text
    assert await fleet.status(first) == "dead_lettered"
    assert await fleet.status(later) == "queued"
    assert (await post(rest, f"{path}/stop")).status == 409

    other = await started(rest, form)
    assert (await post(rest, f"{other}/stop")).status == 303
    assert "stopped by ui:local; 1 left alone" in (await rest.get(other)).text
    listed = check_harmless((await rest.get("/ui/operations")).text)
    assert {path, other} <= set(listed.links)
    assert (await rest.get(f"/ui/operations/{NOBODY}")).status == 404


async def test_what_was_not_done_is_listed_with_its_reason(rest: Rest, fleet: Fleet):
    await fleet.register()
    run_id, epoch = await fleet.running()
    await fleet.runs.finish(run_id, epoch, Outcome(kind=OutcomeKind.COMPLETED))
    path = await started(rest, [("id", run_id), ("id", NOBODY), ("action", "cancel")])
    operating = Operating(fleet.pool, fleet.runs, rest.services.replaying, lambda: None)
    assert await operating.one_pass() == 2
    shown = (await rest.get(path)).text
    assert "done, 2 failed" in shown
    assert f"run {run_id} is completed; only a living run can be cancelled" in shown
    assert f"there is no run {NOBODY}" in shown
    assert f"there is no run {NOBODY}" in (await rest.get(f"{path}?show=all")).text


async def test_a_search_that_cannot_be_read_is_explained_on_the_page(rest: Rest, fleet: Fleet):
    run_id = await fleet.queued()
    found = await rest.get("/ui/runs", params={"q": "status:queued"})
    assert str(run_id) in found.text
    assert "1 run found" in found.text
    wrong = await rest.get("/ui/runs", params={"q": "colour:red"})
    assert wrong.status == 200
    assert "there is no qualifier" in read_page(wrong.text).text
    assert (await rest.get("/ui/runs", params={"cursor": "x"})).status == 200


async def test_a_theme_is_kept_and_leads_back_to_pages_of_ours_alone(rest: Rest):
    chosen = await post(rest, "/ui/theme", theme="dark", back="/ui/fleet?x=1")
    assert (chosen.status, chosen.headers["Location"]) == (303, "/ui/fleet?x=1")
    dark = await rest.get("/ui", headers={"Cookie": cookie_of(chosen)})
    assert 'data-theme="dark"' in dark.text
    for back in ("//evil.example", "https://evil.example", "/uievil\r\nX: y", ""):
        answer = await post(rest, "/ui/theme", theme="<b>", back=back)
        assert answer.headers["Location"] == "/ui"


async def test_dead_letters_are_tried_edited_and_replayed(desk: Desk):
    await desk.dead()
    run_id = await desk.dead(b'{"invoice_id": "<i>A-2</i>"}', content_type="application/json")
    rest = desk.rest
    listed = (await rest.get("/ui/dead-letters")).text
    first, second = [letter["id"] for letter in await desk.letters()]
    assert all(one in listed for one in (first, second, "RetriesExhausted"))
    inside = await rest.get(f"/ui/dead-letters/{second}")
    assert "&lt;i&gt;A-2&lt;/i&gt;" in inside.text

    tried = await post(rest, f"/ui/dead-letters/{second}/replay", **{"try": "1", "body": "{}"})
    assert tried.status == 200
    assert "nothing was changed" in tried.text
    assert len(await desk.letters()) == 2
    done = await post(rest, f"/ui/dead-letters/{second}/replay", body='{"invoice_id": "A-3"}')
    assert "replayed" in done.text
    (audit,) = await rows(desk.fleet, "select edited, requested_by from replays")
    assert audit == {"edited": True, "requested_by": "ui:local"}
    assert "replayed as" in (await rest.get(f"/ui/runs/{run_id}")).text

    operating = Operating(desk.fleet.pool, desk.fleet.runs, rest.services.replaying, lambda: None)
    tried = await started(rest, [("id", first), ("action", "replay"), ("hold", "1")])
    assert "goes on from its run" in (await rest.get(tried)).text
    assert len(await desk.letters()) == 1
    (group,) = (await rest.get("/v1/dead-letters/groups")).json
    listed = (await rest.get(f"/ui/dead-letters?group={group['id']}")).text
    assert all(words in listed for words in (first, "HTTP 503 four times", "Replay all 1"))
    form = [("letters", "1"), ("group", group["id"]), ("action", "replay")]
    path = await started(rest, form)
    assert await operating.one_pass() == 1
    assert "1 replayed" in (await rest.get(path)).text
    assert await desk.letters() == []
    assert (await rest.get(f"/ui/dead-letters/{first}")).status == 404


async def test_a_body_that_is_sent_back_as_it_was_shown_is_no_edit(desk: Desk):
    await desk.dead(b'{\n  "a": 1\n}\n')
    (letter,) = await desk.letters()
    path = f"/ui/dead-letters/{letter['id']}/replay"
    await post(desk.rest, path, body='{\r\n  "a": 1\r\n}\r\n')
    (audit,) = await rows(desk.fleet, "select edited from replays")
    assert audit == {"edited": False}


async def test_an_edited_letter_that_may_be_applied_twice_asks_again_after_it_was_tried(desk: Desk):
    await desk.dead(intend=True)
    (letter,) = await desk.letters()
    path, body = f"/ui/dead-letters/{letter['id']}/replay", '{"invoice_id": "A-3"}'
    unasked = await post(desk.rest, path, **{"try": "1", "body": body})
    assert "may be at the target already" in unasked.text
    box = re.search(r'<input[^>]*name="may_repeat"[^>]*>', unasked.text)
    assert box is not None
    assert "required" in box[0]
    assert "checked" not in box[0]
    wanted = await post(desk.rest, path, **{"try": "1", "body": body, "may_repeat": "1"})
    box = re.search(r'<input[^>]*name="may_repeat"[^>]*>', wanted.text)
    assert box is not None
    assert "checked" in box[0]
    assert "A-3" in wanted.text
    assert await rows(desk.fleet, "select 1 from replays") == []
    refused = await post(desk.rest, path, body=body)
    assert 'name="may_repeat"' in refused.text
    done = await post(desk.rest, path, body=body, may_repeat="1")
    assert "replayed" in done.text
    assert 'name="may_repeat"' not in done.text
    (audit,) = await rows(desk.fleet, "select edited from replays")
    assert audit == {"edited": True}


async def rows(fleet: Fleet, query: str) -> list[dict[str, object]]:
    async with fleet.pool.connection() as connection:
        return await (await connection.execute(query)).fetchall()


async def _poison(fleet: Fleet, database: str) -> str:
    """Write hostile text wherever a stranger's text can come to stand; return a run that has it."""
    await fleet.register()
    run_id, epoch = await fleet.running()
    usage = Usage(input_tokens=5, output_tokens=5, unpriced_tokens=10)
    step = Step(seq=0, kind=StepKind.MODEL, digest="d", answer=b"x", usage=usage)
    await fleet.runs.record_step(run_id, epoch, step)
    outcome = Outcome(kind=OutcomeKind.REJECTED, reason="AgentError", detail="d")
    await fleet.runs.finish(run_id, epoch, outcome)
    await fleet.queued(2)
    text = HOSTILE
    call = Jsonb({"type": "model", "provider": text, "model": text[:200], "max_tokens": 5,
                  "response_id": text[:200], "finish_reasons": [text[:200]]})  # fmt: skip
    source = Jsonb({"queue": text, "sequence_number": 1, "message_id": text, "dialect": text,
                    "excerpt": text, "bytes": 5, "vendor": text, "invoice_id": text})  # fmt: skip
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        for statement, values in [
            ("update runs set input_ref = %s, reason = %s, detail = %s, waiting_reason = %s, "
             "outcome = %s, trace_id = %s, effect_key = %s, waiting_nodes = %s",
             [source, text, text, text, Jsonb({"vendor": text, "route": text}), "t" * 32, text,
              Jsonb({text: text})]),
            ("update steps set call = %s", [call]),
            ("update run_inputs set message = %s",
             [Jsonb({"content_type": text, "correlation_id": text, "properties": {text: text},
                     "properties_left_out": 1})]),
            ("insert into audit (actor, action, subject, detail) values (%s, %s, %s, %s)",
             [text, text, str(run_id), Jsonb({"detail": text})]),
            ("insert into replays (run_id, replayed_run_id, original_run_id, replay_number, queue, "
             "sequence_number, dead_letter_reason, edited, body_sha256, requested_by) "
             "values (gen_random_uuid(), %s, %s, 1, 'q', 1, '', true, '', %s)",
             [run_id, run_id, text]),
            ("update executions set reason = %s, detail = %s, ending = %s", [text, text, "failed"]),
            ("update nodes set metadata = %s",
             [Jsonb({"labels": {text: text, "region": text}, "version": text,
                     "protections": [text]})]),
            ("insert into breakers (host, state, last_error, failed_at, opened_at, probe_at) "
             "values (%s, 'open', %s, now(), now(), now())", [text, text]),
            ("insert into operations (operation_id, action, chosen, detail, requested_by, state, "
             "looked_at_all, items, trouble, stopped_by) values (%s, 'replay', %s, %s, %s, "
             "'running', false, 1, %s, %s)",
             [NOBODY, Jsonb({"q": text, "queue": text}), text, text, text, text]),
            ("insert into operation_items (operation_id, nth, subject, result, why) "
             "values (%s, 1, %s, 'refused', %s)", [NOBODY, text, text]),
            ("update queues set trouble = 'unreadable', detail = %s", [text]),
            ("update agent_versions set spec = jsonb_set(spec, '{name}', %s)", [Jsonb(text)]),
            ("update deployments set target = jsonb_set(target, '{routes}', %s)", [Jsonb([text])]),
        ]:  # fmt: skip
            await connection.execute(statement, values)  # type: ignore[arg-type]
    return str(run_id)


async def test_hostile_text_in_every_field_is_shown_and_does_nothing(
    fleet: Fleet, rest: Rest, database: str
):
    run_id = await _poison(fleet, database)
    seen = ""
    for path in (
        "/ui", "/ui/runs", "/ui/runs/many?q=", f"/ui/runs/{run_id}", f"/ui/runs/{run_id}/logs",
        "/ui/fleet", "/ui/fleet/node-1",
        "/ui/deployments", f"/ui/deployments/{DEP_ID}", "/ui/costs?by=model",
        "/ui/operations", f"/ui/operations/{NOBODY}",
        "/ui/costs?since=7d&until=2999-01-01&agent=%3Cb-evil%20onclick%3Dalert(1)%3E7%20*%207",
    ):  # fmt: skip
        answer = await rest.get(path)
        assert answer.status == 200, (path, answer.text[-500:])
        page = check_harmless(answer.text)
        assert "7 * 7" in page.text or path in ("/ui/costs?by=model", "/ui/deployments"), path
        seen += page.text
    assert "<b-evil onclick=alert(1)>" in seen


async def test_hostile_paths_and_fields_are_refused_with_a_page(rest: Rest, fleet: Fleet):
    await fleet.register()
    for path in ("/ui/%3Cscript%3E", "/ui/runs/%3Cb-evil%3E", "/ui/dead-letters/%E2%80%AEx"):
        answer = await rest.get(path)
        assert answer.status == 404
        check_harmless(answer.text)
    for query in (HOSTILE[:200], "\x1b[2J", "x" * 5_000, "'; drop table runs; --"):
        answer = await rest.get("/ui/runs", params={"q": query})
        assert answer.status == 200
        check_harmless(answer.text)
    for query in ("by=nothing", "since=soon", "until=%E2%80%AE7d", "since=" + "9" * 400):
        assert (await rest.get(f"/ui/costs?{query}")).status == 400
    assert (await post(rest, "/ui/fleet/node-1/drain", deadline="x" * 9_000)).status == 400
    assert (await post(rest, "/ui/fleet/node-1/drain", deadline="a\0b")).status == 400


async def test_a_hostile_message_is_shown_from_inside_and_does_nothing(desk: Desk):
    body = HOSTILE.encode()
    message = OutgoingMessage(
        body=body, message_id=HOSTILE[:60], properties={"x<b>": HOSTILE[:200]}
    )
    await desk.intaking.queue.publish([message])
    await desk.take(1)
    await eventually(lambda: desk.intaking.broker()[2] == 1)
    (letter,) = await desk.letters()
    for path in ("/ui/dead-letters", f"/ui/dead-letters/{letter['id']}"):
        answer = await desk.rest.get(path)
        assert answer.status == 200, answer.text[-500:]
        check_harmless(answer.text)
    assert "Invisible characters are left out" in answer.text


def test_no_template_marks_anything_as_safe():
    folder = Path(bpa.ui.__file__).parent
    for path in folder.glob("templates/*.html"):
        text = path.read_text()
        assert not re.search(r"\|\s*safe|autoescape|style=|<script>|\son[a-z]+=", text), path

"""What a run works on: who may look, that looking is noted, and what its page says around it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from bpa.connectors import OutgoingMessage
from bpa.control.disclosure import Show
from bpa.control.message_properties import kept_of
from bpa.control.revisions import Edit
from bpa.documents.answers import tool_of
from bpa.documents.decoding import decode
from bpa.documents.wire import to_wire
from bpa.domain.conversation import compose
from bpa.domain.journal import ModelCall, Step, StepKind, canonical, digest_of
from bpa.domain.runs import RunId
from bpa.postgres import fetch_all
from bpa.ui.views.run_facts import Outside
from tests.integration.control.desk import Desk, desk_of
from tests.integration.control.fleet import AGENT, DEP_ID, DEPLOYMENT, Fleet, arrival
from tests.integration.control.pages_read import check_harmless, read_page
from tests.integration.control.rest import PROBLEM, rest_over
from tests.unit.control.test_message_properties import message
from tests.unit.ui.hostile import HOSTILE as WITH_NUL

HOSTILE = WITH_NUL.replace("\0", "")
NOBODY = "018f0000-0000-8000-8000-000000000000"
INVOICE = {"invoice_id": "A-1", "currency": "EUR", "total": "10.00", "issued_on": "2026-01-02",
           "vendor": "Acme", "buyer": "Jane Doe"}  # fmt: skip
CALL = {"type": "function_call", "name": "post_invoice", "arguments": '{"reason": "for Jane Doe"}'}
ANSWER = json.dumps({"messages": [{"role": "assistant", "contents": [CALL]}]}).encode()


async def worked(fleet: Fleet, document: bytes, answer: bytes = ANSWER) -> RunId:
    """Have a run that read a document, asked a model and posted."""
    await fleet.register()
    await fleet.runs.receive(arrival(1, document=document))
    run_id = arrival(1).run_id
    epoch = await fleet.granted(run_id)
    await fleet.leases.acknowledge(run_id, epoch)
    call = ModelCall(provider="anthropic", model="claude", max_tokens=400)
    now = round(time.time() * 1000)
    times = {"started_at_ms": now, "ended_at_ms": now}
    asked = Step(seq=0, kind=StepKind.MODEL, digest="d", call=call, answer=answer, **times)
    posted = Step(
        seq=1, kind=StepKind.EFFECT, digest="e", intent=b'{"buyer": "Jane Doe", "total": "10.00"}',
        effect_key="k", answer=b'{"status": 201}', **times,
    )  # fmt: skip
    for step in (asked, posted):
        await fleet.runs.record_step(run_id, epoch, step)
    return run_id


def read(value: object) -> bytes:
    return to_wire(decode(json.dumps(value).encode(), "application/json"))


async def test_a_prompt_stays_exact_however_its_deployment_is_edited(fleet: Fleet):
    document = decode(json.dumps(INVOICE).encode(), "application/json")
    said = {"role": "user", "contents": [{"type": "text", "text": document.text}]}
    wish = {"messages": [said], "options": {"tool_choice": "required"}}
    request = compose(wish, AGENT, [tool_of(document, DEPLOYMENT.routes, 1)])
    digest = digest_of(StepKind.MODEL, canonical(request))
    await fleet.runs.receive(arrival(1, document=to_wire(document), revision=1))
    await fleet.register()
    epoch = await fleet.granted(arrival(1).run_id)
    await fleet.leases.acknowledge(arrival(1).run_id, epoch)
    step = Step(seq=0, kind=StepKind.MODEL, digest=digest, answer=ANSWER)
    await fleet.runs.record_step(arrival(1).run_id, epoch, step)
    edited = msgspec.structs.replace(DEPLOYMENT, routes=["other"])
    await fleet.revisions.edit(DEP_ID, Edit(spec=edited, actor="me"), "1")
    async with rest_over(fleet, show=Show.WHOLE) as rest:
        found = (await rest.get(f"/v1/runs/{arrival(1).run_id}/contents")).json
        prompt = found["steps"][0]["prompt"]
        assert prompt["isExact"] is True
        assert prompt["tools"][0]["parameters"]["properties"]["route"]["enum"] == DEPLOYMENT.routes
        assert "revision 1" in (await rest.get(f"/ui/runs/{arrival(1).run_id}")).text


async def looks(fleet: Fleet) -> list[dict[str, object]]:
    return await fetch_all(
        fleet.pool, "select actor, subject, detail from audit where action = 'run.look'"
    )


async def test_contents_are_hidden_from_everybody_unless_a_setting_shows_them(fleet: Fleet):
    run_id = await worked(fleet, read(INVOICE))
    async with rest_over(fleet) as rest:
        for path in ("/v1/runs/{}/contents", "/ui/runs/{}/contents", "/ui/runs/{}/contents.json"):
            answer = await rest.get(path.format(run_id))
            assert answer.status == 403, path
            assert "contents.show" in answer.text
            assert "Jane" not in answer.text
        assert (await rest.get(f"/v1/runs/{run_id}/contents")).headers["Content-Type"] == PROBLEM
        page = check_harmless((await rest.get(f"/ui/runs/{run_id}")).text)
        assert "is hidden, for it may be personal data" in page.text
        assert f"/ui/runs/{run_id}/contents" not in page.links
        for told in ("", "/steps", "/logs"):
            assert "Jane" not in (await rest.get(f"/v1/runs/{run_id}{told}")).text
    assert await looks(fleet) == []


async def test_masked_contents_are_shown_by_field_and_each_look_is_noted(fleet: Fleet):
    run_id = await worked(fleet, read(INVOICE))
    async with rest_over(fleet, show=Show.MASKED) as rest:
        answer = await rest.get(f"/v1/runs/{run_id}/contents", params={"requestedBy": "me@here"})
        assert answer.status == 200, answer.text
        assert "Jane" not in answer.text
        found = answer.json
        assert found["shown"] == "masked"
        assert json.loads(found["document"]["text"])["vendor"] == "Acme"
        model, effect = found["steps"]
        assert model["prompt"]["instructions"] == "Do."
        assert model["prompt"]["isExact"] is False
        assert json.loads(model["answer"][0]["text"]) == {"reason": "(withheld)"}
        assert json.loads(effect["payload"]) == {"buyer": "(withheld)", "total": "10.00"}
        page = await rest.get(f"/ui/runs/{run_id}/contents")
        assert "Jane" not in page.text
        assert "Acme" in check_harmless(page.text).text
    noted = await looks(fleet)
    assert [one["actor"] for one in noted] == ["api:me@here", "ui:local"]
    assert noted[0]["subject"] == run_id
    assert noted[0]["detail"] == {"shown": "masked"}


async def test_each_of_many_looks_is_noted_though_parts_of_pages_are_shared(fleet: Fleet):
    run_id = await worked(fleet, read(INVOICE))
    async with rest_over(fleet, show=Show.MASKED) as rest:
        for ending in ("contents", "contents/", "contents.json"):
            path = f"/ui/runs/{run_id}/{ending}"
            asked = (rest.get(path, headers={"HX-Request": "true"}) for _ in range(3))
            assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
    assert len(await looks(fleet)) == 9


async def test_whole_contents_are_shown_and_handed_out_but_for_secrets(fleet: Fleet):
    run_id = await worked(fleet, read({**INVOICE, "note": "pay with a-secret-of-control"}))
    async with rest_over(fleet, show=Show.WHOLE) as rest:
        page = await rest.get(f"/ui/runs/{run_id}")
        assert f"/ui/runs/{run_id}/contents" in read_page(page.text).links
        contents = read_page((await rest.get(f"/ui/runs/{run_id}/contents")).text)
        assert "for Jane Doe" in contents.text
        assert "a-secret" not in contents.text
        file = await rest.get(f"/ui/runs/{run_id}/contents.json")
        assert file.headers["Content-Disposition"] == f'attachment; filename="run-{run_id}.json"'
        assert file.headers["Cache-Control"] == "no-store"
        assert file.json["steps"][1]["payload"] == '{"buyer":"Jane Doe","total":"10.00"}'
        assert (await rest.get(f"/v1/runs/{NOBODY}/contents")).status == 404
        assert (await rest.get(f"/ui/runs/{NOBODY}/contents")).status == 404
        for name in ("", "a\0b", "x" * 201):
            odd = await rest.get(f"/v1/runs/{run_id}/contents", params={"requestedBy": name})
            assert odd.status == 400, name


@pytest.mark.parametrize("form", ["prose", "fields", "undecodable"])
async def test_hostile_contents_are_shown_and_do_nothing(fleet: Fleet, form: str):
    call = {"type": "function_call", "name": HOSTILE, "arguments": {HOSTILE: HOSTILE}}
    said = [{"role": HOSTILE, "contents": [call, {"type": "text", "text": HOSTILE}, 3]}]
    document = {
        "prose": to_wire(decode(HOSTILE.encode(), "text/plain")),
        "fields": read({**INVOICE, "vendor": HOSTILE[:150], "note": HOSTILE}),
        "undecodable": b"",
    }[form]
    run_id = await worked(fleet, document, json.dumps({"messages": said}).encode())
    async with rest_over(fleet, show=Show.WHOLE) as rest:
        answer = await rest.get(f"/ui/runs/{run_id}/contents")
        assert answer.status == 200
        assert "<b-evil onclick=alert(1)>" in check_harmless(answer.text).text
        assert len(answer.text) < 400_000


async def test_a_log_tells_what_happened_and_who_did_what(fleet: Fleet):
    run_id = await worked(fleet, read(INVOICE))
    outside = Outside("https://traces/{trace_id}", "https://logs/?q={run_id}")
    async with rest_over(fleet, show=Show.WHOLE, outside=outside) as rest:
        await rest.get(f"/v1/runs/{run_id}/contents")
        await fleet.runs.cancel(run_id, "somebody", "a mistake")
        told = (await rest.get(f"/v1/runs/{run_id}/logs")).json
        assert [one["event"] for one in told if one["actor"]] == ["run.look", "run.cancel"]
        assert {"receive", "chat claude", "http.out"} <= {one["event"] for one in told}
        assert [one["timestamp"] for one in told] == sorted(one["timestamp"] for one in told)
        assert told[-1]["detail"] == "a mistake"
        part = (await rest.get(f"/ui/runs/{run_id}/logs", headers={"HX-Request": "true"})).text
        assert part.lstrip().startswith("<ol")
        assert f'href="https://logs/?q={run_id}" rel="noopener noreferrer"' in part
        whole = (await rest.get(f"/ui/runs/{run_id}/logs")).text
        assert "<h1>Log</h1>" in whole
        assert "asked to cancel it" in read_page(whole).text
        page = (await rest.get(f"/ui/runs/{run_id}")).text
        assert f'href="https://traces/{"0af7651916cd43dd8448eb211c80319c"}"' in page


async def test_without_a_place_for_log_lines_the_log_says_where_they_are(fleet: Fleet):
    run_id = await worked(fleet, read(INVOICE))
    async with rest_over(fleet) as rest:
        told = check_harmless((await rest.get(f"/ui/runs/{run_id}/logs")).text)
        assert "standard error" in told.text
        assert "telemetry.logs_url" in told.text
        assert (await rest.get(f"/v1/runs/{NOBODY}/logs")).status == 404


async def test_what_came_with_a_message_is_shown_and_an_earlier_release_kept_none(fleet: Fleet):
    kept = kept_of(message(correlation_id="c-7", properties={"tenant": "acme", HOSTILE: HOSTILE}))
    await fleet.runs.receive(arrival(1, message=kept))
    await fleet.runs.receive(arrival(2))
    async with rest_over(fleet) as rest:
        first, second = [(await rest.get(f"/v1/runs/{arrival(n).run_id}")).json for n in (1, 2)]
        assert first["message"]["correlationId"] == "c-7"
        assert first["message"]["properties"]["tenant"] == "acme"
        assert second["message"] is None
        page = check_harmless((await rest.get(f"/ui/runs/{first['runId']}")).text)
        assert "c-7" in page.text
        assert "acme" in page.text
        page = check_harmless((await rest.get(f"/ui/runs/{second['runId']}")).text)
        assert "An earlier release received it" in page.text


@pytest_asyncio.fixture
async def desk(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[Desk]:
    async with desk_of(fleet, database, valkey_url) as desk:
        yield desk


async def test_a_received_message_s_properties_are_kept_without_secrets(desk: Desk):
    properties = {"tenant": "acme", "x-api-key": "hunter2", "traceparent": "odd"}
    body = json.dumps(INVOICE).encode()
    for one in (body, b"{"):  # also of a message that cannot be read
        await desk.intaking.queue.publish([OutgoingMessage(body=one, properties=properties)])
        (run_id,) = await desk.take(1)
        kept = (await desk.rest.get(f"/v1/runs/{run_id}")).json["message"]
        assert kept["contentType"] == "application/json"
        assert kept["properties"]["tenant"] == "acme"
        assert kept["properties"]["x-api-key"] == "(withheld)"
    assert "hunter2" not in str(await desk.rows("run_inputs"))


async def test_the_runs_that_a_message_came_to_be_lead_to_each_other(desk: Desk):
    original = await desk.dead()
    (letter,) = await desk.letters()
    page = read_page((await desk.rest.get(f"/ui/runs/{original}")).text)
    assert f"/ui/dead-letters/{letter['id'].replace(':', '%3A')}" in page.links
    assert "What its message came to be" not in page.text
    await desk.replay()
    (second,) = await desk.take(1)
    await desk.fail(second)
    await desk.replay()
    (third,) = await desk.take(1)
    for here in (original, second, third):
        links = (await desk.rest.get(f"/v1/runs/{here}")).json["replays"]
        assert [one["runId"] for one in links] == [original, second, third]
        assert [one["replayNumber"] for one in links] == [0, 1, 2]
        assert [one["status"] for one in links] == ["dead_lettered", "dead_lettered", "queued"]
        page = read_page((await desk.rest.get(f"/ui/runs/{here}")).text)
        others = {f"/ui/runs/{one}" for one in (original, second, third) if one != here}
        assert others <= {*page.links}
    log = (await desk.rest.get(f"/v1/runs/{original}/logs")).json
    assert [one["event"] for one in log if one["actor"]] == ["dead_letter.replay"]

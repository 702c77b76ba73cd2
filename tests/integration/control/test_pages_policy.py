"""Deployments edited in pages, as forms alone do it: no script runs here."""

import json
import re
from collections.abc import AsyncIterator
from html import unescape

import msgspec
import pytest
from msgspec.structs import replace

from bpa.control.revisions import ANY, Edit
from bpa.domain.specs import DeploymentSpec, Target
from tests.integration.control.fleet import DEP_ID, DEPLOYMENT, Fleet
from tests.integration.control.pages_read import check_harmless, read_page
from tests.integration.control.rest import Answer, Rest, rest_over
from tests.integration.control.test_pages import HOSTILE, OURS

EDIT = f"/ui/deployments/{DEP_ID}/edit"
PAGE = f"/ui/deployments/{DEP_ID}"
_INPUT = re.compile(r'<input[^>]*? name="([^"]+)" value="([^"]*)"')
_AREA = re.compile(r'<textarea[^>]*? name="([^"]+)"[^>]*>\n(.*?)</textarea>', re.DOTALL)
_SELECT = re.compile(
    r'<select[^>]*? name="([^"]+)"[^>]*>.*?<option selected>([^<]*)</option>.*?</select>', re.DOTALL
)


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


def form_of(answer: Answer) -> dict[str, str]:
    """Return what a browser would send of the page's form, but for a button."""
    text = answer.text[answer.text.index('<form class="policy"') :]
    text = text[: text.index("</form>")]
    found = [*_INPUT.findall(text), *_AREA.findall(text), *_SELECT.findall(text)]
    return {name: unescape(value).replace("\n", "\r\n") for name, value in found}


async def send(rest: Rest, fields: dict[str, str], **more: str) -> Answer:
    return await rest.request(
        "POST", EDIT, data={**fields, **more}, headers=OURS, allow_redirects=False
    )


async def spec_of(fleet: Fleet) -> DeploymentSpec:
    return msgspec.convert((await fleet.deployments.get(DEP_ID))["target"], DeploymentSpec)


async def saved_by_another(fleet: Fleet, spec: DeploymentSpec, note: str = "") -> None:
    await fleet.revisions.edit(DEP_ID, Edit(spec=spec, actor="other@desk", note=note), ANY)


async def test_a_form_that_is_sent_back_as_it_came_changes_nothing(rest: Rest):
    page = await rest.get(EDIT)
    check_harmless(page.text)
    checked = await send(rest, form_of(page), do="check")
    assert checked.status == 200
    assert "it says what it says now" in checked.text
    assert "Save as revision" not in checked.text


async def test_an_edit_is_looked_at_and_then_saved_with_who_and_why(rest: Rest, fleet: Fleet):
    await fleet.register()
    typed = form_of(await rest.get(EDIT)) | {"target.slotBudget": "8", "placement.affinity": "a: b"}
    checked = await send(rest, typed, do="check")
    page = check_harmless(checked.text)
    assert "target.slotBudget" in page.text
    assert "no a" in page.text, "the node says why it would refuse"
    assert '"slotBudget": 8' in page.text, "the JSON follows the fields"
    assert (await fleet.deployments.get(DEP_ID))["revision"] == 1

    saved = await send(rest, form_of(checked), do="save", note="month end")
    assert (saved.status, saved.headers["Location"]) == (303, PAGE)
    assert (await spec_of(fleet)).target.slot_budget == 8
    (latest, _) = await fleet.revisions.page(DEP_ID, None, 5)
    assert (latest["actor"], latest["note"]) == ("ui:local", "month end")
    assert rest.told == ["deployments_changed", "woken"]
    listed = check_harmless((await rest.get(f"{PAGE}/revisions")).text)
    assert all(word in listed.text for word in ("Revision 2", "ui:local", "month end", "Roll back"))


async def test_the_json_side_is_taken_as_well_and_the_fields_follow(rest: Rest, fleet: Fleet):
    typed = form_of(await rest.get(EDIT))
    tree = json.loads(typed["json"])
    tree["maxEffects"] = 3
    checked = await send(rest, typed | {"json": json.dumps(tree), "target.replicas": "2"})
    fields = form_of(checked)
    assert (fields["maxEffects"], fields["target.replicas"]) == ("3", "2")
    assert json.loads(fields["json"])["target"]["replicas"] == 2
    assert (await send(rest, fields, do="save")).status == 303
    assert (await spec_of(fleet)).max_effects == 3


async def test_what_was_not_looked_at_is_not_saved(rest: Rest, fleet: Fleet):
    checked = await send(rest, form_of(await rest.get(EDIT)) | {"target.slotBudget": "8"})
    late = await send(rest, form_of(checked) | {"target.slotBudget": "80"}, do="save")
    assert late.status == 200
    assert "You changed something after the last check" in late.text
    assert (await fleet.deployments.get(DEP_ID))["revision"] == 1


async def test_problems_stand_at_their_fields_and_nothing_typed_is_lost(rest: Rest, fleet: Fleet):
    typed = form_of(await rest.get(EDIT)) | {
        "target.slotBudget": "many",
        "budgets.maxDuration": "soon",
    }
    wrong = await send(rest, typed, do="save")
    assert wrong.status == 200
    assert 'id="f-target-slotBudget-problem"' in wrong.text
    assert wrong.text.count('aria-invalid="true"') == 2
    again = form_of(wrong)
    assert (again["target.slotBudget"], again["budgets.maxDuration"]) == ("many", "soon")
    broken = await send(rest, again | {"json": '{"a": '})
    kept = form_of(broken)
    assert (kept["json"], kept["target.slotBudget"]) == ('{"a": ', "many")
    assert 'id="json-problem"' in broken.text
    assert (await fleet.deployments.get(DEP_ID))["revision"] == 1


async def test_a_conflict_shows_what_others_changed_and_the_edit_goes_on_top(
    rest: Rest, fleet: Fleet
):
    checked = await send(
        rest, form_of(await rest.get(EDIT)) | {"target.slotBudget": "8", "routes": "it\r\ntravel"}
    )
    theirs = replace(DEPLOYMENT, target=Target(slot_budget=6), max_effects=2)
    await saved_by_another(fleet, theirs, "for the night")

    refused = await send(rest, form_of(checked), do="save", note="mine")
    assert refused.status == 409
    page = check_harmless(refused.text)
    for said in ("revision 2", "other@desk", "for the night", "maxEffects", "What both of you"):
        assert said in page.text, said
    assert "Save as revision" not in page.text
    assert form_of(refused)["target.slotBudget"] == "8", "what was typed is kept"
    assert (await send(rest, form_of(refused), do="save")).status == 409

    put = await send(rest, form_of(refused), do="rebase")
    fields = form_of(put)
    assert (fields["target.slotBudget"], fields["maxEffects"], fields["note"]) == ("8", "2", "mine")
    assert "Both of you changed these" in put.text
    assert (await send(rest, fields, do="save")).status == 303
    spec = await spec_of(fleet)
    assert spec == replace(theirs, target=Target(slot_budget=8), routes=["it", "travel"])


async def test_a_pause_meanwhile_is_a_conflict_that_loses_nothing(rest: Rest, fleet: Fleet):
    checked = await send(rest, form_of(await rest.get(EDIT)) | {"target.slotBudget": "8"})
    await fleet.deployments.pause(DEP_ID, paused=True, actor="other@desk")
    refused = await send(rest, form_of(checked), do="save")
    assert "It is paused, by other@desk." in read_page(refused.text).text
    put = await send(rest, form_of(refused), do="rebase")
    assert (await send(rest, form_of(put), do="save")).status == 303
    assert "paused" in (await fleet.deployments.get(DEP_ID))["status"]


async def test_rolling_back_goes_through_the_same_page(rest: Rest, fleet: Fleet):
    await saved_by_another(fleet, replace(DEPLOYMENT, target=Target(slot_budget=6)))
    page = await rest.get(f"{EDIT}?revision=1")
    assert "roll back to revision 1" in page.text
    assert (await send(rest, form_of(page), do="save")).status == 303
    assert await spec_of(fleet) == DEPLOYMENT
    assert (await fleet.revisions.get(DEP_ID, 3))["restores"] == 1
    changed = form_of(await rest.get(f"{EDIT}?revision=2")) | {"maxEffects": "4"}
    checked = await send(rest, changed)
    assert (await send(rest, form_of(checked), do="save")).status == 303
    assert (await fleet.revisions.get(DEP_ID, 4))["restores"] is None, "it says something else"
    assert (await rest.get(f"{EDIT}?revision=99")).status == 404


async def test_a_deployment_is_paused_and_resumed_from_its_page(rest: Rest, fleet: Fleet):
    page = await rest.get(PAGE)
    assert "Pause the deployment" in page.text
    answer = await rest.request(
        "POST", f"{PAGE}/pause", data={"etag": "1"}, headers=OURS, allow_redirects=False
    )
    assert answer.status == 303
    assert (await fleet.deployments.get(DEP_ID))["status"]["paused"]["by"] == "ui:local"
    assert "Resume the deployment" in (await rest.get(PAGE)).text
    stale = await rest.request("POST", f"{PAGE}/resume", data={"etag": "1"}, headers=OURS)
    assert stale.status == 412
    assert (await rest.get("/ui/deployments")).text.count("paused") == 1


async def test_hostile_text_in_a_deployment_is_edited_and_does_nothing(rest: Rest, fleet: Fleet):
    hostile = HOSTILE.replace("\0", "")
    await saved_by_another(fleet, replace(DEPLOYMENT, routes=[hostile]), hostile[:900])
    page = await rest.get(EDIT)
    check_harmless(page.text)
    same = await send(rest, form_of(page), do="check")
    assert "it says what it says now" in same.text, "what is not shown is not lost"
    typed = form_of(page) | {"queue": hostile[:200], "version": hostile[:200], "json": "{"}
    for sent in (typed, form_of(page) | {"placement.affinity": hostile[:500], "note": hostile}):
        answer = await send(rest, sent, do="save")
        assert answer.status == 200, answer.text[-300:]
        check_harmless(answer.text)
    check_harmless((await rest.get(f"{PAGE}/revisions")).text)
    odd = {"json": "[]", "synced": "7", "etag": "x", "based_on": "-1", "do": "rebase"}
    for fields in ({}, odd, {**odd, "do": "save"}, {"json": "null", "restores": "99"}):
        answer = await send(rest, fields)
        assert answer.status == 200, answer.text[-300:]
    assert (await send(rest, {"json": "x" * 300_000})).status == 400

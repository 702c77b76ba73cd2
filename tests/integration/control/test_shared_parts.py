"""Many tabs on one page cost one rendering, and none is shown less than it has been told of."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bpa.control.changes import Topic
from bpa.control.trends import Trends
from tests.eventually import eventually
from tests.integration.control.fleet import Fleet, arrival
from tests.integration.control.rest import Answer, Rest, rest_over

PART = {"HX-Request": "true"}
OURS = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each time that a page asks what is alive."""
    asked: list[str] = []
    alive = Trends.alive

    async def counting(trends: Trends) -> list[dict[str, object]]:
        asked.append("alive")
        return await alive(trends)

    monkeypatch.setattr(Trends, "alive", counting)
    return asked


async def parts(rest: Rest, path: str, many: int) -> list[Answer]:
    return await asyncio.gather(*(rest.get(path, headers=PART) for _ in range(many)))


@pytest.mark.parametrize("path", ["/ui", "/ui/runs", "/ui/runs?q=status%3Aactive"])
async def test_all_tabs_on_a_page_are_answered_with_one_rendering(
    rest: Rest, counted: list[str], path: str
):
    answers = await parts(rest, path, 100)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.text for answer in answers}) <= len(counted) <= 3


async def test_other_searches_are_other_pages(rest: Rest, fleet: Fleet):
    await fleet.runs.receive(arrival(1))
    both = [(await rest.get(f"/ui/runs?q={q}", headers=PART)).text for q in ("", "nobody")]
    assert both[0] != both[1]


async def test_a_part_is_shown_to_nobody_for_a_page_nor_a_page_for_a_part(rest: Rest):
    part = await rest.get("/ui/runs", headers=PART)
    page = await rest.get("/ui/runs")
    assert part.text.startswith('<div id="live"')
    assert page.text.startswith("<!doctype html>")


async def test_a_part_shows_what_was_told_of_or_says_that_it_is_older(rest: Rest, fleet: Fleet):
    changes = rest.services.changes
    with changes.listening(frozenset([Topic.RUN])):
        await changes.looking()
        before = await rest.get("/ui/runs", headers=PART)
        number = changes.number
        received = await fleet.runs.receive(arrival(1))
        await eventually(lambda: changes.number > number)

        async def is_shown() -> bool:
            after = await rest.get("/ui/runs", headers=PART)
            shown = received.run_id in after.text
            assert shown or after.headers["BPA-Made-At"] == before.headers["BPA-Made-At"]
            return shown

        await eventually(is_shown, within_s=60)
    assert before.headers["BPA-Made-At"] == changes.id_of(number)
    assert received.run_id not in before.text


async def test_whoever_acts_sees_what_came_of_it_at_once(rest: Rest, fleet: Fleet):
    await fleet.register()
    before = (await rest.get("/ui/fleet", headers=PART)).text
    await rest.request("POST", "/ui/fleet/node-1/cordon", headers=OURS, allow_redirects=False)
    assert (await rest.get("/ui/fleet", headers=PART)).text != before


async def test_no_part_is_older_than_the_page_that_was_loaded(rest: Rest, fleet: Fleet):
    await rest.get("/ui/runs", headers=PART)
    received = await fleet.runs.receive(arrival(1))
    assert received.run_id in (await rest.get("/ui/runs")).text
    assert received.run_id in (await rest.get("/ui/runs", headers=PART)).text


async def test_what_is_refused_is_refused_to_each(rest: Rest):
    await rest.get("/ui/runs", headers=PART)
    foreign = {**PART, "Host": "evil.example"}
    assert (await rest.get("/ui/runs", headers=foreign)).status == 403
    assert (await rest.get("/ui/runs", headers=PART)).status == 200
    assert [(await rest.get("/ui/nothing", headers=PART)).status for _ in range(2)] == [404, 404]

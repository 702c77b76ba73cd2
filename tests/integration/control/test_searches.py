"""The search among runs: every qualifier finds what it says, and pages hold still."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from bpa.control import searches
from bpa.control.search import Search, read_search
from bpa.control.searches import Searches
from bpa.domain.executions import Outcome, OutcomeKind
from bpa.domain.runs import RunId
from bpa.errors import Reason
from bpa.postgres import Pool
from tests.integration.control.fleet import DEP_ID, Fleet, arrival
from tests.integration.control.rest import Rest, rest_over

INPUTS = {
    1: {"message_id": "m-0001", "invoice_id": "INV-2026/0001", "vendor": "Müller & Söhne GmbH"},
    2: {"message_id": "m-0002", "invoice_id": "INV-2026/0002", "vendor": "Acme Tools"},
    3: {"message_id": "it's \\ 'odd' & | ! :* <->", "vendor": "<script>%s%(x)s"},
    4: {"message_id": "m-0004"},
    5: {"message_id": None},
}


@pytest.fixture
async def runs(fleet: Fleet) -> dict[int, RunId]:
    """One completed, one dead-lettered, one running, two that wait; all on one queue."""
    await fleet.register()
    found: dict[int, RunId] = {}
    for number, known in INPUTS.items():
        source = {"queue": "invoices", "sequence_number": number, **known}
        found[number] = (await fleet.runs.receive(arrival(number, input_ref=source))).run_id
    for number in (1, 2, 3):
        await fleet.leases.acknowledge(found[number], await fleet.granted(found[number]))
    result = {"vendor": "Nordwind", "invoice_id": "N-77"}
    await fleet.runs.finish(found[1], 1, Outcome(kind=OutcomeKind.COMPLETED, result=result))
    rejected = Outcome(kind=OutcomeKind.REJECTED, reason=Reason.BUDGET_EXCEEDED, detail="spent")
    await fleet.runs.finish(found[2], 1, rejected)
    async with fleet.pool.connection() as connection:
        await connection.execute(
            "update runs set cost_usd = 0.07, tokens_used = 900, executions = 2 where run_id = %s",
            (found[2],),
        )
    return found


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", {1, 2, 3, 4, 5}),
        ("status:completed", {1}),
        ("status:dead_lettered", {2}),
        ("status:active", {3, 4, 5}),
        ("status:queued,completed", {1, 4, 5}),
        ("agent:invoice-classifier", {1, 2, 3, 4, 5}),
        ("agent:another", set()),
        (f"deployment:{DEP_ID} status:running", {3}),
        ("node:node-1", {1, 2, 3}),
        ("queue:invoices node:node-1", {1, 2, 3}),
        ("queue:other", set()),
        ("reason:BudgetExceeded", {2}),
        ("error:AgentError", set()),
        ("attempt:>1", {2}),
        ("attempt:<=1 status:dead_lettered", set()),
        ("cost:>0.05", {2}),
        ("cost:0.07", {2}),
        ("cost:<0.05 node:node-1", {1, 3}),
        ("tokens:>=900", {2}),
        ("since:1h", {1, 2, 3, 4, 5}),
        ("until:1h", set()),
        ("since:2000-01-01 until:2001-01-01", set()),
        ("trace:0af7651916cd43dd8448eb211c80319c", {1, 2, 3, 4, 5}),
        ("trace:" + "0" * 32, set()),
        ("replay:no", {1, 2, 3, 4, 5}),
        ("replay:yes", set()),
        ("müller", {1}),
        ("MÜLLER söhne", {1}),
        ("inv-2026/0001", {1}),
        ("INV-2026", {1, 2}),
        ("nord", {1}),
        ("N-77", {1}),
        ("no", set()),
        ("acme status:dead_lettered", {2}),
        ("acme müller", set()),
        ("m-0004", {4}),
        ('"it\'s" odd', {3}),
        ("'odd'", {3}),
        ("script", {3}),
    ],
)
async def test_a_query_finds_its_runs(
    fleet: Fleet, runs: dict[int, RunId], query: str, numbers: set[int]
):
    search = search_of(query)
    rows, following = await fleet.searches.page(search)
    by_id = {run_id: number for number, run_id in runs.items()}
    assert ({by_id[row["run_id"]] for row in rows}, following) == (numbers, None)
    assert await fleet.searches.count(search) == len(numbers)
    walked, following = await Searches(fleet.pool, window_rows=2).walk(search)
    assert (walked, following) == (rows, None)


def search_of(query: str) -> Search:
    return read_search(query, datetime.now(UTC))


async def test_a_run_is_found_by_its_id(fleet: Fleet, runs: dict[int, RunId]):
    for run_id in runs.values():
        rows, _ = await fleet.searches.page(search_of(run_id))
        assert [row["run_id"] for row in rows] == [run_id]


async def test_a_replay_is_found_by_the_run_that_it_replays(fleet: Fleet, runs: dict[int, RunId]):
    async with fleet.pool.connection() as connection:
        await connection.execute(
            "insert into replays (run_id, replayed_run_id, original_run_id, replay_number, queue,"
            " sequence_number, dead_letter_reason, edited, body_sha256, requested_by)"
            " values (%s, %s, %s, 1, 'invoices', 2, 'BudgetExceeded', false, '', 'test')",
            (runs[4], runs[2], runs[2]),
        )
    for query in (f"replay:{runs[2]}", "replay:yes"):
        rows, _ = await fleet.searches.page(search_of(query))
        assert [row["run_id"] for row in rows] == [runs[4]]


@pytest.mark.parametrize("query", ["", "deployment:invoice-classifier-dev", "m", "status:active"])
async def test_pages_hold_still_while_runs_come_in(fleet: Fleet, query: str):
    for number in range(1, 8):
        source = {"queue": "invoices", "message_id": f"m {number}"}
        await fleet.runs.receive(arrival(number, input_ref=source))
    search, seen, cursor = search_of(query), [], None
    for late in range(100, 110):
        rows, cursor = await fleet.searches.page(search, cursor=cursor, limit=3)
        seen += [row["run_id"] for row in rows]
        await fleet.runs.receive(arrival(late, input_ref={"message_id": f"m {late}"}))
        if cursor is None:
            break
    expected = [arrival(number).run_id for number in range(7, 0, -1)]
    assert seen == expected


async def test_rest_searches_and_counts(rest: Rest, runs: dict[int, RunId]):
    answer = await rest.get(f"/v1/runs?q={quote('status:dead_lettered acme')}&count=true")
    (run,) = answer.json["runs"]
    assert (run["runId"], run["vendor"], run["invoiceId"], run["messageId"]) == (
        runs[2],
        "Acme Tools",
        "INV-2026/0002",
        "m-0002",
    )
    assert (answer.json["count"], answer.json["countIsExact"]) == (1, True)
    first = await rest.get("/v1/runs?q=node:node-1&limit=2")
    assert first.json["count"] is None
    link = first.headers["Link"].split(";")[0].strip("<>")
    assert "q=node%3Anode-1" in link
    second = await rest.get(link)
    assert len(first.json["runs"]) == 2
    assert [run["runId"] for run in second.json["runs"]] == [runs[1]]
    (completed,) = (await rest.get("/v1/runs?q=status:completed")).json["runs"]
    assert (completed["vendor"], completed["invoiceId"]) == ("Nordwind", "N-77")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("q=colour:red", "there is no qualifier 'colour'; there are status, agent"),
        ("q=status:bored", "'bored' is none of active"),
        ("q=" + "x" * 1001, "q: "),
        ("q=status:queued&status=queued", "said twice"),
        ("q=%22", "cannot be read"),
    ],
)
async def test_a_wrong_query_is_a_problem_in_words(rest: Rest, query: str, told: str):
    answer = await rest.get(f"/v1/runs?{query}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert told in answer.json["detail"]


async def test_a_search_that_took_too_long_is_not_tried_again_but_walks_at_once(
    fleet: Fleet, runs: dict[int, RunId], monkeypatch: pytest.MonkeyPatch
):
    tried: list[float] = []
    fetch = searches.fetch_within

    async def out_of_time(pool: Pool, query: str, time_s: float, **values: object) -> object:
        if time_s == searches._STATEMENT_S:
            return await fetch(pool, query, time_s, **values)
        tried.append(time_s)
        return None

    monkeypatch.setattr(searches, "fetch_within", out_of_time)
    looking = Searches(fleet.pool)
    for hours in (1, 2):
        search = search_of(f"node:node-1 cost:>0.01 since:{hours}h")
        rows, following = await looking.page(search)
        assert ([row["run_id"] for row in rows], following) == ([runs[2]], None)
        assert await looking.count(search) is None
    assert tried == [searches._TRY_S, searches._COUNT_S]

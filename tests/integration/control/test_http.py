"""What people and orchestrators ask control over REST."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import sql
from structlog.testing import capture_logs

from bpa.control.readiness import State
from bpa.postgres import open_pool
from tests.eventually import eventually
from tests.integration.conftest import PostgresServer
from tests.integration.control.fleet import DEP_ID, Fleet, arrival, fleet_on
from tests.integration.control.rest import PROBLEM, Rest, rest_over

AGENT = {
    "agentId": "sorter",
    "version": "1.0.0",
    "name": "Sorter",
    "instructions": "Sort.",
    "modelProfile": {"model": "claude-sonnet-4-5"},
}
DEPLOYMENT = {
    "agentId": "sorter",
    "version": "1.0.0",
    "environment": "dev",
    "queue": "letters",
    "routes": ["it"],
    "target": {"slotBudget": 2, "replicas": 3},
}
NOBODY = "018f0000-0000-8000-8000-000000000000"


@pytest.fixture
async def rest(fleet: Fleet) -> AsyncIterator[Rest]:
    async with rest_over(fleet) as rest:
        yield rest


async def test_an_agent_is_created_once_and_gets_versions(rest: Rest):
    made = await rest.post("/v1/agents", AGENT, headers={"Idempotency-Key": '"a-1"'})
    again = await rest.post("/v1/agents", AGENT)
    assert (made.status, again.status) == (201, 201)
    assert made.json == again.json
    assert made.headers["Location"] == "/v1/agents/sorter"
    assert made.json["spec"]["modelProfile"]["maxOutputTokens"] == 400

    other = await rest.post("/v1/agents", {**AGENT, "name": "Other"})
    assert (other.status, other.json["code"]) == (409, "conflict")
    assert "/v1/agents/sorter:version" in other.json["detail"]

    newer = await rest.post("/v1/agents/sorter:version", {**AGENT, "version": "1.1.0"})
    assert newer.status == 201
    assert newer.headers["Location"] == "/v1/agents/sorter/versions/1.1.0"
    one = await rest.get(newer.headers["Location"])
    assert one.json == newer.json
    changed = {**AGENT, "version": "1.1.0", "instructions": "Sort well."}
    assert (await rest.post("/v1/agents/sorter:version", changed)).status == 409

    versions = (await rest.get(made.headers["Location"])).json
    assert [version["version"] for version in versions] == ["1.0.0", "1.1.0"]
    everything = (await rest.get("/v1/agents")).json
    assert {version["agentId"] for version in everything} == {"invoice-classifier", "sorter"}


async def test_an_agent_that_is_not_there_is_not_found(rest: Rest):
    for path in ("/v1/agents/nobody", "/v1/agents/invoice-classifier/versions/9"):
        answer = await rest.get(path)
        assert (answer.status, answer.json["code"]) == (404, "not_found")
        assert answer.headers["Content-Type"] == PROBLEM
    nobody = await rest.post("/v1/agents/nobody:version", {**AGENT, "agentId": "nobody"})
    assert nobody.status == 404
    mismatch = await rest.post("/v1/agents/nobody:version", AGENT)
    assert mismatch.status == 400


async def test_a_deployment_is_created_once_and_takes_its_queue(rest: Rest):
    assert (await rest.post("/v1/deployments", DEPLOYMENT)).status == 404
    await rest.post("/v1/agents", AGENT)
    made = await rest.post("/v1/deployments?requestedBy=cli:ada@desk", DEPLOYMENT)
    again = await rest.post("/v1/deployments", DEPLOYMENT)
    assert (made.status, again.status) == (201, 201)
    assert made.json == again.json
    assert made.headers["Location"] == "/v1/deployments/sorter-dev"
    assert made.json["spec"]["target"]["slotBudget"] == 2
    assert rest.told[:2] == ["deployments_changed", "woken"]
    history = (await rest.get("/v1/deployments/sorter-dev/revisions")).json["revisions"]
    assert [one["requestedBy"] for one in history] == ["cli:ada@desk"]

    assert (await rest.get("/v1/deployments/sorter-dev")).json == made.json
    listed = (await rest.get("/v1/deployments", params={"environment": "dev"})).json
    assert [one["deploymentId"] for one in listed] == [DEP_ID, "sorter-dev"]
    assert (await rest.get("/v1/deployments", params={"environment": "prod"})).json == []
    assert (await rest.get("/v1/deployments/nothing")).status == 404

    differs = {**DEPLOYMENT, "routes": ["it", "hr"]}
    assert (await rest.post("/v1/deployments", differs)).status == 409
    second = {**AGENT, "agentId": "second"}
    await rest.post("/v1/agents", second)
    taken = await rest.post("/v1/deployments", {**DEPLOYMENT, "agentId": "second"})
    assert (taken.status, taken.json["code"]) == (409, "conflict")
    assert "letters" in taken.json["detail"]


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"target": {"slotBudget": 0}}, "target.slotBudget"),
        ({"target": {"slotBudget": 10**6, "replicas": 10**6}}, "target.slotBudget x"),
        ({"target": {"resources": {"memory": "9" * 400 + "Ti"}}}, "target.resources.memory"),
        ({"target": {"resources": {"cpu": "99999999999"}}}, "target.resources.cpu"),
        ({"budgets": {"maxDuration": "9" * 400 + "h"}}, "budgets.maxDuration"),
        ({"budgets": {"maxDuration": "soon"}}, "budgets.maxDuration"),
        ({"budgets": {"maxTokens": 2**40}}, "budgets.maxTokens"),
        ({"httpOut": {"timeoutS": 1e300}}, "httpOut.timeoutS"),
        ({"httpOut": {"baseUrl": "http://[oops/"}}, "httpOut.baseUrl"),
        ({"httpOut": {"baseUrl": "ftp://target/invoices"}}, "httpOut.baseUrl"),
        ({"httpOut": {"baseUrl": "target:8080/invoices"}}, "httpOut.baseUrl"),
        ({"httpOut": {"baseUrl": "https://me:secret@target/invoices"}}, "httpOut.baseUrl"),
        ({"maxEffects": 0}, "maxEffects"),
        ({"maxEffects": 6}, "maxEffects"),
        ({"environment": "dev/../prod"}, "environment"),
        ({"queue": ""}, "queue"),
        ({"routes": []}, "routes"),
        ({"inputSchema": {"type": "nonsense"}}, "inputSchema"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_a_deployment_that_makes_no_sense_is_refused_by_name(rest: Rest, part, named):
    answer = await rest.post("/v1/deployments", {**DEPLOYMENT, **part})
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert any(named in line for line in answer.json["errors"]), answer.text


async def test_nodes_are_listed_with_what_they_can_take(rest: Rest, fleet: Fleet):
    assert (await rest.get("/v1/nodes")).json == []
    body = {"nodeId": "n.1", "bootId": "b", "slots": 2, "labels": {"region": "aus-east"}}
    await rest.post("/v1/nodes:register", {**body, "version": "1.2"})
    [node] = (await rest.get("/v1/nodes")).json
    assert (node["nodeId"], node["slots"], node["slotsUsed"]) == ("n.1", 2, 0)
    assert (node["labels"], node["version"]) == ({"region": "aus-east"}, "1.2")
    assert (node["state"], node["draining"], node["drain"]) == ("ready", False, None)
    assert (await rest.get("/v1/nodes/n.1")).json["bootId"] == "b"
    assert (await rest.get("/v1/nodes/n.2")).status == 404
    for wrong in ({"slots": 0}, {"slots": 2**40}, {"nodeId": ""}, {"memoryBytes": -1}):
        refused = await rest.post("/v1/nodes:register", {**body, **wrong})
        assert (refused.status, refused.json["code"]) == (400, "invalid_request"), wrong


async def test_runs_are_paged_newest_first_and_each_once(rest: Rest, fleet: Fleet):
    made = [(await fleet.runs.receive(arrival(number))).run_id for number in range(1, 8)]
    await fleet.runs.cancel(made[0], "test", "not this one")
    seen, url = [], f"/v1/runs?status=queued&deployment={DEP_ID}&limit=2"
    for _ in range(9):
        page = await rest.get(url)
        seen += [run["runId"] for run in page.json["runs"]]
        link = page.headers.get("Link")
        if link is None:
            assert page.json["nextCursor"] is None
            break
        assert link.endswith('>; rel="next"')
        assert page.json["nextCursor"] in link.replace("%3D", "=")
        url = link.removeprefix("<").partition(">")[0]
    assert len(seen) == 6
    assert set(seen) == set(made[1:])
    assert (await rest.get("/v1/runs?deployment=none")).json["runs"] == []


async def test_a_run_shows_its_deliveries_and_why_it_waits(rest: Rest, fleet: Fleet):
    run_id = await fleet.queued()
    run = (await rest.get(f"/v1/runs/{run_id}")).json
    assert (run["status"], run["waitingReason"]) == ("queued", "not planned yet")
    assert [delivery["owner"] for delivery in run["deliveries"]] == ["replica-1"]
    assert run["inputRef"] == {"queue": "invoices", "sequence_number": 1}
    assert (await rest.get(f"/v1/runs/{run_id}/steps")).json == []
    for path in (f"/v1/runs/{NOBODY}", f"/v1/runs/{NOBODY}/steps", "/v1/runs/abc"):
        answer = await rest.get(path)
        assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_a_living_run_is_cancelled_once(rest: Rest, fleet: Fleet):
    first, second = await fleet.queued(1), await fleet.queued(2)
    plain = await rest.post(f"/v1/runs/{first}:cancel")
    assert plain.json == {"runId": first, "status": "dead_lettered", "cancelling": False}
    why = {"detail": "sent by mistake", "requestedBy": "alice"}
    reasoned = await rest.post(f"/v1/runs/{second}:cancel", why)
    assert reasoned.status == 200
    run = (await rest.get(f"/v1/runs/{second}")).json
    assert (run["status"], run["reason"]) == ("dead_lettered", "Cancelled")
    assert run["detail"] == "cancelled by api:alice: sent by mistake"
    again = await rest.post(f"/v1/runs/{first}:cancel")
    assert (again.status, again.json["code"]) == (409, "conflict")
    assert (await rest.post(f"/v1/runs/{NOBODY}:cancel")).status == 404
    assert (await rest.post("/v1/runs/abc:cancel")).status == 404


async def test_totals_count_runs_by_status_and_reason(rest: Rest, fleet: Fleet):
    await fleet.queued(1)
    await fleet.runs.cancel(await fleet.queued(2), "test", "no")
    totals = {total["status"]: total for total in (await rest.get("/v1/totals")).json}
    assert totals["queued"]["runs"] == 1
    assert totals["dead_lettered"]["reason"] == "Cancelled"
    assert totals["dead_lettered"]["tokensIn"] == 0
    assert totals["dead_lettered"]["latencyP95Ms"] > 0
    later = await rest.get("/v1/totals", params={"since": "2999-01-01T00:00:00Z"})
    assert later.json == []


async def test_health_names_the_store_that_is_away_and_the_process_stays_alive(fleet: Fleet):
    state = State()
    async with rest_over(fleet, lambda: state) as rest:
        for path in ("/readyz", "/startupz"):
            answer = await rest.get(path)
            assert answer.json == {"status": "ready", "reasons": [], "degraded": []}
        state = State(reasons=["Valkey does not answer"], degraded=["queue 'a' does not answer"])
        answer = await rest.get("/readyz")
        assert (answer.status, answer.json["status"]) == (503, "not ready")
        assert (answer.json["reasons"], answer.json["degraded"]) == (state.reasons, state.degraded)
        assert (await rest.get("/startupz")).status == 200, "it had its start"
        assert (await rest.get("/livez")).status == 200


async def test_until_the_schema_is_in_place_nothing_but_health_is_served(fleet: Fleet):
    state = State(started=False, reasons=["Postgres does not answer: no route"])
    async with rest_over(fleet, lambda: state) as rest:
        for path in ("/v1/runs", "/v1/nodes", "/schema"):
            answer = await rest.get(path)
            assert (answer.status, answer.json["code"]) == (503, "unavailable")
            assert "no route" in answer.json["detail"]
            assert answer.headers["Retry-After"] == "2"
            assert answer.headers["Content-Type"] == PROBLEM
        for path in ("/readyz", "/startupz"):
            answer = await rest.get(path)
            assert (answer.status, answer.json["reasons"]) == (503, state.reasons)
        for path in ("/livez", "/metrics"):
            assert (await rest.get(path)).status == 200
        state = State()
        assert (await rest.get("/v1/runs")).status == 200


@asynccontextmanager
async def own_pool(database: str) -> AsyncIterator[Fleet]:
    """Services on connections that a test may cut."""
    pool = await open_pool(database, min_size=1, max_size=2, application_name="cut", timeout_s=0.3)
    try:
        async with fleet_on(pool) as fleet:
            yield fleet
    finally:
        await pool.close()


async def allow_connections(server: PostgresServer, database: str, *, is_allowed: bool) -> None:
    """Have Postgres take connections to the database, or cut them and take none."""
    name = sql.Identifier(database.rpartition("/")[2].partition("?")[0])
    admin = await psycopg.AsyncConnection.connect(server.dsn_of("postgres"), autocommit=True)
    async with admin:
        word = sql.SQL(str(is_allowed))
        await admin.execute(sql.SQL("alter database {} allow_connections {}").format(name, word))
        await admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'cut'"
        )


async def test_without_postgres_requests_are_told_to_come_back(
    database: str, postgres_server: PostgresServer
):
    async with own_pool(database) as cut, rest_over(cut) as rest:
        await allow_connections(postgres_server, database, is_allowed=False)
        assert (await rest.get("/livez")).status == 200
        for path in ("/v1/runs", f"/v1/runs/{NOBODY}", "/v1/deployments"):
            answer = await rest.get(path)
            assert (answer.status, answer.json["code"]) == (503, "unavailable")
            assert answer.headers["Retry-After"] == "2"
            assert answer.headers["Content-Type"] == PROBLEM
        complete = {"epoch": 1, "outcome": {"kind": "completed"}}
        assert (await rest.post(f"/v1/runs/{NOBODY}:complete", complete)).status == 503
        await allow_connections(postgres_server, database, is_allowed=True)

        async def is_back() -> bool:
            return (await rest.get("/v1/runs")).status == 200

        await eventually(is_back)
        assert (await rest.post(f"/v1/runs/{NOBODY}:complete", complete)).status == 409


async def test_a_fault_of_ours_is_told_without_its_insides_and_logged_once(
    rest: Rest, fleet: Fleet, caplog: pytest.LogCaptureFixture
):
    async with fleet.pool.connection() as connection:
        await connection.execute("alter table agent_versions rename to mislaid")
    with capture_logs() as logs, caplog.at_level(logging.DEBUG):
        answer = await rest.get("/v1/agents")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "agent_versions" not in answer.text
    assert [log["event"] for log in logs] == ["request_failed"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_metrics_are_in_the_format_of_prometheus(rest: Rest):
    answer = await rest.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=1.0.0; charset=utf-8"
    assert "bpa_leases_fenced_total 0.0" in answer.text

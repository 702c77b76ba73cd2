"""Rows of the first release go on under the present schema."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from bpa.control.offers import _QUERIES, step_of
from bpa.control.rest.run_schemas import Run
from bpa.control.revisions import Edit
from bpa.domain.executions import Outcome, OutcomeKind, TargetSeen
from bpa.domain.journal import ModelCall, Usage
from bpa.domain.runs import NodeId, RunId
from bpa.domain.specs import HttpOutSpec
from bpa.errors import Reason
from bpa.postgres import MIGRATIONS, fetch_all, fetch_one, migrate, open_pool
from tests.integration.control.fleet import DEP_ID, DEPLOYMENT, Fleet, arrival, fleet_on

QUEUED, WORKING, SILENT = (arrival(number).run_id for number in (1, 2, 3))
NUMBERS = {QUEUED: 1, WORKING: 2, SILENT: 3}

AGENT = """
insert into agents (agent_id, name, instructions, model_profile) values ('a', 'A', 'Do.', '{}');
insert into agent_versions (agent_id, version, spec) values ('a', '1.0.0', '{}');
insert into nodes (node_id, boot_id, metadata, capacity)
values ('node-1', 'boot-1', '{}', '{"slots": 8}');
"""
DEPLOYED = """
insert into deployments (dep_id, agent_id, version, env, queue, target)
values (%(dep_id)s, 'a', '1.0.0', 'dev', 'invoices', %(spec)s::jsonb)
"""
RUN = """
insert into runs (
    run_id, agent_id, version, dep_id, input_ref, status, trace_id, effect_key, traceparent,
    enqueued_at, lease_epoch
)
values (
    %(run_id)s, 'a', '1.0.0', %(dep_id)s,
    jsonb_build_object('sequence_number', %(number)s::bigint), %(status)s, 't',
    'k', 'p', now(), 1
)
"""
DELIVERY = (
    "insert into deliveries (run_id, owner, delivery_count) values (%(run_id)s, 'replica-0', 0)"
)
LEASE = """
insert into leases (
    run_id, node_id, boot_id, dep_id, epoch, cpu_millis, memory_bytes, acknowledged_at, expires_at
)
values (
    %(run_id)s, 'node-1', 'boot-1', %(dep_id)s, 1, 0, 0, now(), now() + interval '1 minute'
)
"""
ANSWERED = """
insert into steps (run_id, seq, kind, digest, answer, usage, cost_usd, epoch, started_at, ended_at)
values (
    %(run_id)s, 0, 'model', 'd', '{}',
    '{"input_tokens": 100, "cost_usd": "0.0003", "price_source": "a list, 1"}', 0.0003, 1, now(),
    now()
)
"""


@pytest.fixture
async def fleet(empty_database: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    """The services over a database that the first release left with three runs."""
    shutil.copy(MIGRATIONS / "0001_runs.sql", tmp_path)
    assert await migrate(empty_database, tmp_path) == ["0001_runs.sql"]
    pool = await open_pool(empty_database, min_size=1, max_size=4, application_name="test")
    async with pool:
        async with pool.connection() as connection:
            await connection.execute(AGENT)
            spec = msgspec.json.encode(DEPLOYMENT).decode()
            await connection.execute(DEPLOYED, {"dep_id": DEP_ID, "spec": spec})
            for run_id, number in NUMBERS.items():
                status = "queued" if run_id == QUEUED else "running"
                values = {"run_id": run_id, "dep_id": DEP_ID, "status": status, "number": number}
                await connection.execute(RUN, values)
                await connection.execute(DELIVERY, values)
                if status == "running":
                    await connection.execute(LEASE, values)
                    await connection.execute(ANSWERED, values)
        assert len(await migrate(empty_database)) >= 10
        async with fleet_on(pool) as fleet:
            yield fleet


async def test_a_run_at_work_is_renewed_and_ends(fleet: Fleet):
    node, held = NodeId("node-1"), [(RunId(WORKING), 1), (RunId(SILENT), 1)]
    assert sorted((await fleet.leases.renew(node, "boot-1", held)).renewed) == sorted(held)
    await fleet.runs.finish(WORKING, 1, Outcome(kind=OutcomeKind.COMPLETED))
    run = await fleet.history.get(WORKING)
    assert (run["status"], run["replay_of"], run["cancel_asked_at"]) == ("completed", None, None)


async def test_a_lease_lapses_and_counts_as_the_first(fleet: Fleet):
    await fleet.expire(SILENT)
    assert await fleet.leases.reap() == 1
    run = await fleet.history.get(SILENT)
    assert (run["status"], run["infra_failures"], run["lease_epoch"]) == ("queued", 1, 2)


async def test_a_recorded_answer_says_which_model_gave_it_and_is_replayed(fleet: Fleet):
    (step,) = Run.of(await fleet.history.get(SILENT)).steps
    asked = ModelCall(provider="anthropic", model="claude-haiku-4-5", max_tokens=400)
    assert (step.call, step.cost_usd, step.answered) == (asked, "0.0003", True)
    (row,) = await fetch_all(fleet.pool, _QUERIES.journals, run_ids=[SILENT])
    assert step_of(row).usage == Usage(input_tokens=100, cost_usd="0.0003")
    assert step_of(row).call == asked


async def test_waiting_runs_are_cancelled_and_the_node_drains(fleet: Fleet):
    assert await fleet.runs.cancel(QUEUED, "ops", "no longer wanted") == "dead_lettered"
    assert (await fleet.drains.drain("node-1", "ops")).taken_back == 0
    assert {row["run_id"] for row in await fleet.drains.remaining("node-1")} == {WORKING, SILENT}


async def test_the_deployment_is_edited_and_its_runs_go_by_what_it_says_now(fleet: Fleet):
    (first,) = await fleet.revisions.page(DEP_ID, None, 9)
    assert (first["actor"], first["note"]) == ("unknown", "made before revisions were kept")
    moved = HttpOutSpec(base_url="https://new.example")
    spec = replace(DEPLOYMENT, agent_id="a", http_out=moved)
    assert await fleet.revisions.edit(DEP_ID, Edit(spec=spec, actor="ops"), "1")
    known = "select target_revision(dep_id, revision) as revision from leases where run_id = %(id)s"
    assert await fetch_one(fleet.pool, known, id=WORKING) == {"revision": 2}
    seen = TargetSeen(host="https://new.example:443", tries=4, error="HTTP 503")
    failed = Outcome(kind=OutcomeKind.REJECTED, reason=Reason.RETRIES_EXHAUSTED, target=seen)
    await fleet.runs.finish(WORKING, 1, failed)
    (breaker,) = await fleet.breakers.page()
    assert (breaker["host"], breaker["deployments"]) == (seen.host, [DEP_ID])


async def test_a_second_delivery_ends_the_first_one_of_its_message(fleet: Fleet):
    received = await fleet.runs.receive(arrival(1, delivery_count=1))
    assert (received.is_new, received.verdict) == (False, None)
    await fleet.runs.cancel(QUEUED, "ops", "no longer wanted")
    await fleet.runs.settled(received.delivery_id, "dead_letter")
    deliveries = (await fleet.history.get(QUEUED))["deliveries"]
    assert [one["disposition"] for one in deliveries] == ["superseded", "dead_letter"]

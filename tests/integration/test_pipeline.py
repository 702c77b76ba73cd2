"""Many callers' statements in one round trip."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio

from bpa.errors import Unavailable
from bpa.postgres import Pipeline, Pool, fetch_all, open_pool


@pytest_asyncio.fixture
async def pool(empty_database: str) -> AsyncIterator[Pool]:
    pool = await open_pool(empty_database, min_size=1, max_size=2, application_name="test")
    await fetch_all(pool, "create table numbers (n int primary key)")
    try:
        yield pool
    finally:
        await pool.close()


async def insert(pipeline: Pipeline, number: int) -> list[dict[str, int]]:
    return await pipeline.fetch_all("insert into numbers values (%(n)s) returning n", n=number)


async def test_each_caller_gets_the_rows_of_its_own_statement(pool: Pool):
    pipeline = Pipeline(pool)
    rows = await asyncio.gather(*(insert(pipeline, n) for n in range(50)))
    assert rows == [[{"n": n}] for n in range(50)]


async def test_callers_of_one_round_trip_share_its_transaction(pool: Pool):
    pipeline = Pipeline(pool)
    stamp = "select pg_current_xact_id()::text as xid"
    first = asyncio.ensure_future(pipeline.fetch_all(stamp))
    others = [asyncio.ensure_future(pipeline.fetch_all(stamp)) for _ in range(5)]
    await first
    ids = {rows[0]["xid"] for rows in await asyncio.gather(*others)}
    assert len(ids) == 1


async def test_a_wrong_statement_fails_for_its_caller_alone(pool: Pool):
    pipeline = Pipeline(pool)
    await insert(pipeline, 3)
    results = await asyncio.gather(*(insert(pipeline, n) for n in range(6)), return_exceptions=True)
    assert isinstance(results.pop(3), psycopg.errors.UniqueViolation)
    assert results == [[{"n": n}] for n in (0, 1, 2, 4, 5)]
    assert len(await fetch_all(pool, "select n from numbers")) == 6


async def test_a_statement_without_rows_returns_none(pool: Pool):
    pipeline = Pipeline(pool)
    both = [pipeline.fetch_all("delete from numbers") for _ in range(3)]
    assert await asyncio.gather(*both) == [[], [], []]


async def test_a_lost_connection_is_told_to_every_caller(pool: Pool):
    pipeline = Pipeline(pool)
    kill = "select pg_terminate_backend(pg_backend_pid())"
    results = await asyncio.gather(
        *(pipeline.fetch_all(kill) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, Unavailable) for result in results)
    with pytest.raises(Unavailable):
        await pipeline.fetch_all(kill)


async def test_a_deadlock_is_told_to_nobody_whose_statement_succeeds_alone(pool: Pool):
    await fetch_all(
        pool,
        """create function undone_beside_a_write() returns int language plpgsql as $$ begin
            if pg_current_xact_id_if_assigned() is not null then
                raise exception 'deadlock detected' using errcode = '40P01';
            end if;
            return 1;
        end $$""",
    )
    pipeline = Pipeline(pool)
    first = asyncio.ensure_future(pipeline.fetch_all("select 0 as n"))
    written = asyncio.ensure_future(insert(pipeline, 7))
    undone = asyncio.ensure_future(pipeline.fetch_all("select undone_beside_a_write() as n"))
    assert await asyncio.gather(first, written, undone) == [[{"n": 0}], [{"n": 7}], [{"n": 1}]]

"""Control's services on a database of the test's own, with one agent deployed."""

from collections.abc import AsyncIterator

import pytest_asyncio

from bpa.domain.runs import TRANSITIONS
from bpa.postgres import Pool, open_pool
from tests.integration.control.fleet import AGENT, DEPLOYMENT, Fleet, fleet_on, hearing


@pytest_asyncio.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    pool = await open_pool(database, min_size=1, max_size=4, application_name="test")
    try:
        yield pool
    finally:
        await pool.close()


ONLY_LISTED = """
create function only_listed() returns trigger language plpgsql as $$ begin
    if not exists (select from listed where a = old.status and b = new.status) then
        raise exception 'a run may not move from % to %', old.status, new.status;
    end if;
    return new;
end $$
"""


async def only_listed(pool: Pool) -> None:
    """Have the database refuse each move of a run that is not in the table of transitions."""
    listed = {(str(a), str(b)) for a, events in TRANSITIONS.items() for b in events.values()}
    async with pool.connection() as connection:
        await connection.execute("create table listed (a text, b text)")
        async with connection.cursor() as cursor:
            await cursor.executemany("insert into listed values (%s, %s)", sorted(listed))
        await connection.execute(ONLY_LISTED)
        await connection.execute(
            "create trigger only_listed before update on runs for each row"
            " when (old.status <> new.status) execute function only_listed()"
        )


@pytest_asyncio.fixture
async def fleet(pool: Pool) -> AsyncIterator[Fleet]:
    """Runs, leases and nodes, with the agent and its deployment in place."""
    await only_listed(pool)
    async with fleet_on(pool) as fleet:
        await fleet.agents.create(AGENT)
        await fleet.deployments.create(DEPLOYMENT)
        yield fleet


@pytest_asyncio.fixture
async def listening(fleet: Fleet, database: str) -> AsyncIterator[None]:
    """What the replica hears of others, and tells them of broken streams."""
    async with hearing(fleet.offers, database):
        yield

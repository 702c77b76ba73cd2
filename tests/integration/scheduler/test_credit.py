import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from bpa.domain.runs import DeploymentId
from bpa.embedded.valkey import EmbeddedValkey
from bpa.scheduler.credit import Credit
from bpa.scheduler.rooms import Room
from bpa.valkey import open_valkey
from tests.eventually import eventually

DEP = DeploymentId("dep-1")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)


@pytest.fixture
async def valkey(valkey_url):
    client = await open_valkey(valkey_url, client_name="credit")
    yield client
    await client.aclose()


@pytest.fixture
def credit(valkey):
    return Credit(valkey)


async def test_replicas_together_reserve_no_more_than_the_room(credit):
    room = Room(10, NOW)
    assert await credit.reserve(DEP, room, 6, "a") == 6
    assert await credit.reserve(DEP, room, 6, "b") == 4
    assert await credit.reserve(DEP, room, 6, "c") == 0
    await credit.release(DEP, "a")
    assert await credit.reserve(DEP, room, 99, "c") == 6


async def test_many_replicas_that_reserve_at_once_do_not_exceed_the_room(credit):
    got = await asyncio.gather(
        *(credit.reserve(DEP, Room(23, NOW), 16, f"replica-{n}") for n in range(40))
    )
    assert sum(got) == 23


async def test_a_replica_has_at_most_sixteen_at_a_time(credit):
    assert await credit.reserve(DEP, Room(100, NOW), 50, "a") == 16
    assert await credit.reserve(DEP, Room(100, NOW), 50, "a") == 16, "it replaces, not adds"
    assert await credit.reserve(DEP, Room(17, NOW), 50, "b") == 1


async def test_deployments_have_rooms_of_their_own(credit):
    assert await credit.reserve(DEP, Room(1, NOW), 1, "a") == 1
    assert await credit.reserve(DeploymentId("dep-2"), Room(1, NOW), 1, "a") == 1


async def test_a_room_that_does_not_count_what_came_in_since_is_smaller(credit):
    old, new = Room(8, NOW), Room(5, LATER)
    assert await credit.reserve(DEP, old, 8, "a") == 8
    await credit.release(DEP, "a", [NOW + timedelta(milliseconds=n) for n in (100, 100, 200)])
    assert await credit.reserve(DEP, old, 8, "b") == 5
    await credit.release(DEP, "b")
    assert await credit.reserve(DEP, new, 8, "b") == 5


async def test_a_run_whose_insert_may_have_been_open_is_not_believed_to_be_counted(credit):
    await credit.release(DEP, "a", [NOW - timedelta(milliseconds=2)])
    assert await credit.reserve(DEP, Room(3, NOW), 3, "b") == 2
    assert await credit.reserve(DEP, Room(3, LATER), 3, "b") == 3


async def test_without_room_nothing_is_reserved(credit):
    assert await credit.reserve(DEP, Room(0, NOW), 3, "a") == 0
    assert await credit.reserve(DEP, Room(3, NOW), 0, "a") == 0


async def test_the_reservations_of_a_replica_that_died_expire(valkey):
    credit = Credit(valkey, ttl_s=0.2)
    room = Room(3, NOW)
    assert await credit.reserve(DEP, room, 3, "dead") == 3
    assert await credit.reserve(DEP, room, 3, "alive") == 0

    async def expired():
        return await credit.reserve(DEP, room, 3, "alive") == 3

    await eventually(expired)


async def test_records_do_not_pile_up(credit, valkey):
    for n in range(5):
        await credit.release(DEP, "a", [NOW + timedelta(minutes=n)])
    assert await valkey.zcard("{bpa:credit:dep-1}:recorded") == 1


async def test_with_valkey_away_one_message_at_a_time_may_come_in(data_dir):
    async with EmbeddedValkey(data_dir) as server:
        client = await open_valkey(server.url, client_name="credit")
        credit = Credit(client)
        assert await credit.reserve(DEP, Room(8, NOW), 8, "a") == 8
    try:
        assert await credit.reserve(DEP, Room(8, NOW), 8, "a") == 1
        assert await credit.reserve(DEP, Room(0, NOW), 8, "a") == 0
        await credit.release(DEP, "a", [NOW])
    finally:
        await client.aclose()

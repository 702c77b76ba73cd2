"""The pool, migrations and notifications, against a real Postgres."""

import asyncio
import datetime as dt
import random
from pathlib import Path

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from bpa.embedded.postgres import EmbeddedPostgres
from bpa.errors import StartupError, Unavailable
from bpa.postgres import (
    Notifications,
    Pipeline,
    Pool,
    fetch_all,
    migrate,
    open_pool,
    translated,
)
from tests.cancelling import cancelled_after
from tests.eventually import eventually


async def _value(dsn: str, statement: str) -> object:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        row = await (await connection.execute(statement.encode())).fetchone()
        return row and row[0]


async def test_a_pooled_connection_speaks_utc_autocommits_and_returns_dicts(database: str) -> None:
    pool = await open_pool(database, application_name="test-pool")
    async with pool, pool.connection() as connection:
        row = await (
            await connection.execute(
                "SELECT now() AS at, current_setting('application_name') AS name,"
                " current_setting('statement_timeout') AS timeout"
            )
        ).fetchone()
        assert row is not None
        assert row["at"].utcoffset() == dt.timedelta(0)
        assert row["name"] == "test-pool"
        assert row["timeout"] == "8s"
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_a_pool_on_a_postgres_that_is_away_says_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Postgres does not answer"):
        await open_pool(
            f"postgresql://bpa@/bpa?host={tmp_path}", application_name="test", timeout_s=0.2
        )


async def test_a_statement_that_is_cancelled_when_it_gets_its_connection_ends_so(
    database: str,
) -> None:
    pool: Pool = await open_pool(database, min_size=1, max_size=1, application_name="test")
    under_way = 0
    async with pool:
        for turns in range(10):
            connection = await pool.getconn()
            waiter = asyncio.ensure_future(fetch_all(pool, "SELECT 1 AS one"))
            await eventually(lambda: pool.get_stats().get("requests_waiting"))
            give_back = asyncio.ensure_future(pool.putconn(connection))
            under_way += await cancelled_after(turns, waiter)
            await give_back
        assert under_way >= 3, "before, in and after the moment in which the pool hands it over"
        assert await fetch_all(pool, "SELECT 1 AS one") == [{"one": 1}]


async def test_an_exhausted_pool_says_unavailable(database: str) -> None:
    pool: Pool = await open_pool(database, min_size=1, max_size=1, application_name="test")
    async with pool, pool.connection():
        with pytest.raises(Unavailable) as caught, translated():
            async with pool.connection(timeout=0.05):
                pass
        assert isinstance(caught.value.__cause__, PoolTimeout)


async def test_a_severed_connection_says_unavailable_and_the_pool_recovers(database: str) -> None:
    pool = await open_pool(database, min_size=1, max_size=1, application_name="test")
    async with pool:
        with pytest.raises(Unavailable), translated():
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        async def works() -> bool:
            async with pool.connection() as connection:
                return (await connection.execute("SELECT 1")).rowcount == 1

        assert await eventually(works)


async def test_a_violated_constraint_is_not_taken_for_an_outage(database: str) -> None:
    pool = await open_pool(database, min_size=1, application_name="test")
    async with pool, pool.connection() as connection:
        await connection.execute("CREATE TABLE things (id int PRIMARY KEY)")
        await connection.execute("INSERT INTO things VALUES (1)")
        with pytest.raises(psycopg.errors.UniqueViolation), translated():
            await connection.execute("INSERT INTO things VALUES (1)")


async def test_a_schema_that_changes_under_a_replica_costs_a_moment(empty_database: str) -> None:
    pool = await open_pool(empty_database, min_size=1, max_size=1, application_name="test")
    writes = Pipeline(pool)
    async with pool:
        await fetch_all(pool, "CREATE TABLE things (id int)")
        for _ in range(3):  # prepared from its second use on
            assert await fetch_all(pool, "SELECT * FROM things") == []
        async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as other:
            await other.execute("ALTER TABLE things ADD COLUMN name text")
        with pytest.raises(Unavailable, match="another schema"):
            await fetch_all(pool, "SELECT * FROM things")

        async def works() -> bool:
            return await fetch_all(pool, "SELECT * FROM things") == []

        await eventually(works)
        async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as other:
            await other.execute("ALTER TABLE things ADD COLUMN size int")
        together = (writes.fetch_all("SELECT * FROM things") for _ in range(3))
        await asyncio.gather(*together, return_exceptions=True)
        await eventually(works)
        await writes.aclose()


# --- Migrations ---


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text(
        "CREATE TABLE one (id int);\nINSERT INTO one VALUES (1);\n"
    )
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE two (id int);\n")
    return tmp_path


async def test_migrations_are_applied_in_order_and_once(
    empty_database: str, migrations: Path
) -> None:
    assert await migrate(empty_database, migrations) == ["0001_first.sql", "0002_second.sql"]
    assert await migrate(empty_database, migrations) == []
    (migrations / "0003_third.sql").write_text("CREATE TABLE three (id int)")
    assert await migrate(empty_database, migrations) == ["0003_third.sql"]
    assert await _value(empty_database, "SELECT count(*) FROM one") == 1


async def test_starters_that_race_apply_each_migration_once(
    empty_database: str, migrations: Path
) -> None:
    applied = await asyncio.gather(*(migrate(empty_database, migrations) for _ in range(5)))
    assert sorted(name for names in applied for name in names) == [
        "0001_first.sql",
        "0002_second.sql",
    ]
    assert await _value(empty_database, "SELECT count(*) FROM one") == 1


async def test_a_changed_migration_is_refused_by_name(
    empty_database: str, migrations: Path
) -> None:
    await migrate(empty_database, migrations)
    (migrations / "0001_first.sql").write_text("CREATE TABLE one (id bigint);\n")
    with pytest.raises(StartupError, match=r"0001_first\.sql has changed"):
        await migrate(empty_database, migrations)


async def test_a_failing_migration_leaves_nothing_of_itself(
    empty_database: str, migrations: Path
) -> None:
    (migrations / "0003_third.sql").write_text("CREATE TABLE three (id int); SELECT nonsense;")
    with pytest.raises(StartupError, match=r'0003_third\.sql fails: column "nonsense"'):
        await migrate(empty_database, migrations)
    assert await _value(empty_database, "SELECT to_regclass('two')::text") == "two"
    assert await _value(empty_database, "SELECT to_regclass('three')::text") is None
    (migrations / "0003_third.sql").write_text("CREATE TABLE three (id int)")
    assert await migrate(empty_database, migrations) == ["0003_third.sql"]


async def test_a_migration_numbered_below_an_applied_one_is_refused(
    empty_database: str, migrations: Path
) -> None:
    (migrations / "0001_first.sql").rename(migrations / "0005_first.sql")
    await migrate(empty_database, migrations)
    (migrations / "0003_late.sql").write_text("SELECT 1")
    with pytest.raises(StartupError, match=r"Renumber the migration 0003_late\.sql"):
        await migrate(empty_database, migrations)


async def test_versions_of_a_newer_release_are_left_alone(
    empty_database: str, migrations: Path
) -> None:
    await migrate(empty_database, migrations)
    (migrations / "0002_second.sql").unlink()
    assert await migrate(empty_database, migrations) == []


async def test_two_migrations_with_one_number_are_refused(
    empty_database: str, migrations: Path
) -> None:
    (migrations / "0002_other.sql").write_text("SELECT 1")
    with pytest.raises(StartupError, match="has its number already"):
        await migrate(empty_database, migrations)


async def test_a_misnamed_migration_is_refused(empty_database: str, migrations: Path) -> None:
    (migrations / "third.sql").write_text("SELECT 1")
    with pytest.raises(StartupError, match=r"Rename the migration third\.sql"):
        await migrate(empty_database, migrations)


# --- Notifications ---


def _notifications(dsn: str) -> Notifications:
    return Notifications(dsn, application_name="test-listen", rng=random.Random(1))


async def _notify(dsn: str, channel: str, payload: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("SELECT pg_notify(%s, %s)", (channel, payload))


async def test_a_notification_reaches_every_subscriber_of_its_channel_and_no_other(
    database: str,
) -> None:
    hub = _notifications(database)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        running = group.create_task(hub.run())
        with (
            hub.subscribe("one") as first,
            hub.subscribe("one") as second,
            hub.subscribe("Other channel") as other,
        ):
            for subscription in (first, second, other):
                assert not (await subscription.next()).complete  # now it is listened to
            await _notify(database, "one", "hello")
            for subscription in (first, second):
                wakeup = await subscription.next()
                assert wakeup.payloads == ("hello",)
                assert wakeup.complete
            await _notify(database, "Other channel", "quoted")
            assert (await other.next()).payloads == ("quoted",)
            assert not first._ready.is_set()
        running.cancel()


async def test_a_channel_can_be_subscribed_while_the_connection_stands(database: str) -> None:
    hub = _notifications(database)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        running = group.create_task(hub.run())
        with hub.subscribe("early") as early:
            await early.next()
            with hub.subscribe("late") as late:
                await late.next()
                await _notify(database, "late", "x")
                assert (await late.next()).payloads == ("x",)
        running.cancel()


async def test_payloads_that_came_together_are_one_wakeup_without_repeats(database: str) -> None:
    hub = _notifications(database)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        running = group.create_task(hub.run())
        with hub.subscribe("many") as many, hub.subscribe("end") as end:
            await many.next()
            await end.next()
            for payload in ("a", "b", "a", "c"):
                await _notify(database, "many", payload)
            await _notify(database, "end", "")
            await end.next()  # delivered in order: the others have arrived
            assert (await many.next()).payloads == ("a", "b", "c")
        running.cancel()


async def test_a_lost_connection_is_replaced_and_wakes_everybody(database: str) -> None:
    hub = _notifications(database)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        running = group.create_task(hub.run())
        with hub.subscribe("one") as subscription:
            await subscription.next()
            severed = await _value(
                database,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'test-listen' AND datname = current_database()",
            )
            assert severed == 1
            assert not (await subscription.next()).complete
            await _notify(database, "one", "again")
            assert (await subscription.next()).payloads == ("again",)
        running.cancel()


async def test_notifications_outlast_a_restart_of_postgres(data_dir: Path) -> None:
    async with (
        asyncio.timeout(60),
        EmbeddedPostgres(data_dir, settings={"fsync": "off"}) as postgres,
        asyncio.TaskGroup() as group,
    ):
        hub = _notifications(postgres.dsn)
        running = group.create_task(hub.run())
        with hub.subscribe("one") as subscription:
            await subscription.next()
            await postgres.process.stop()
            postgres.process.start()
            assert not (await subscription.next()).complete
            await _notify(postgres.dsn, "one", "back")
            assert (await subscription.next()).payloads == ("back",)
        running.cancel()

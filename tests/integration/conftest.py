"""A real Postgres and a real Valkey, one each for the whole session, fresh for every test."""

import asyncio
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql

from bpa.embedded.postgres import EmbeddedPostgres
from bpa.embedded.valkey import EmbeddedValkey
from bpa.postgres import MIGRATIONS, migrate

# Tests may lose their data with the machine; what they save is most of the time of a commit.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(slots=True)
class PostgresServer:
    """The session's server and the database that every test's own is copied from."""

    dsn: str
    template: str
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def dsn_of(self, database: str) -> str:
        return self.dsn.replace("/bpa?", f"/{database}?")


@pytest.fixture(scope="session")
def postgres_server(
    runner: asyncio.Runner, made_cluster: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresServer]:
    """One Postgres for the session; tests take ``database``."""
    data_dir = shutil.copytree(made_cluster, tmp_path_factory.mktemp("postgres") / "data")
    embedded = EmbeddedPostgres(data_dir, settings=FAST)
    runner.run(embedded.__aenter__())
    try:
        server = PostgresServer(embedded.dsn, template="bpa")
        if MIGRATIONS.is_dir() and any(MIGRATIONS.glob("*.sql")):
            runner.run(migrate(server.dsn))
        yield server
    finally:
        runner.run(embedded.__aexit__())


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The connection string of a database with nothing in it, gone after the test."""
    yield from _fresh_database(postgres_server, "template0")


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The connection string of a freshly migrated database, gone after the test."""
    yield from _fresh_database(postgres_server, postgres_server.template)


def _fresh_database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test_{next(server.numbers)}"
    created = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
    with psycopg.connect(server.dsn_of("postgres"), autocommit=True) as connection:
        connection.execute(created.format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield server.dsn_of(name)
        finally:
            dropped = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(dropped.format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def valkey_server(
    runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """One Valkey for the session; tests take ``valkey_url``."""
    embedded = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    runner.run(embedded.__aenter__())
    try:
        yield embedded.url
    finally:
        runner.run(embedded.__aexit__())


@pytest.fixture
def valkey_url(valkey_server: str) -> str:
    """The address of a Valkey with nothing in it."""
    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
        client.script_flush()
    return valkey_server

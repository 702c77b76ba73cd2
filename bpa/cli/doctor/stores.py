"""What control leans on: Postgres, Valkey and the queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row

from bpa.cli.doctor.deployed import queues
from bpa.cli.doctor.findings import Finding, Subject, failed, ok, unset, warning
from bpa.connectors.service_bus import (
    Administration,
    Backlog,
    BacklogReader,
    DeadLetterReader,
    Trouble,
    is_emulator,
    namespace_of,
)
from bpa.errors import BpaError, NotFound, StartupError
from bpa.postgres import (
    BoundedConnection,
    conninfo,
    load_queries,
    newest_migration,
    translated,
)
from bpa.valkey import open_valkey

_QUERIES = load_queries(__file__)
_POSTGRES_LEAST = 140_000  # SQL functions with a body that is parsed when they are made
_SKEW_NOTED_S = 0.5
_DELIVERIES_LEAST = 10


async def postgres(subject: Subject) -> list[Finding]:
    """Connect to Postgres; look at its version, its clock, our rights and the schema."""
    dsn = subject.settings.postgres.dsn
    if not subject.is_control:
        return []
    if not dsn:
        return [unset("postgres", subject, "postgres.dsn", "the database of runs")]
    try:
        row, off_s, known = await _asked(dsn)
    except BpaError as error:
        return [failed("postgres", str(error), "see that it runs and that postgres.dsn is right")]
    return list(_of_postgres(subject, row, off_s, known))


async def _asked(dsn: str) -> tuple[Mapping[str, Any], float, Mapping[str, Any] | None]:
    """Return what it says of itself, how far its clock is from ours, and whose schema it has."""
    with translated():
        async with await BoundedConnection.connect(
            conninfo(dsn, "bpa-doctor", statement_timeout_s=5), autocommit=True
        ) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            sent_s = time.time()
            row = await (await cursor.execute(_QUERIES.look)).fetchone()
            answered_s = time.time()
            assert row is not None, "it selects one row"
            off_s = max(sent_s - row["now_s"], row["now_s"] - answered_s, 0.0)
            known = None
            if row["is_migrated"]:
                try:
                    known = await (await cursor.execute(_QUERIES.migrated)).fetchone()
                except psycopg.errors.UndefinedTable:
                    known = None
            return row, off_s, known


def _of_postgres(
    subject: Subject, row: Mapping[str, Any], off_s: float, known: Mapping[str, Any] | None
) -> Iterator[Finding]:
    newest, version = newest_migration(), f"Postgres {row['version']}"
    if row["number"] < _POSTGRES_LEAST:
        yield failed("postgres", version, "Postgres 14 or newer is needed")
    elif row["is_standby"]:
        yield failed("postgres", f"{version}, a standby", "name the primary in postgres.dsn")
    elif not row["may_create"]:
        to_do = "grant CREATE on the schema to the user of postgres.dsn: migrations make tables"
        yield failed("postgres", f"{version}; we may not create tables", to_do)
    else:
        yield ok("postgres", version)
    yield _skew(subject, off_s)
    if known is None:
        yield ok("schema", f"none yet; control makes it at its first start, to {newest:04}")
    elif known["newest"] < newest:
        yield ok("schema", f"at {known['newest']:04}; control's next start takes it to {newest:04}")
    elif known["newest"] > newest:
        found = f"at {known['newest']:04}, which is newer than this bpa ({newest:04})"
        yield warning("schema", found, "fine while a newer release is rolled out; else update")
    else:
        yield ok("schema", f"at {newest:04}, as this bpa has it")
    yield from _of_namespace(subject, known)


def _of_namespace(subject: Subject, known: Mapping[str, Any] | None) -> Iterator[Finding]:
    bus = subject.settings.service_bus
    if known is None or known["namespace"] is None or not (bus.namespace or bus.connection_string):
        return
    ours = bus.namespace or namespace_of(bus.connection_string)
    if known["namespace"] != ours:
        found = f"the database belongs to namespace {known['namespace']!r}, not to {ours!r}"
        yield failed("schema", found, "name another database, or set service_bus.namespace")


def _skew(subject: Subject, off_s: float) -> Finding:
    most_s = subject.settings.control.clock_skew_max_s
    found = f"this host's and Postgres's are {off_s:.1f} s apart"
    if off_s > most_s:
        to_do = f"synchronise them (NTP): beyond {most_s:g} s control takes no work"
        return failed("clock", found, to_do)
    if off_s > _SKEW_NOTED_S:
        return warning("clock", found, f"synchronise them (NTP) before it is {most_s:g} s")
    return ok("clock", "as Postgres's")


async def valkey(subject: Subject) -> list[Finding]:
    """Ask Valkey, or Redis, for its version."""
    url = subject.settings.redis.url
    if not subject.is_control:
        return []
    if not url:
        return [unset("valkey", subject, "redis.url", "the store of slot holds")]
    try:
        client = await open_valkey(url, client_name="bpa-doctor")
    except BpaError as error:
        return [failed("valkey", str(error), "see that it runs and that redis.url is right")]
    try:
        told: dict[str, Any] = await client.info("server")
    finally:
        await client.aclose()
    name = "Valkey" if "valkey_version" in told else "Redis"
    return [ok("valkey", f"{name} {told.get('valkey_version') or told.get('redis_version')}")]


async def service_bus(subject: Subject) -> list[Finding]:
    """Look at each queue that is fed from: by a message's way, and by the administration's."""
    bus = subject.settings.service_bus
    if not subject.is_control:
        return []
    if not bus.connection_string:
        key = "service_bus.connection_string"
        return [unset("service bus", subject, key, "the namespace of the queues")]
    try:
        namespace_of(bus.connection_string)
    except StartupError as error:
        return [failed("service bus", str(error), "set BPA_SERVICE_BUS__CONNECTION_STRING")]
    address = bus.administration or bus.connection_string
    has_administration = bus.administration or not is_emulator(bus.connection_string)
    administration = Administration(address, bus.administration_ca) if has_administration else None
    reader = BacklogReader(bus.connection_string, administration)
    try:
        names = await queues(subject)
        found = await asyncio.gather(*(_queue(bus.connection_string, n, reader) for n in names))
        return [finding for findings in found for finding in findings]
    finally:
        await reader.aclose()


async def _queue(address: str, queue: str, reader: BacklogReader) -> list[Finding]:
    name = f"queue {queue}"
    try:
        await DeadLetterReader(address, queue).peek(1)
    except NotFound:
        to_do = "create it with a MaxDeliveryCount of 10 or more, or correct the deployment"
        return [failed(name, "the namespace has no such queue", to_do)]
    except BpaError as error:
        return [failed(name, str(error), "see service_bus.connection_string and the network")]
    return [_of_backlog(name, await reader.read(queue))]


def _of_backlog(name: str, backlog: Backlog) -> Finding:
    counts, deliveries = backlog.counts, backlog.max_delivery_count
    found = "reached"
    if counts is not None:
        found += f", {counts.active} waiting, {counts.dead_letters} dead"
    if backlog.trouble not in (None, Trouble.AGE_UNKNOWN):
        return warning(name, found, f"{backlog.detail}; counts are estimated until then")
    if deliveries is not None and deliveries < _DELIVERIES_LEAST:
        to_do = "set it to 10 or more, or the broker dead-letters before the platform can say why"
        return warning(name, f"{found}, MaxDeliveryCount {deliveries}", to_do)
    return ok(name, f"{found}, MaxDeliveryCount {deliveries}")

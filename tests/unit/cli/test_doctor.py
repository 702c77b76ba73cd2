"""What a check makes of what it saw."""

import pytest

from bpa.cli.doctor import machine, outside, stores
from bpa.cli.doctor.findings import State, Subject, bounded, unset
from bpa.config import load
from bpa.connectors.service_bus import Backlog, Counts, Trouble
from bpa.errors import Unavailable
from bpa.postgres import newest_migration

HERE = {"now_s": 0.0, "number": 180_001, "version": "18.1", "is_standby": False}
HERE |= {"may_create": True, "is_migrated": True}


def subject(role: str = "control", **environ: str) -> Subject:
    return Subject(
        load({f"BPA_{key}": value for key, value in environ.items()}).settings, role, None
    )


def worst(found):
    return max((one.state for one in found), key=list(State).index)


@pytest.mark.parametrize(
    ("changes", "off_s", "schema", "state", "said"),
    [
        ({}, 0.0, 0, State.OK, "Postgres 18.1"),
        ({}, 0.0, -1, State.OK, "next start takes it to"),
        ({}, 0.0, 1, State.WARNING, "newer than this bpa"),
        ({}, 1.0, 0, State.WARNING, "1.0 s apart"),
        ({}, 4.0, 0, State.FAILED, "control takes no work"),
        ({"number": 130_005, "version": "13.5"}, 0.0, 0, State.FAILED, "14 or newer"),
        ({"is_standby": True}, 0.0, 0, State.FAILED, "name the primary"),
        ({"may_create": False}, 0.0, 0, State.FAILED, "grant CREATE"),
    ],
)
def test_postgres_is_judged_by_version_rights_clock_and_schema(changes, off_s, schema, state, said):
    known = {"newest": newest_migration() + schema, "namespace": None}
    found = list(stores._of_postgres(subject(), HERE | changes, off_s, known))
    assert worst(found) is state
    assert said in " ".join(f"{one.found} {one.to_do}" for one in found)


def test_a_database_of_another_namespace_is_refused_before_the_start_is():
    known = {"newest": newest_migration(), "namespace": "other"}
    found = stores._of_postgres(subject(SERVICE_BUS__NAMESPACE="ours"), HERE, 0.0, known)
    assert worst(found) is State.FAILED


COUNTS = Counts(active=2, scheduled=0, dead_letters=1)


@pytest.mark.parametrize(
    ("backlog", "state", "to_do"),
    [
        (Backlog(counts=COUNTS, max_delivery_count=10), State.OK, ""),
        (Backlog(counts=COUNTS, max_delivery_count=3), State.WARNING, "10 or more"),
        (
            Backlog(counts=COUNTS, trouble=Trouble.NO_MANAGE, detail="needs Manage"),
            State.WARNING,
            "needs Manage",
        ),
    ],
)
def test_a_queue_is_judged_by_its_deliveries_and_our_right_to_count(backlog, state, to_do):
    found = stores._of_backlog("queue invoices", backlog)
    assert (found.state, to_do in found.to_do) == (state, True)


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, State.OK), (401, State.FAILED), (404, State.FAILED), (429, State.WARNING)],
)
def test_a_model_is_judged_by_what_counting_tokens_is_answered(status, state):
    assert outside._of_model("claude", status, "api.example.com").state is state


def test_an_address_is_shown_without_what_may_be_a_secret():
    assert outside._host("https://user:hunter2@api.example.com/x?sig=1") == "api.example.com"


@pytest.mark.parametrize(
    ("version", "kind", "bound", "holds"),
    [
        ("1.10.2", ">=", "1.9", True),
        ("1.8", ">=", "1.9", False),
        ("1.99", "<", "2", True),
        ("2.0.1", "<", "2", False),
        ("1.0.0b261022", "==", "1.0.0b261022", True),
        ("1.0.0b261023", "==", "1.0.0b261022", False),
    ],
)
def test_packages_are_compared_with_what_is_asked_for(version, kind, bound, holds):
    assert machine._holds(version, kind, bound) is holds


@pytest.mark.parametrize(("role", "state"), [("all", State.OK), ("control", State.FAILED)])
def test_what_no_setting_names_is_embedded_or_missing(role, state):
    found = unset("postgres", subject(role), "postgres.dsn", "the database")
    assert found.state is state
    assert ("BPA_POSTGRES__DSN" in found.to_do) is (role == "control")


async def test_what_a_check_raises_is_a_finding():
    async def broken_thing(_: Subject):
        raise Unavailable("it is away")

    (found,) = await bounded(broken_thing, subject())
    assert (found.check, found.state, found.found) == ("broken thing", State.FAILED, "it is away")

"""How ``bpa queues`` shows what waits."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from bpa.cli.queues import explained, table_of
from bpa.control.rest.queue_schemas import Queue


def one(**changes) -> Queue:
    values = {
        "queue": "invoices",
        "deployment_id": "invoice-classifier-dev",
        "agent_id": "invoice-classifier",
        "version": "1.0.0",
        "measured_at": datetime(2026, 11, 29, 3, 0, tzinfo=UTC),
        "reading_age_s": 12.0,
        "active": 128,
        "active_at_least": False,
        "scheduled": 7,
        "dead_letters": 3,
        "dead_letters_at_least": False,
        "estimated": False,
        "oldest_enqueued_at": datetime(2026, 11, 29, 2, 0, tzinfo=UTC),
        "oldest_age_s": 3600.0,
        "max_delivery_count": 10,
        "max_delivery_count_low": False,
        "trouble": None,
        "detail": "",
    }
    return Queue(**{**values, **changes})


ESTIMATED = {
    "estimated": True,
    "active": 1000,
    "active_at_least": True,
    "trouble": "administration_refused",
    "detail": "its key needs the Manage right",
}
UNKNOWN = {
    "measured_at": None,
    "reading_age_s": None,
    "active": None,
    "scheduled": None,
    "dead_letters": None,
    "oldest_age_s": None,
}


def line_of(queue: Queue, width: int = 80) -> list[str]:
    return lines_of(queue, width)[1].split()


def lines_of(queue: Queue, width: int = 80) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width, highlight=False).print(table_of([queue], width))
    return [line.rstrip() for line in screen.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "invoices 128 60 min 3 12 s ago"),
        ({"active": 0, "oldest_age_s": None}, "invoices 0 3 12 s ago"),
        ({"oldest_age_s": None}, "invoices 128 ? 3 12 s ago"),
        (UNKNOWN, "invoices ? ? ? not yet"),
        ({**UNKNOWN, "trouble": "queue_not_found"}, "invoices ? ? ? never does not exist"),
        (ESTIMATED, "invoices ~1000+ 60 min ~3 12 s ago estimated"),
        ({"trouble": "unreadable"}, "invoices 128 60 min 3 12 s ago cannot be read"),
        ({"trouble": "of_a_later_release"}, "invoices 128 60 min 3 12 s ago of_a_later_release"),
        (
            {"max_delivery_count": 3, "max_delivery_count_low": True},
            "invoices 128 60 min 3 12 s ago MaxDeliveryCount 3",
        ),
    ],
)
def test_a_queue_is_one_line_that_tells_known_from_estimated_from_unknown(changes, shown):
    assert " ".join(line_of(one(**changes))) == shown


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_long_name_and_a_long_note_stay_on_one_line_of_the_terminal(width):
    queue = one(
        queue="credit-notes-from-suppliers-abroad", **ESTIMATED, max_delivery_count_low=True
    )
    lines = lines_of(queue, width)
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)
    assert lines[1].startswith("credit-notes-from-suppliers-abroad ")
    assert "~1000+" in lines[1]


def test_what_a_note_names_is_said_with_what_to_do():
    queue = one(**ESTIMATED, max_delivery_count=3, max_delivery_count_low=True)
    trouble, low = explained(queue)
    assert trouble == "invoices: its key needs the Manage right"
    assert "MaxDeliveryCount is 3: set it to 10 or more" in low
    assert [*explained(one())] == []

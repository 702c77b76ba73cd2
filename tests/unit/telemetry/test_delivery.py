"""What is said and done when a collector does not take what we send."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from bpa.telemetry.otlp import Delivery, closed_within


class Collector:
    """Takes things or not, and has the exporter's library complain if it does not."""

    takes = False

    def __init__(self) -> None:
        self.asked = 0

    def send(self) -> bool:
        self.asked += 1
        if not self.takes:
            exporter = logging.getLogger("opentelemetry.exporter")
            exporter.warning("Transient error %s, retrying", "refused")
            exporter.warning("Transient error %s, retrying again", "refused")
            exporter.error("Failed to export due to timeout")
        return self.takes


@pytest.fixture
def lines() -> Any:
    with capture_logs() as lines:
        yield lines


def test_an_outage_is_said_when_it_begins_and_when_it_ends_with_what_was_lost(lines: Any) -> None:
    now_s, collector = 0.0, Collector()
    delivery = Delivery("logs", "http://user:word@collector:4318/x", lambda: now_s)
    for second in range(60):
        now_s = float(second)
        assert not delivery.deliver(10, collector.send)
    assert collector.asked == 4, "it is left in peace for 5, 10, 30, 30 s"
    collector.takes = True
    now_s = 200.0
    assert delivery.deliver(10, collector.send)
    assert delivery.deliver(10, collector.send)
    begun, ended = lines
    assert begun["event"] == "telemetry_not_delivered"
    why = "Transient error refused, retrying; Failed to export due to timeout"
    assert begun["why"] == why, "what it answered, and how the tries ended"
    assert begun["endpoint"] == "http://collector:4318"
    assert ended["event"] == "telemetry_delivered_again"
    assert (ended["dropped"], ended["after_s"]) == (600, 200.0)


def test_what_waits_elsewhere_is_not_said_to_be_lost(lines: Any) -> None:
    now_s, collector = 0.0, Collector()
    delivery = Delivery("traces", "http://collector:4318", lambda: now_s, kept="it waits there")
    assert not delivery.deliver(10, collector.send)
    delivery.close()
    collector.takes, now_s = True, 60.0
    assert delivery.deliver(10, collector.send)
    begun, ended = lines
    assert begun["effect"] == "it waits there; runs go on"
    assert ended["event"] == "telemetry_delivered_again"
    assert "dropped" not in ended


def test_what_an_exporter_raises_costs_its_items_only(lines: Any) -> None:
    def send() -> bool:
        raise RuntimeError("closed")

    delivery = Delivery("logs", "http://collector:4318")
    assert not delivery.deliver(3, send)
    delivery.close()
    assert [line["event"] for line in lines] == ["telemetry_not_delivered", "telemetry_lost"]
    assert lines[1]["dropped"] == 3


def test_closing_takes_no_longer_than_allowed() -> None:
    never, closed = threading.Event(), threading.Event()
    started_s = time.monotonic()
    closed_within(0.1, never.wait, closed.set, never.wait)
    assert time.monotonic() - started_s < 1
    assert closed.is_set()
    never.set()

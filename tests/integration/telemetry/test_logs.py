"""Log lines on standard error and over OTLP: the same events, and no secret in either."""

from __future__ import annotations

import json
import logging
import socket
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from bpa.config import Anthropic, Log, Postgres, Settings, Telemetry
from bpa.telemetry.logs import logging_of
from tests.eventually import eventually
from tests.integration.telemetry.collectors import PROTOCOLS, Taken, attributes, collector_of

RUN = {"run_id": "run-1", "trace_id": "0af7651916cd43dd8448eb211c80319c"}
SECRET, PASSWORD = "a-key-nobody-may-see", "word-nobody-may-see"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before, level, handlers = structlog.get_config(), root.level, list(root.handlers)
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level
    structlog.configure(**before)


def settings_of(url: str = "", protocol: Any = "http/protobuf", **log: Any) -> Settings:
    return Settings(
        log=Log(**{"format": "json", **log}),
        telemetry=Telemetry(otlp_endpoint=url, otlp_protocol=protocol),
        anthropic=Anthropic(api_key=SECRET),
        postgres=Postgres(dsn=f"postgresql://bpa:{PASSWORD}@db/bpa"),
    )


def say_all() -> None:
    """Log in every way there is."""
    log = structlog.get_logger()
    log.info("effect_applied", seq=2, span_id="b7ad6b7169203331", further={"tries": 1}, **RUN)
    log.debug("too_much")
    log.warning("quoted", error=f"401 for x-api-key {SECRET}", none=None)
    logging.getLogger("some.library").warning("no login with %s", PASSWORD)
    logging.getLogger("some.library").info("too much")
    payload = "an invoice of 100 EUR"
    try:
        raise ValueError(f"bad dsn postgresql://bpa:{PASSWORD}@db/bpa")
    except ValueError:
        log.exception("failed", **RUN)
        logging.getLogger("asyncio").exception("a task failed")
    assert payload
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("an old call", UserWarning, stacklevel=1)


def test_each_line_is_a_document_that_begins_with_what_people_look_for(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with logging_of(settings_of(), "all"):
        say_all()
    text = capfd.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    names = ["effect_applied", "quoted", "no login with ***", "failed", "a task failed"]
    assert [line["event"] for line in lines[:5]] == names
    assert "UserWarning: an old call" in lines[5]["event"]
    assert list(lines[0])[:6] == ["timestamp", "level", "event", "run_id", "trace_id", "span_id"]
    assert lines[0]["further"] == {"tries": 1}
    assert {line["role"] for line in lines} == {"all"}
    assert lines[2]["logger"] == "some.library"
    assert lines[3]["exception"].startswith("Traceback")
    assert "bpa:***@db" in lines[3]["exception"]
    for secret in (SECRET, PASSWORD, "100 EUR"):
        assert secret not in text


def test_a_terminal_gets_readable_lines_without_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_of(settings_of(format="console"), "all"):
        say_all()
    text = capfd.readouterr().err
    assert "effect_applied" in text
    assert "Traceback" in text
    assert not text.startswith("{")
    for secret in (SECRET, PASSWORD, "100 EUR"):
        assert secret not in text


def said_here(taken: Taken) -> list[tuple[dict[str, Any], Any]]:
    """The records but for what an exporter of another test still says of a collector that hangs."""
    return [one for one in taken.records() if not one[1].body.string_value.startswith("telemetry_")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("form", ["json", "console"])
async def test_the_same_events_arrive_as_records(protocol: str, form: str) -> None:
    async with collector_of(protocol) as taken:
        with logging_of(settings_of(taken.url, protocol, format=form), "node"):
            say_all()
            await eventually(lambda: len(said_here(taken)) == 6)
    sender, record = said_here(taken)[0]
    assert sender["service.name"] == "bpa-node"
    assert record.body.string_value == "effect_applied"
    assert (record.severity_text, record.severity_number) == ("INFO", 9)
    assert (record.trace_id.hex(), record.span_id.hex()) == (RUN["trace_id"], "b7ad6b7169203331")
    assert abs(record.time_unix_nano / 1e9 - time.time()) < 60
    fields = attributes(record.attributes)
    assert fields == {"run_id": "run-1", "seq": 2, "further": '{"tries":1}', "role": "node"}
    failed = said_here(taken)[3][1]
    assert (failed.trace_id.hex(), failed.severity_text) == (RUN["trace_id"], "ERROR")
    assert "Traceback" in attributes(failed.attributes)["exception"]
    sent = str(taken.requests)
    for secret in (SECRET, PASSWORD, "100 EUR"):
        assert secret not in sent


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_never_answers_costs_neither_lines_nor_time(
    capfd: pytest.CaptureFixture[str], protocol: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silence:
        url = f"http://127.0.0.1:{silence.getsockname()[1]}"
        with logging_of(settings_of(url, protocol), "all"):
            started_s = time.monotonic()
            for number in range(10_000):
                structlog.get_logger().info("something", number=number)
            logged_s = time.monotonic() - started_s
            started_s = time.monotonic()
        assert time.monotonic() - started_s < 3, "closing waits no longer than it may"
    assert logged_s < 20
    lines = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert lines.count("something") == 10_000
    assert len(lines) <= 10_002

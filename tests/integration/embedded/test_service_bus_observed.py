"""What can be seen of a running Service Bus emulator: metrics, logs, the live view, the command."""

import asyncio
import io
import os
import sys

import aiohttp
import pytest
from azure.servicebus import ServiceBusSubQueue
from azure.servicebus.exceptions import MessagingEntityNotFoundError
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from structlog.testing import capture_logs

from bpa.embedded.service_bus import QueueConfig
from bpa.embedded.service_bus import metrics as metrics_module
from bpa.embedded.service_bus.counts import Page, QueueCounts
from bpa.embedded.service_bus.top import table, watch
from bpa.errors import Unavailable
from tests.eventually import eventually
from tests.integration.embedded.service_bus import bus, receive_one

DEAD = ServiceBusSubQueue.DEAD_LETTER


def queue_first(labels):
    return [labels[name] for name in ("queue", "state", "outcome", "le") if name in labels]


async def samples(one):
    """All samples of ``/metrics``, by name and labels."""
    url = f"http://127.0.0.1:{one.emulator.admin_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    return {
        (sample.name.removeprefix("service_bus_"), *queue_first(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_metrics_tell_what_is_held_and_what_has_happened(tmp_path):
    async with bus(data_dir=tmp_path) as one, one.receiver() as receiver:
        await one.send(*"abcd")
        await receiver.complete_message(await receive_one(receiver))
        await receiver.abandon_message(await receive_one(receiver))
        await receiver.dead_letter_message(await receive_one(receiver))
        await receive_one(receiver)
        found = await samples(one)
        page = await samples(one)
    held = {state: found["messages", "invoices", state] for state in metrics_module._STATES}
    assert held == {"active": 1, "locked": 1, "scheduled": 0, "deferred": 0, "dead_lettered": 1}
    assert found["incoming_messages_total", "invoices"] == 4
    assert found["outgoing_messages_total", "invoices"] == 4
    for outcome in ("completed", "abandoned", "dead_lettered"):
        assert found["settled_messages_total", "invoices", outcome] == 1
    assert found["connections",] == 1
    assert found["links",] >= 2
    assert found["journal_bytes",] == (tmp_path / "journal.log").stat().st_size
    assert found["journal_sync_seconds_count",] >= 3
    assert 0 <= found["loop_lag_seconds",] < 5
    assert page.keys() == found.keys()


async def test_in_memory_there_is_no_journal_to_measure():
    async with bus() as one:
        found = await samples(one)
        assert (found["journal_bytes",], found["journal_sync_seconds_count",]) == (0, 0)


async def test_expired_locks_and_deleted_messages_are_counted():
    queue = QueueConfig("invoices", lock_duration_s=0.05, max_delivery_count=1)
    async with bus(queue) as one, one.receiver() as receiver:
        await one.send("x")
        await receive_one(receiver)
        async with one.receiver(sub_queue=DEAD, receive_mode="receiveanddelete") as dead:
            await receive_one(dead)
        found = await samples(one)
        assert found["settled_messages_total", "invoices", "lock_expired"] == 1
        assert found["settled_messages_total", "invoices", "received_and_deleted"] == 1


async def test_the_labels_are_bounded(monkeypatch):
    monkeypatch.setattr(metrics_module, "_MOST_QUEUES", 2)
    async with bus(*(QueueConfig(f"q{n}") for n in range(5))) as one:
        await one.send("x", queue="q3")
        await one.send("x", queue="q4")
        found = await samples(one)
    queues = {key[1] for key in found if key[0] == "messages"}
    assert queues == {"q0", "q1", "(others)"}
    assert found["messages", "(others)", "active"] == 2


async def test_connections_and_what_is_refused_are_logged_without_payloads():
    with capture_logs() as logged:
        async with bus() as one:
            await one.send("the payload")
            async with one.receiver() as receiver:
                await receiver.peek_messages()  # the links for it are detached behind the session
            with pytest.raises(MessagingEntityNotFoundError):
                async with one.receiver("nothere"):
                    pass
            await one.client.close()
            await eventually(lambda: not one.emulator._connections)
    events = {entry["event"].removeprefix("service_bus_"): entry for entry in logged}
    assert events["connection_opened"]["container"]
    closed = [entry for entry in logged if entry["event"] == "service_bus_connection_closed"]
    assert len(closed) == 3
    assert all(entry["container"] for entry in closed)
    assert {entry["reason"] for entry in closed} == {"closed by the peer: no error"}
    assert "'nothere' could not be found" in events["link_refused"]["reason"]
    assert "payload" not in str(logged)


def counted(name, **changes):
    zeros = dict.fromkeys(("active", "locked", "scheduled", "deferred", "dead_lettered"), 0)
    rest = {"status": "Active", "incoming": 0, "outgoing": 0, "settled": {}}
    return QueueCounts(name=name, **{**zeros, **rest, **changes})


def drawn(shown):
    console = Console(file=io.StringIO(), width=120)
    console.print(shown)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_the_live_view_shows_counts_and_rates():
    before = Page([counted("a", incoming=10, outgoing=5, settled={"completed": 5})])
    now = Page(
        [
            counted(
                "a",
                active=1234,
                locked=2,
                dead_lettered=3,
                incoming=30,
                outgoing=10,
                settled={"completed": 6, "abandoned": 3},
            ),
            counted("b", status="SendDisabled", incoming=7),
        ]
    )
    head, first, second = drawn(table(before, now, 2.0))
    assert head[0] == "queue"
    assert first == ["a", "1,234", "2", "0", "0", "3", "10.0", "2.5", "2.0"]
    assert second == ["b", "(SendDisabled)", *["0"] * 5, *["0.0"] * 3]


async def test_the_live_view_watches_a_running_emulator():
    async with bus() as one:
        await one.send("x")
        console = Console(file=io.StringIO(), width=120, force_terminal=True)
        url = f"http://127.0.0.1:{one.emulator.admin_port}"
        watching = asyncio.ensure_future(watch(url, console))
        await eventually(lambda: "invoices" in console.file.getvalue())
        watching.cancel()
        await asyncio.wait({watching})


async def run(*words):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bpa", "emulate", "service-bus", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "COLUMNS": "120"},
    )
    async with asyncio.timeout(30):
        output, complaint = await process.communicate()
    return process.returncode, output.decode(), complaint.decode()


async def test_the_command_prints_the_connection_string_and_ends():
    code, output, _ = await run("--connection-string", "--port", "5000", "--host", "localhost")
    assert code == 0
    assert output == (
        "Endpoint=sb://localhost:5000;SharedAccessKeyName=RootManageSharedAccessKey;"
        "SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;\n"
    )
    code, _, complaint = await run("--connection-string", "--port", "0")
    assert (code, "needs the port" in complaint) == (2, True)


async def test_the_command_takes_no_port_that_there_is_not():
    for flag, port in (("--port", "70000"), ("--admin-port", "-1"), ("--admin-tls-port", "x")):
        code, _, complaint = await run("--connection-string", flag, port)
        assert code == 2
        assert complaint.splitlines()[-1].startswith(
            f"bpa emulate service-bus: error: argument {flag}:"
        )


async def test_the_command_shows_the_queues_once_to_who_is_no_terminal():
    async with bus() as one:
        await one.send("x")
        code, output, _ = await run("--top", "--admin-port", str(one.emulator.admin_port))
    assert code == 0
    assert output.splitlines()[1].split()[:2] == ["invoices", "1"]


async def test_a_view_of_no_emulator_is_one_line():
    with pytest.raises(Unavailable, match="No emulator answers at"):
        await watch("http://127.0.0.1:1", Console(file=io.StringIO()))


async def test_the_command_names_every_problem_of_its_config(tmp_path):
    config = tmp_path / "Config.json"
    config.write_text('{"UserConfig": {"Namespaces": [], "Other": 1}}')
    code, _, complaint = await run("--config", str(config))
    assert code == 2
    assert "UserConfig.Other: is not a known field" in complaint
    assert "UserConfig.Logging: is required" in complaint

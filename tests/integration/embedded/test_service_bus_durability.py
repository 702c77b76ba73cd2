"""What the Service Bus emulator keeps across restarts, and across kill -9 at any moment."""

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import sys

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.exceptions import ServiceBusError

from bpa.embedded.service_bus import QueueConfig
from bpa.embedded.service_bus import journal as journals
from bpa.errors import StartupError
from tests.eventually import eventually
from tests.integration.embedded.service_bus import (
    SOCKET_TIMEOUT_S,
    body_of,
    bus,
    client_of,
    impatient,
    is_empty,
    receive_one,
)

DEAD = ServiceBusSubQueue.DEAD_LETTER

# The SDK leaves its sockets open when the broker dies under it.
broker_dies = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
async def sockets_left_open_are_collected():
    """Collect them while their test's filter holds and their loop runs."""
    yield
    gc.collect()


COMPACTS_ALWAYS = (
    "-c",
    "from bpa.embedded.service_bus import __main__, journal\n"
    "journal._COMPACT_BYTES = 10_000\n"
    "raise SystemExit(__main__.main())",
)


@contextlib.asynccontextmanager
async def emulator_process(*arguments, program=("-m", "bpa.embedded.service_bus")):
    """Run the emulator as a program of its own; yield (process, what it said when ready)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        *("--port", "0", "--admin-port", "0", "--json"),
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        assert line, (await process.stderr.read()).decode()
        yield process, json.loads(line)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_restart_keeps_messages_numbers_counts_and_dead_letters(tmp_path):
    async with bus(data_dir=tmp_path) as one, one.receiver() as receiver:
        await one.send("done", "counted", "dead", "untouched", message_id="m")
        await receiver.complete_message(await receive_one(receiver))
        await receiver.abandon_message(await receive_one(receiver))
        await receiver.abandon_message(await receive_one(receiver))
        counted = await receive_one(receiver)
        dead = await receive_one(receiver)
        await receiver.dead_letter_message(dead, reason="r", error_description="d")
        await receiver.abandon_message(counted)
    for _ in range(2):
        async with bus(data_dir=tmp_path) as one, one.receiver(sub_queue=DEAD) as dead:
            assert await one.counts() == (2, 0, 1)
            seen = await one.receiver().peek_messages(9)
            (letter,) = await dead.peek_messages(9)
        assert [(body_of(m), m.sequence_number, m.delivery_count) for m in seen] == [
            (b"counted", 2, 3),
            (b"untouched", 4, 0),
        ]
        assert (letter.sequence_number, letter.dead_letter_reason) == (3, "r")
        assert (letter.dead_letter_error_description, letter.message_id) == ("d", "m")


async def test_sequence_numbers_go_on_after_the_queue_was_emptied(tmp_path):
    for expected in (1, 2, 3):
        async with bus(data_dir=tmp_path) as one, one.receiver() as receiver:
            await one.send("x")
            message = await receive_one(receiver)
            assert message.sequence_number == expected
            await receiver.complete_message(message)


async def test_what_was_received_and_deleted_stays_gone(tmp_path):
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with bus(data_dir=tmp_path) as one, one.receiver(receive_mode=mode) as receiver:
        await one.send("a", "b")
        await receive_one(receiver)
    async with bus(data_dir=tmp_path) as one:
        assert await one.counts() == (1, 0, 0)


@broker_dies
async def test_locks_have_expired_after_kill_9_and_the_delivery_counts(tmp_path):
    async with (
        emulator_process("--data-dir", tmp_path) as (process, ready),
        client_of(ready["connection_string"]) as client,
    ):
        async with client.get_queue_sender("invoices") as sender:
            await sender.send_messages([ServiceBusMessage("held"), ServiceBusMessage("free")])
        receiver = client.get_queue_receiver("invoices", socket_timeout=SOCKET_TIMEOUT_S)
        await receive_one(receiver)
        await eventually(lambda: b"\x02\x00\x08invoices" in journal_of(tmp_path))
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await receiver.close()
    async with bus(data_dir=tmp_path) as one, one.receiver() as receiver:
        assert await one.counts() == (2, 0, 0)
        again = await receive_one(receiver)
        assert (body_of(again), again.delivery_count) == (b"held", 1)
    poisonous = impatient(max_delivery_count=2, lock_duration_s=60)
    async with bus(poisonous, data_dir=tmp_path) as one, one.receiver(sub_queue=DEAD) as dead:
        letter = await receive_one(dead)
        assert (body_of(letter), letter.delivery_count) == (b"held", 2)
        assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"


def journal_of(directory):
    return (directory / "journal.log").read_bytes()


async def test_a_torn_end_of_the_journal_costs_only_what_was_not_acknowledged(tmp_path):
    async with bus(data_dir=tmp_path) as one:
        await one.send("a", "b")
    whole = journal_of(tmp_path)
    (tmp_path / "journal.log").write_bytes(whole + whole[10:40])
    async with bus(data_dir=tmp_path) as one:
        assert await one.counts() == (2, 0, 0)


async def test_a_journal_torn_within_a_dead_lettering_loses_no_message(tmp_path):
    async with bus(data_dir=tmp_path) as one, one.receiver() as receiver:
        await one.send("a")
        await receiver.dead_letter_message(await receive_one(receiver), reason="why")
    (tmp_path / "journal.log").write_bytes(journal_of(tmp_path)[:-1])
    async with bus(data_dir=tmp_path) as one, one.receiver(sub_queue=DEAD) as dead:
        letter = await receive_one(dead)
        assert (body_of(letter), letter.dead_letter_reason) == (b"a", "why")


async def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    (tmp_path / "journal.log").write_bytes(b"my precious notes")
    with pytest.raises(StartupError, match="is not a journal"):
        async with bus(data_dir=tmp_path):
            pass
    assert journal_of(tmp_path) == b"my precious notes"


async def test_the_journal_is_rewritten_when_it_has_outgrown_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "_COMPACT_BYTES", 20_000)
    async with bus(data_dir=tmp_path) as one, one.receiver() as receiver:
        await one.send("stays", message_id="stays")
        stays = await receive_one(receiver)
        for _ in range(40):
            await one.send(b"x" * 2_000)
            await receiver.complete_message(await receive_one(receiver))
        assert len(journal_of(tmp_path)) < 30_000
        await receiver.complete_message(stays)
    async with bus(data_dir=tmp_path) as one, one.receiver() as receiver:
        assert await one.counts() == (0, 0, 0)
        await one.send("next")
        assert (await receive_one(receiver)).sequence_number == 42


async def test_when_the_journal_cannot_be_written_nothing_is_acknowledged(tmp_path, monkeypatch):
    async with bus(data_dir=tmp_path) as one, one.sender() as sender:
        await sender.send_messages(ServiceBusMessage("kept"))

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fdatasync", full)
        with pytest.raises(ServiceBusError):
            await sender.send_messages(ServiceBusMessage("lost"), timeout=1)
        error = await asyncio.wait_for(one.emulator.wait_failed(), 5)
        assert "cannot be written: No space left on device" in str(error)
        monkeypatch.undo()


async def test_the_program_ends_cleanly_on_sigterm_and_says_one_line_when_it_cannot_start(tmp_path):
    async with emulator_process("--data-dir", tmp_path) as (process, ready):
        assert (ready["event"], ready["service"]) == ("ready", "service-bus")
        assert f"sb://127.0.0.1:{ready['port']};" in ready["connection_string"]
        assert ready["admin_port"]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        assert await process.stdout.read() == b""
    config = tmp_path / "c.json"
    config.write_text("{}")
    with pytest.raises(AssertionError, match="UserConfig: is required"):
        async with emulator_process("--config", config):
            pass


class Load:
    """Senders and receivers that remember what the broker has confirmed."""

    def __init__(self):
        self.attempted = set()
        self.sent = set()
        self.completed = set()
        self.buried = set()
        self.unsure = set()
        self.numbers = {}
        self.next = 0

    async def send(self, client):
        async with client.get_queue_sender("invoices") as sender:
            while True:
                names = [f"m{self.next + n}" for n in range(random.choice((1, 1, 5)))]
                self.next += len(names)
                self.attempted.update(names)
                messages = [ServiceBusMessage(b"x" * 500, message_id=name) for name in names]
                await sender.send_messages(messages if len(messages) > 1 else messages[0])
                self.sent.update(names)

    async def settle(self, client):
        options = {"socket_timeout": SOCKET_TIMEOUT_S}
        async with client.get_queue_receiver("invoices", **options) as receiver:
            while True:
                for message in await receiver.receive_messages(1, max_wait_time=1):
                    name = message.message_id
                    assert name not in self.completed | self.buried, "a settled message came back"
                    number = self.numbers.setdefault(message.sequence_number, name)
                    assert number == name, "one sequence number, two messages"
                    self.unsure.add(name)
                    if random.random() < 0.2:
                        await receiver.dead_letter_message(message, reason="r")
                        self.buried.add(name)
                    else:
                        await receiver.complete_message(message)
                        self.completed.add(name)
                    self.unsure.discard(name)

    async def run_until_killed(self, process, connection_string, goal):
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(client_of(connection_string)) for _ in range(4)
            ]
            work = [self.send, self.settle, self.send, self.settle]
            tasks = [
                asyncio.ensure_future(one(client))
                for one, client in zip(work, clients, strict=True)
            ]
            await eventually(lambda: len(self.completed) >= goal, every_s=0.005)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            async with asyncio.timeout(20):
                ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            assert not isinstance(error, AssertionError), error

    async def is_accounted_for(self, directory):
        """Hold what is left against what the clients were told."""
        left, dead = set(), set()
        delete = {"receive_mode": ServiceBusReceiveMode.RECEIVE_AND_DELETE}
        config = QueueConfig("invoices", max_delivery_count=100)
        async with bus(config, data_dir=directory) as one:
            async with one.receiver(**delete) as receiver:
                while not await is_empty_into(receiver, left):
                    pass
            async with one.receiver(sub_queue=DEAD, **delete) as receiver:
                while not await is_empty_into(receiver, dead):
                    pass
        assert len(self.completed) >= 180
        assert self.buried
        settled = dead | self.completed | self.unsure
        assert self.sent <= left | settled, "an acknowledged one is lost"
        assert not left & (self.completed | self.buried), "a settled one is back"
        assert self.buried <= dead <= self.buried | self.unsure
        assert left | dead <= self.attempted


@broker_dies
async def test_kill_9_under_load_loses_nothing_acknowledged_and_revives_nothing_settled(tmp_path):
    load = Load()
    for round_number in range(1, 4):
        async with emulator_process("--data-dir", tmp_path) as (process, ready):
            await load.run_until_killed(process, ready["connection_string"], 60 * round_number)
    await load.is_accounted_for(tmp_path)


@broker_dies
async def test_kill_9_while_the_journal_is_rewritten_and_torn_costs_nothing_either(tmp_path):
    load = Load()
    for round_number in range(1, 7):
        async with emulator_process("--data-dir", tmp_path, program=COMPACTS_ALWAYS) as (
            process,
            ready,
        ):
            await load.run_until_killed(process, ready["connection_string"], 30 * round_number)
        whole = journal_of(tmp_path)
        with (tmp_path / "journal.log").open("ab") as journal:
            journal.write(whole[8 : 8 + random.randrange(1, 60)])
        (tmp_path / "journal.new").write_bytes(whole[: len(whole) // 2])
    await load.is_accounted_for(tmp_path)


async def test_with_a_low_bound_the_journal_is_rewritten_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "_COMPACT_BYTES", 10_000)
    rewritten = 0
    replace = journals.FileJournal._replace

    def counting(journal, snapshot):
        nonlocal rewritten
        rewritten += 1
        replace(journal, snapshot)

    monkeypatch.setattr(journals.FileJournal, "_replace", counting)
    async with bus(data_dir=tmp_path) as one, one.receiver() as receiver:
        for _ in range(30):
            await one.send(b"x" * 2_000)
            await receiver.complete_message(await receive_one(receiver))
    assert rewritten >= 4


async def is_empty_into(receiver, names):
    messages = await receiver.receive_messages(50, max_wait_time=0.2)
    for message in messages:
        assert message.message_id not in names, "one message twice"
        names.add(message.message_id)
    return not messages and await is_empty(receiver)

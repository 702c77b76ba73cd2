"""What the Service Bus emulator refuses, how the SDK hears of it, and what it never dies of."""

import asyncio
import json
import socket

import aiohttp
import proton
import pytest
from azure.core.credentials import AccessToken
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusConnectionError,
    ServiceBusError,
)

from bpa.embedded.service_bus import (
    EmulatorOptions,
    NamespaceConfig,
    QueueConfig,
    ServiceBusEmulator,
    load_config,
)
from bpa.embedded.service_bus import connection as connections
from bpa.errors import SettingsError, StartupError
from tests.eventually import eventually
from tests.integration.embedded.conformance.peer import peer_of
from tests.integration.embedded.service_bus import (
    body_of,
    bus,
    client_of,
    options_for,
    receive_one,
)

SASL_HEADER = b"AMQP\x03\x01\x00\x00"
AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
# container-id "c", idle-time-out 400 ms
OPEN = bytes.fromhex("0000001a02000000005310c00c05a101634040407000000190")
OPEN = len(OPEN).to_bytes(4, "big") + OPEN[4:]
EMPTY_FRAME = bytes.fromhex("0000000802000000")


async def test_an_unknown_queue_is_not_found_for_sender_and_receiver():
    async with bus() as one:
        with pytest.raises(MessagingEntityNotFoundError, match="'nothere' could not be found"):
            async with one.sender("nothere") as sender:
                await sender.send_messages(ServiceBusMessage("x"))
        with pytest.raises(MessagingEntityNotFoundError):
            async with one.receiver("nothere") as receiver:
                await receiver.receive_messages(1, max_wait_time=1)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("topic/Subscriptions/s", "Topics and subscriptions are not served yet."),
        ("topic/subscriptions/s/$management", "Topics and subscriptions are not served yet."),
        (
            "invoices/$Transfer/$DeadLetterQueue",
            "Forwarding is not served yet, nor are its dead letters.",
        ),
    ],
)
async def test_paths_of_what_is_not_served_are_refused_by_name(path, problem):
    async with bus() as one, peer_of(one.emulator) as peer:
        condition = await peer.attached(peer.receiver(path))
        assert (condition.name, condition.description) == ("amqp:not-implemented", problem)


async def test_transactions_are_refused_by_name():
    async with bus() as one, peer_of(one.emulator) as peer:
        link = peer.sender(None)
        link.target.type = proton.Terminus.COORDINATOR
        condition = await peer.attached(link)
        assert condition.name == "amqp:not-implemented"
        assert condition.description == "Transactions are not served yet."


async def test_the_sdk_turns_a_subscription_into_an_error():
    async with bus() as one:
        with pytest.raises(ServiceBusError, match="Topics and subscriptions are not served yet"):
            async with one.client.get_subscription_receiver("topic", "s") as receiver:
                await receiver.receive_messages(1, max_wait_time=1)


async def test_sending_to_dead_letters_is_not_allowed():
    async with bus() as one:
        with pytest.raises(ServiceBusError, match="cannot be sent to a dead-letter queue"):
            async with one.sender("invoices/$DeadLetterQueue") as sender:
                await sender.send_messages(ServiceBusMessage("x"))


async def test_sessions_are_refused_at_once():
    async with bus() as one:
        with pytest.raises(ServiceBusError, match="does not require sessions"):
            async with one.receiver(session_id="s") as receiver:
                await receiver.receive_messages(1, max_wait_time=1)


async def test_a_message_too_large_is_refused_by_the_broker_too():
    async with bus() as one, one.sender() as sender:
        sender._max_message_size_on_link = 10_000_000
        sender._handler._link.remote_max_message_size = 10_000_000
        with pytest.raises(MessageSizeExceededError, match="larger than the 262144 bytes"):
            await sender.send_messages(ServiceBusMessage(b"x" * 900_000), timeout=5)
        await sender.send_messages(ServiceBusMessage(b"x" * 9_000))
        assert await one.counts() == (1, 0, 0)


@pytest.mark.parametrize("token", ["nonsense", "SharedAccessSignature sr=x&sig=y&se=1000"])
async def test_a_malformed_or_expired_token_is_refused(token):
    class Credential:
        token_type = b"servicebus.windows.net:sastoken"

        async def get_token(self, *_, **__):
            return AccessToken(token, 4_000_000_000)

    async with bus() as one:
        sender = one.sender()
        sender._credential = Credential()
        with pytest.raises(ServiceBusAuthenticationError):
            await sender.send_messages(ServiceBusMessage("x"))
        await sender.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 4096,
        SASL_HEADER + b"\xff" * 64,
        AMQP_HEADER + b"\x00\x00\x00\x04\x02\x00\x00\x00",
        AMQP_HEADER + b"\x7f\xff\xff\xff\x02\x00\x00\x00" + b"x" * 1000,
        AMQP_HEADER + bytes.fromhex("0000001402000000005314d00000000400000000"),
    ],
    ids=["http", "zeros", "sasl", "short-frame", "oversized-frame", "transfer-before-open"],
)
async def test_a_connection_that_breaks_the_protocol_ends_alone(garbage):
    async with bus() as one, one.sender() as sender, one.receiver() as receiver:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.emulator.port)
        writer.write(garbage)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        await sender.send_messages(ServiceBusMessage("still here"))
        assert body_of(await receive_one(receiver)) == b"still here"


async def test_a_connection_reset_in_the_middle_of_a_message_ends_alone():
    async with bus() as one, one.sender() as sender, one.receiver() as receiver:
        with socket.create_connection(("127.0.0.1", one.emulator.port)) as half:
            half.sendall(SASL_HEADER)
            half.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
            )
        await sender.send_messages(ServiceBusMessage("still here"))
        assert body_of(await receive_one(receiver)) == b"still here"
        await eventually(lambda: len(one.emulator._connections) == 2)


async def test_a_peer_that_never_opens_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connections, "_HANDSHAKE_S", 0.05)
    async with bus() as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.emulator.port)
        writer.write(SASL_HEADER)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()


async def test_a_peer_that_falls_silent_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connections, "IDLE_TIMEOUT_MS", 200)
    async with bus() as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.emulator.port)
        writer.write(AMQP_HEADER + OPEN)
        async with asyncio.timeout(5):
            last_words = await reader.read()
        writer.close()
    assert b"local-idle-timeout expired" in last_words


async def test_a_peer_with_an_idle_time_out_is_sent_empty_frames():
    async with bus() as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.emulator.port)
        writer.write(AMQP_HEADER + OPEN)
        async with asyncio.timeout(5):
            await reader.readuntil(EMPTY_FRAME)
            await reader.readuntil(EMPTY_FRAME)
        writer.close()


async def test_a_receiver_that_does_not_read_leaves_the_rest_to_others():
    body = b"x" * 200_000
    async with bus() as one, one.sender() as sender:
        for _ in range(120):
            await sender.send_messages(ServiceBusMessage(body))
        async with one.receiver(prefetch_count=1000) as idle, one.receiver() as busy:
            await receive_one(idle)
            message = await receive_one(busy)
            active, locked, _ = await one.counts()
            assert active > 0, "a receiver that does not read was sent the whole queue"
            assert active + locked == 120
            await busy.complete_message(message)


async def test_closing_the_emulator_hangs_up_on_its_clients():
    emulator = ServiceBusEmulator(options_for())
    await emulator.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
    await eventually(lambda: emulator._connections)
    await emulator.aclose()
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", emulator.port)


async def test_a_receive_that_waits_hears_why_the_emulator_goes():
    async with bus() as one, one.receiver() as receiver:
        waiting = asyncio.ensure_future(receiver.receive_messages(1, max_wait_time=30))
        await eventually(lambda: one.emulator._broker.queues["invoices"].in_use)
        await one.emulator.aclose()
        with pytest.raises(ServiceBusConnectionError, match="The broker is shutting down"):
            await waiting


async def test_a_taken_port_is_one_line_that_names_port_and_setting():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, setting in (
            (EmulatorOptions(port=port, admin_port=None), "port"),
            (EmulatorOptions(port=0, admin_port=port), "admin_port"),
            (EmulatorOptions(port=0, admin_port=None, admin_tls_port=port), "admin_tls_port"),
        ):
            with pytest.raises(StartupError) as caught:
                await ServiceBusEmulator(options).start()
            line = str(caught.value)
            assert line == (
                f"Service Bus emulator: cannot listen on 127.0.0.1:{port} "
                f"(Address already in use); set another {setting}"
            )


async def test_a_data_directory_that_cannot_be_used_is_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(StartupError, match="cannot hold data"):
        await ServiceBusEmulator(options_for(data_dir=blocked / "data")).start()


async def test_a_data_directory_serves_one_emulator_at_a_time(tmp_path):
    async with ServiceBusEmulator(options_for(data_dir=tmp_path)):
        with pytest.raises(StartupError, match="another Service Bus emulator uses it"):
            await ServiceBusEmulator(options_for(data_dir=tmp_path)).start()
    async with ServiceBusEmulator(options_for(data_dir=tmp_path)):
        pass


async def test_messages_of_a_queue_no_longer_configured_are_not_dropped_silently(tmp_path):
    async with bus(QueueConfig("old"), data_dir=tmp_path) as one:
        await one.send("x", queue="old")
    with pytest.raises(StartupError, match="1 messages of 'old'"):
        await ServiceBusEmulator(options_for(QueueConfig("new"), data_dir=tmp_path)).start()


async def test_the_administration_port_tells_health_and_counts():
    queues = (QueueConfig("A"), QueueConfig("b"))
    async with bus(*queues) as one, aiohttp.ClientSession() as session:
        await one.send("x", queue="a")
        base = f"http://127.0.0.1:{one.emulator.admin_port}"
        async with session.get(f"{base}/health") as response:
            health = await response.json()
        assert health == {"status": "healthy", "message": "Service is healthy."}
        async with session.get(f"{base}/queues") as response:
            found = await response.json()
    empty = dict.fromkeys(("active", "locked", "scheduled", "deferred", "dead_lettered"), 0)
    empty |= {"status": "Active", "incoming": 0, "outgoing": 0, "settled": {}}
    one_sent = {**empty, "active": 1, "incoming": 1}
    assert found == {"queues": [{"name": "A", **one_sent}, {"name": "b", **empty}]}


async def test_without_an_administration_port_there_is_none():
    options = EmulatorOptions(port=0, admin_port=None)
    async with ServiceBusEmulator(options) as emulator, client_of(emulator.connection_string) as c:
        assert emulator.admin_port is None
        async with c.get_queue_sender("invoices") as sender:
            await sender.send_messages(ServiceBusMessage("x"))


def write_config(path, text):
    file = path / "Config.json"
    file.write_text(text)
    return file


def namespace(**changes):
    space = {"Name": "sbemulatorns", "Queues": [], "Topics": [], **changes}
    return {"UserConfig": {"Namespaces": [space], "Logging": {"Type": "File"}}}


def test_the_official_config_is_read_with_its_comments_and_defaults(tmp_path):
    queues = [
        {"Name": "one"},
        {
            "Name": "two/2",
            "Properties": {
                "DeadLetteringOnMessageExpiration": True,
                "DefaultMessageTimeToLive": "P10675199DT2H48M5.4775807S",
                "DuplicateDetectionHistoryTimeWindow": "PT20S",
                "ForwardDeadLetteredMessagesTo": "",
                "ForwardTo": "",
                "LockDuration": "PT1M30.5S",
                "MaxDeliveryCount": 10,
                "RequiresDuplicateDetection": True,
                "RequiresSession": False,
            },
        },
    ]
    text = json.dumps(namespace(Queues=queues), indent=1)
    text = "// http://x\n" + text.replace('"Topics"', '// "Queues": 1\n"Topics"')
    assert load_config(write_config(tmp_path, text)) == NamespaceConfig(
        queues=(
            QueueConfig("one", 60.0, 3, 3600.0, dead_letter_on_expiration=False),
            QueueConfig(
                "two/2",
                90.5,
                10,
                None,
                dead_letter_on_expiration=True,
                duplicate_window_s=20.0,
            ),
        )
    )


def test_every_problem_of_a_config_is_listed(tmp_path):
    bad = {
        "Name": "-x",
        "Properties": {"LockDuration": "1 min", "MaxDeliveryCount": 0, "Lock": 1},
    }
    session = {"Name": "s", "Properties": {"RequiresSession": True, "ForwardTo": "t"}}
    document = namespace(
        Name="other", Queues=[bad, session, {"Name": "S"}, 7], Topics=[{"Name": "t"}]
    )
    document["UserConfig"]["Logging"] = {"Type": "Syslog"}
    with pytest.raises(SettingsError) as caught:
        load_config(write_config(tmp_path, json.dumps(document)))
    problems = "\n".join(caught.value.problems)
    for expected in (
        ".Name: must be 'sbemulatorns'",
        "Topics: topics are not served yet",
        "Queues[0].Name: must be letters",
        "Queues[0].Properties.LockDuration: must be an ISO 8601 duration",
        "Queues[0].Properties.MaxDeliveryCount: must be a whole number",
        "Queues[0].Properties.Lock: is not a known field",
        "Queues[1].Properties.RequiresSession: is not served yet; use false",
        'Queues[1].Properties.ForwardTo: is not served yet; use ""',
        "Queues[2].Name: repeats queue 'S'",
        "Queues[3]: must be an object",
        "Logging.Type: must be one of",
    ):
        assert expected in problems
    assert len(caught.value.problems) == 11


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "document: must be an object"),
        ("{}", "UserConfig: is required"),
    ],
)
def test_a_file_that_is_no_config_is_one_problem(tmp_path, text, problem):
    with pytest.raises(SettingsError) as caught:
        load_config(write_config(tmp_path, text))
    (line,) = caught.value.problems
    assert problem in line


def test_a_config_that_is_not_there_is_one_problem(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.json")

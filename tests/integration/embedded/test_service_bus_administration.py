"""The administration API of the Service Bus emulator, as the SDKs' clients of it see it."""

import asyncio
import contextlib
import json
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.management import EntityStatus
from azure.servicebus.management import ServiceBusAdministrationClient as BlockingClient

from bpa.embedded.service_bus import QueueConfig, ServiceBusEmulator
from bpa.errors import StartupError
from tests.integration.embedded.javascript import run_node
from tests.integration.embedded.service_bus import bus, options_for, receive_one

KEYS = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=k;UseDevelopmentEmulator=true"
UNENDING = timedelta(days=10_675_199)


def connection_string(emulator):
    return f"Endpoint=sb://localhost:{emulator.admin_tls_port};{KEYS}"


@contextlib.asynccontextmanager
async def administered(*queues, **options):
    """A bus, and an administration client of it."""
    async with (
        bus(*queues, admin_tls_port=0, **options) as one,
        ServiceBusAdministrationClient.from_connection_string(
            connection_string(one.emulator),
            connection_verify=str(one.emulator.certificate),
            retry_total=0,
        ) as client,
    ):
        yield one, client


async def test_a_queue_is_created_with_the_defaults_of_the_service():
    async with administered() as (_, client):
        queue = await client.create_queue("some/Queue-1")
        assert queue.name == "some/Queue-1"
        assert queue.lock_duration == timedelta(minutes=1)
        assert queue.max_delivery_count == 10
        assert queue.default_message_time_to_live >= UNENDING
        assert queue.auto_delete_on_idle >= UNENDING
        assert queue.status == EntityStatus.ACTIVE
        assert queue.max_size_in_megabytes == 1024
        assert queue.availability_status == "Available"
        for flag in (
            queue.requires_session,
            queue.requires_duplicate_detection,
            queue.dead_lettering_on_message_expiration,
            queue.enable_partitioning,
            queue.enable_express,
        ):
            assert flag is False
        assert dict(await client.get_queue("SOME/queue-1")) == {**queue, "name": "SOME/queue-1"}


async def test_a_queue_is_created_with_the_properties_asked_for_and_keeps_them(tmp_path):
    wanted = {
        "lock_duration": timedelta(seconds=90, milliseconds=500),
        "max_delivery_count": 3,
        "default_message_time_to_live": timedelta(days=2, hours=3, minutes=4),
        "dead_lettering_on_message_expiration": True,
        "max_size_in_megabytes": 2048,
        "user_metadata": "<&> ü",
        "enable_batched_operations": False,
        "auto_delete_on_idle": timedelta(minutes=5),
        "status": EntityStatus.SEND_DISABLED,
    }
    for create in (True, False):
        async with administered(data_dir=tmp_path) as (_, client):
            if create:
                await client.create_queue("q", **wanted)
            queue = await client.get_queue("q")
            assert {name: queue[name] for name in wanted} == wanted


async def test_a_queue_is_updated_and_the_change_counts():
    async with administered() as (one, client):
        queue = await client.get_queue("invoices")
        queue.max_delivery_count = 1
        queue.status = EntityStatus.RECEIVE_DISABLED
        await client.update_queue(queue)
        found = await client.get_queue("invoices")
        assert (found.max_delivery_count, found.status) == (1, EntityStatus.RECEIVE_DISABLED)
        await client.update_queue(queue, status="Active")
        times = await client.get_queue_runtime_properties("invoices")
        assert times.updated_at_utc > times.created_at_utc
        async with one.receiver() as receiver:
            await one.send("x")
            await receiver.abandon_message(await receive_one(receiver))
            assert await one.counts() == (0, 0, 1)


async def test_duplicate_detection_is_had_from_the_start_or_never():
    async with administered() as (one, client):
        await client.create_queue(
            "q",
            requires_duplicate_detection=True,
            duplicate_detection_history_time_window=timedelta(minutes=5),
        )
        queue = await client.get_queue("q")
        assert queue.requires_duplicate_detection is True
        assert queue.duplicate_detection_history_time_window == timedelta(minutes=5)
        await client.update_queue(queue, max_delivery_count=3)
        await one.send("a", "b", queue="q", message_id="same")
        assert await one.counts("q") == (1, 0, 0)
        with pytest.raises(HttpResponseError, match="existing queue cannot be changed"):
            await client.update_queue(queue, requires_duplicate_detection=False)


async def test_scheduled_and_deferred_messages_are_counted_as_the_service_does():
    later = datetime.now(UTC) + timedelta(hours=1)
    async with administered() as (one, client), one.receiver() as receiver, one.sender() as sender:
        await one.send("a", "b")
        await receiver.defer_message(await receive_one(receiver))
        await sender.schedule_messages(ServiceBusMessage("c"), later)
        found = await client.get_queue_runtime_properties("invoices")
    assert (found.active_message_count, found.scheduled_message_count) == (2, 1)
    assert found.total_message_count == 3


async def test_the_counts_of_a_queue_are_true():
    before = datetime.now(UTC)
    async with administered() as (one, client):
        empty = await client.get_queue_runtime_properties("invoices")
        assert (empty.total_message_count, empty.size_in_bytes) == (0, 0)
        assert empty.accessed_at_utc.year == 1
        await one.send(b"x" * 1000, b"x" * 1000, b"x" * 1000)
        async with one.receiver() as receiver:
            await receiver.dead_letter_message(await receive_one(receiver))
            await receive_one(receiver)
            found = await client.get_queue_runtime_properties("invoices")
        assert found.active_message_count == 2
        assert found.dead_letter_message_count == 1
        assert found.scheduled_message_count == 0
        assert (found.transfer_message_count, found.transfer_dead_letter_message_count) == (0, 0)
        assert found.total_message_count == 3
        assert 3000 < found.size_in_bytes < 4000
        for moment in (found.created_at_utc, found.updated_at_utc, found.accessed_at_utc):
            assert before - timedelta(seconds=1) < moment < datetime.now(UTC)


async def test_queues_are_listed_page_by_page():
    names = [f"q{n}" for n in range(7)]
    async with administered(*map(QueueConfig, names)) as (_, client):
        listed = [queue.name async for queue in client.list_queues(max_page_size=3)]
        assert listed == names
        counted = [queue async for queue in client.list_queues_runtime_properties()]
        assert [queue.total_message_count for queue in counted] == [0] * 7


async def test_a_deleted_queue_is_not_found():
    async with administered() as (one, client):
        await client.delete_queue("invoices")
        with pytest.raises(ResourceNotFoundError):
            await client.get_queue("invoices")
        with pytest.raises(ResourceNotFoundError):
            await client.get_queue_runtime_properties("invoices")
        with pytest.raises(ResourceNotFoundError):
            await client.delete_queue("invoices")
        with pytest.raises(ResourceNotFoundError):
            await client.update_queue({"name": "invoices", **FULL})
        assert [queue.name async for queue in client.list_queues()] == []
        assert one.emulator._broker.queues == {}


FULL = {
    "lock_duration": timedelta(minutes=1),
    "max_size_in_megabytes": 1024,
    "requires_duplicate_detection": False,
    "requires_session": False,
    "default_message_time_to_live": timedelta(days=1),
    "dead_lettering_on_message_expiration": False,
    "duplicate_detection_history_time_window": timedelta(minutes=10),
    "max_delivery_count": 10,
    "enable_batched_operations": True,
    "status": "Active",
    "auto_delete_on_idle": timedelta(days=10_675_199),
    "enable_partitioning": False,
    "enable_express": False,
    "user_metadata": None,
    "forward_to": None,
    "forward_dead_lettered_messages_to": None,
    "authorization_rules": [],
    "availability_status": "Available",
    "max_message_size_in_kilobytes": 256,
}


async def test_a_queue_that_is_there_already_is_a_conflict():
    async with administered() as (_, client):
        with pytest.raises(ResourceExistsError):
            await client.create_queue("Invoices")


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"lock_duration": timedelta(minutes=6)}, "LockDuration must be at most PT5M"),
        ({"lock_duration": "P1Y"}, "LockDuration must be an ISO 8601 duration"),
        ({"max_delivery_count": 0}, "MaxDeliveryCount must be a whole number from 1 to 2000"),
        ({"max_delivery_count": 2001}, "MaxDeliveryCount must be"),
        ({"auto_delete_on_idle": timedelta(minutes=4)}, "AutoDeleteOnIdle must be at least PT5M"),
        ({"max_size_in_megabytes": 100_000}, "MaxSizeInMegabytes must be"),
        ({"user_metadata": "x" * 1025}, "UserMetadata must be at most 1024"),
        ({"status": "Sleeping"}, "Status must be one of Active, Disabled"),
    ],
)
async def test_a_wrong_value_is_a_bad_request_that_names_it(wrong, problem):
    async with administered() as (_, client):
        with pytest.raises(HttpResponseError, match=problem) as caught:
            await client.create_queue("q", **wrong)
        assert caught.value.status_code == 400
        with pytest.raises(ResourceNotFoundError):
            await client.get_queue("q")


async def test_every_wrong_value_is_named_at_once():
    async with administered() as (_, client):
        with pytest.raises(HttpResponseError, match=r"LockDuration .* MaxDeliveryCount"):
            await client.create_queue("q", lock_duration="P1Y", max_delivery_count=0)
        with pytest.raises(HttpResponseError, match="The name must be letters"):
            await client.create_queue("-q")
        with pytest.raises(HttpResponseError, match="The messaging entity 'q' could not"):
            await client.delete_queue("q")


async def test_what_is_not_served_yet_is_refused_by_name():
    async with administered() as (one, client):
        host = f"sb://localhost:{one.emulator.admin_tls_port}"
        for wanted, name in (
            ({"requires_session": True}, "RequiresSession"),
            ({"enable_partitioning": True}, "EnablePartitioning"),
            ({"forward_to": f"{host}/invoices"}, "ForwardTo"),
        ):
            with pytest.raises(HttpResponseError, match=f"Not served yet: {name}") as caught:
                await client.create_queue("q", **wanted)
            assert caught.value.status_code == 501
        with pytest.raises(HttpResponseError, match="Topics are not served yet"):
            await client.create_topic("t")
        with pytest.raises(HttpResponseError, match="Topics, subscriptions and rules"):
            await client.create_subscription("t", "s")
        with pytest.raises(HttpResponseError, match="Topics, subscriptions and rules"):
            await client.create_rule("t", "s", "r")
        assert [topic async for topic in client.list_topics()] == []
        with pytest.raises(ResourceNotFoundError):
            await client.get_topic("t")


async def test_the_namespace_describes_itself():
    async with administered() as (_, client):
        found = await client.get_namespace_properties()
        assert (found.name, found.messaging_sku) == ("sbemulatorns", "Standard")
        assert found.created_at_utc.tzinfo is not None


async def test_the_blocking_client_is_served_alike():
    def work(emulator):
        with BlockingClient.from_connection_string(
            connection_string(emulator), connection_verify=str(emulator.certificate)
        ) as client:
            client.create_queue("q")
            return [queue.name for queue in client.list_queues()]

    async with bus(admin_tls_port=0) as one:
        assert await asyncio.to_thread(work, one.emulator) == ["invoices", "q"]


async def test_a_queue_made_over_the_api_carries_messages():
    async with administered() as (one, client):
        await client.create_queue("orders")
        async with one.sender("orders") as sender:
            await sender.send_messages(ServiceBusMessage("x"))
        async with one.receiver("orders") as receiver:
            await receiver.dead_letter_message(await receive_one(receiver))
        async with one.receiver("orders", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead:
            await receive_one(dead)


def signature(expires_s):
    return f"SharedAccessSignature sr=x&sig=y&se={expires_s:.0f}&skn=k"


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        (None, "neither a shared access signature nor"),
        ("Bearer abc", "neither a shared access signature nor"),
        ("SharedAccessSignature sr=x", "lacks one of sr, sig and se"),
        (signature(1000), "has expired"),
    ],
)
async def test_a_missing_malformed_or_expired_token_is_unauthorized(token, problem):
    async with bus() as one, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{one.emulator.admin_port}/invoices?api-version=2021-05"
        headers = {} if token is None else {"Authorization": token}
        for method in ("GET", "PUT", "DELETE"):
            async with session.request(method, url, headers=headers) as response:
                body = await response.text()
            assert response.status == 401
            assert body.startswith("<Error><Code>401</Code><Detail>")
            assert problem in body
        headers = {"Authorization": signature(time.time() + 60)}
        async with session.get(url, headers=headers) as response:
            assert response.status == 200
            assert "<QueueDescription " in await response.text()


async def test_the_sdk_turns_an_expired_token_into_its_own_error():
    token = f"SharedAccessSignature={signature(1000)}"
    async with bus(admin_tls_port=0) as one:
        endpoint = f"Endpoint=sb://localhost:{one.emulator.admin_tls_port};{token}"
        async with ServiceBusAdministrationClient.from_connection_string(
            endpoint, connection_verify=str(one.emulator.certificate), retry_total=0
        ) as client:
            with pytest.raises(ClientAuthenticationError):
                await client.get_queue("invoices")


async def test_the_certificate_of_a_data_directory_stays(tmp_path):
    async with ServiceBusEmulator(options_for(data_dir=tmp_path, admin_tls_port=0)) as emulator:
        first = emulator.certificate.read_bytes()
    async with ServiceBusEmulator(options_for(data_dir=tmp_path, admin_tls_port=0)) as emulator:
        assert emulator.certificate.read_bytes() == first
    (tmp_path / "admin-tls.pem").write_text("torn")
    with pytest.raises(StartupError, match=r"admin-tls\.pem cannot be used"):
        await ServiceBusEmulator(options_for(data_dir=tmp_path, admin_tls_port=0)).start()


async def test_the_certificate_is_made_anew_for_another_host(tmp_path):
    for host in ("127.0.0.1", "127.0.0.2", "localhost"):
        options = replace(options_for(data_dir=tmp_path, admin_tls_port=0), host=host)
        async with ServiceBusEmulator(options) as emulator, aiohttp.ClientSession() as session:
            trusting = ssl.create_default_context(cafile=emulator.certificate)
            url = f"https://{host}:{emulator.admin_tls_port}/health"
            async with session.get(url, ssl=trusting) as response:
                assert response.status == 200


async def test_the_certificate_needs_no_program_and_satisfies_the_strict_checks(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    async with ServiceBusEmulator(options_for(admin_tls_port=0)) as emulator:
        trusting = ssl.create_default_context(cafile=emulator.certificate)
        trusting.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 sets by itself
        async with aiohttp.ClientSession() as session:
            for host in ("localhost", "127.0.0.1"):
                url = f"https://{host}:{emulator.admin_tls_port}/health"
                async with session.get(url, ssl=trusting) as response:
                    assert response.status == 200


async def test_the_administration_client_of_javascript_is_served_alike():
    async with bus(admin_tls_port=0) as one:
        await one.send("a", "b")
        async with one.receiver() as receiver:
            await receiver.dead_letter_message(await receive_one(receiver))
        said = await run_node(
            "administration.mjs",
            connection_string(one.emulator),
            NODE_EXTRA_CA_CERTS=str(one.emulator.certificate),
        )
    seen = json.loads(said)
    created = seen["created"]
    assert (created["name"], created["lockDuration"]) == ("q1", "PT45S")
    assert (created["maxDeliveryCount"], created["userMetadata"]) == (10, "<&> ü")
    assert created["defaultMessageTimeToLive"] == "P10675199DT2H48M5.4775807S"
    assert seen["same"] is True
    assert (seen["updated"]["maxDeliveryCount"], seen["updated"]["status"]) == (4, "SendDisabled")
    assert seen["exists"] == [True, False]
    assert seen["listed"] == ["invoices", "q1", "q2"]
    assert seen["pages"] == [["invoices", "q1"], ["q2"]]
    assert seen["counted"] == [2, 0, 0]
    assert seen["runtime"]["activeMessageCount"] == 1
    assert seen["runtime"]["deadLetterMessageCount"] == 1
    assert seen["namespace"] == "sbemulatorns"
    assert seen["conflict"]["code"] == "MessageEntityAlreadyExistsError"
    assert seen["missing"]["code"] == "MessageEntityNotFoundError"
    assert seen["missingDelete"]["code"] == "MessageEntityNotFoundError"
    assert "MaxDeliveryCount must be" in seen["wrong"]["message"]
    assert "Topics are not served yet" in seen["topic"]["message"]
    assert "Topics, subscriptions and rules" in seen["subscription"]["message"]
    assert seen["gone"] is False

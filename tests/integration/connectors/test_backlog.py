"""How much waits in a queue: counted by the administration, or estimated by peeking."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from unittest.mock import AsyncMock

import pytest
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.management import EntityStatus

from bpa.connectors.service_bus import Administration, BacklogReader, Counts, Trouble
from bpa.connectors.service_bus import backlog as module
from bpa.connectors.service_bus.administration import CLIENT_LASTS_S
from bpa.errors import StartupError, Unavailable
from tests.integration.connectors.backlogs import EXPIRED, KEY, QUEUE, Bus, bus, closing

CUT_AT = 5


@pytest.fixture
async def one() -> AsyncIterator[Bus]:
    async with bus() as one:
        yield one


async def test_an_empty_queue_has_no_oldest_message_and_no_trouble(one: Bus):
    async with closing(one.reader()) as reader:
        backlog = await reader.read(QUEUE)
    assert backlog.counts == Counts(active=0, scheduled=0, dead_letters=0)
    assert (backlog.oldest_enqueued_at, backlog.trouble) == (None, None)
    assert backlog.max_delivery_count == 10


async def test_counts_are_the_administrations_while_messages_are_locked_scheduled_and_dead(
    one: Bus,
):
    await one.one_of_each()
    async with (
        closing(one.reader()) as reader,
        one.receiver() as holder,
    ):
        assert len(await holder.receive_messages(1)) == 1
        counted, estimated = await reader.read(QUEUE), await one.peeker().read(QUEUE)
    assert counted.counts == Counts(active=3, scheduled=1, dead_letters=1)
    assert estimated.counts == Counts(active=3, scheduled=1, dead_letters=1, estimated=True)


@pytest.mark.parametrize("peeking", [True, False])
async def test_the_oldest_message_is_the_first_that_is_neither_deferred_nor_scheduled(
    one: Bus, *, peeking: bool
):
    await one.one_of_each()
    async with one.receiver() as receiver:
        peeked = await receiver.peek_messages(10)
    active = next(message for message in peeked if message.state.name == "ACTIVE")
    assert active is peeked[2]
    async with closing(one.peeker() if peeking else one.reader()) as reader:
        assert (await reader.read(QUEUE)).oldest_enqueued_at == active.enqueued_time_utc


async def test_a_key_without_the_manage_right_gets_an_estimate_that_says_so(one: Bus):
    await one.send(2)
    async with closing(one.reader(EXPIRED)) as reader:
        backlog = await reader.read(QUEUE)
    assert backlog.counts == Counts(active=2, scheduled=0, dead_letters=0, estimated=True)
    assert backlog.oldest_enqueued_at is not None
    assert backlog.trouble is Trouble.NO_MANAGE
    assert "(HTTP 401): its key needs the Manage right" in backlog.detail
    assert backlog.max_delivery_count is None


async def test_where_the_administration_is_out_of_reach_the_estimate_says_that_instead(one: Bus):
    await one.send(2)
    async with closing(one.reader(port=1)) as reader:
        backlog = await reader.read(QUEUE)
    assert backlog.counts == Counts(active=2, scheduled=0, dead_letters=0, estimated=True)
    assert backlog.trouble is Trouble.ADMINISTRATION_AWAY
    assert backlog.detail == "the administration does not answer (ClientConnectorError)"


async def test_a_certificate_that_nobody_vouches_for_is_not_believed(one: Bus):
    administration = Administration(f"Endpoint=sb://localhost:{one.emulator.admin_tls_port};{KEY}")
    async with closing(BacklogReader(one.emulator.connection_string, administration)) as reader:
        backlog = await reader.read(QUEUE)
    assert backlog.trouble is Trouble.ADMINISTRATION_AWAY
    assert "Certificate" in backlog.detail


async def test_a_queue_that_is_not_there_is_said_to_be_missing_by_either_way(one: Bus):
    async with closing(one.reader()) as reader:
        for missing in (await reader.read("nix"), await one.peeker().read("nix")):
            assert missing.counts is None
            assert missing.trouble is Trouble.NOT_FOUND
            assert missing.detail.startswith("the namespace has no such queue: create it")


async def test_a_namespace_that_does_not_answer_at_all_gives_no_numbers():
    async with bus() as one:
        reader, peeker = one.reader(), one.peeker()
    async with closing(reader):
        for gone in (await reader.read(QUEUE), await peeker.read(QUEUE)):
            assert gone.counts is None
            assert gone.trouble is Trouble.UNREADABLE
            assert gone.detail.startswith("queue 'invoices' does not answer")


async def test_an_estimate_ends_after_so_many_messages_and_says_that_there_may_be_more(
    one: Bus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "ESTIMATE_AT_MOST", CUT_AT)
    monkeypatch.setattr(module, "_PAGE", 2)
    for waiting in (CUT_AT - 1, CUT_AT):
        await one.send(waiting if waiting < CUT_AT else 3)
        counts = (await one.peeker().read(QUEUE)).counts
        assert counts is not None
        assert (counts.active, counts.active_at_least) == (waiting, waiting == CUT_AT)
        assert not counts.dead_letters_at_least


async def test_an_age_that_lies_too_deep_is_unknown_and_the_counts_are_true(
    one: Bus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "ESTIMATE_AT_MOST", 2)
    later = datetime.now(UTC) + timedelta(hours=1)
    await one.send(2, scheduled_enqueue_time_utc=later)
    await one.send(1)
    async with closing(one.reader()) as reader:
        backlog = await reader.read(QUEUE)
    assert backlog.counts == Counts(active=1, scheduled=2, dead_letters=0)
    assert (backlog.oldest_enqueued_at, backlog.trouble) == (None, Trouble.AGE_UNKNOWN)


async def test_a_disabled_queue_is_counted_though_nobody_may_look_into_it(one: Bus):
    await one.send(1)
    async with ServiceBusAdministrationClient.from_connection_string(
        f"Endpoint=sb://localhost:{one.emulator.admin_tls_port};{KEY}",
        connection_verify=str(one.emulator.certificate),
    ) as client:
        queue = await client.get_queue(QUEUE)
        queue.status = EntityStatus.DISABLED
        await client.update_queue(queue)
    async with closing(one.reader()) as reader:
        backlog = await reader.read(QUEUE)
    assert backlog.counts is not None
    assert backlog.counts.active == 1
    assert backlog.trouble is Trouble.AGE_UNKNOWN


async def test_the_max_delivery_count_is_told():
    async with bus(max_delivery_count=3) as one, closing(one.reader()) as reader:
        assert (await reader.read(QUEUE)).max_delivery_count == 3


@dataclass
class Watched:
    """An administration whose clock the test sets."""

    one: Bus
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.administration = Administration(
            f"Endpoint=sb://localhost:{self.one.emulator.admin_tls_port};{KEY}",
            str(self.one.emulator.certificate),
            lambda: self.now_s,
        )


async def test_a_client_is_replaced_before_its_token_expires(one: Bus):
    watched, clients = Watched(one), []
    for pause_s in (0.0, CLIENT_LASTS_S - 1, 2.0):
        watched.now_s += pause_s
        await watched.administration.describe(QUEUE)
        clients.append(watched.administration._client)
    await watched.administration.aclose()
    assert clients[0] is clients[1]
    assert clients[1] is not clients[2]


async def test_a_client_whose_answer_somebody_waits_for_is_not_replaced(
    one: Bus, monkeypatch: pytest.MonkeyPatch
):
    watched = Watched(one)
    await watched.administration.describe(QUEUE)
    client, entered, go_on = watched.administration._client, asyncio.Event(), asyncio.Event()
    ask = client._get_entity_element

    async def slowly(queue: str) -> object:
        entered.set()
        await go_on.wait()
        return await ask(queue)

    monkeypatch.setattr(client, "_get_entity_element", slowly)
    waiting = asyncio.ensure_future(watched.administration.describe(QUEUE))
    await entered.wait()
    watched.now_s += CLIENT_LASTS_S + 1
    late = asyncio.ensure_future(watched.administration.describe(QUEUE))
    go_on.set()
    assert await waiting == await late
    assert watched.administration._client is client
    await watched.administration.aclose()


async def test_an_answer_that_says_less_than_it_should_counts_as_none(
    one: Bus, monkeypatch: pytest.MonkeyPatch
):
    watched = Watched(one)
    await watched.administration.describe(QUEUE)
    client = watched.administration._client
    element = await client._get_entity_element(QUEUE)
    for parent in element.iter():
        for child in list(parent):
            if child.tag.endswith("CountDetails"):
                parent.remove(child)
    monkeypatch.setattr(client, "_get_entity_element", AsyncMock(return_value=element))
    with pytest.raises(Unavailable):
        await watched.administration.describe(QUEUE)
    await watched.administration.aclose()


def test_a_connection_string_that_cannot_be_read_is_refused_at_once():
    with pytest.raises(StartupError, match="cannot be read"):
        Administration("Endpoint=sb://somewhere/;SharedAccessKeyName=n")

"""A replay that was sent twice: two messages of one run, and whatever the broker does with each."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bpa.connectors import Message
from bpa.connectors.service_bus import ServiceBusPublisher
from bpa.control import sweep
from bpa.control.burials import Swept
from bpa.control.intake import Origin
from bpa.domain.runs import RunId
from bpa.errors import Unavailable
from tests.eventually import eventually
from tests.integration.control.desk import Desk, buried_elsewhere, cut, desk_of
from tests.integration.control.fleet import Fleet
from tests.integration.control.intaking import GOOD
from tests.integration.control.sweeping import sweep_of

ALIVE = ("queued", "offered", "running")


@pytest_asyncio.fixture
async def desk(fleet: Fleet, database: str, valkey_url: str) -> AsyncIterator[Desk]:
    async with desk_of(fleet, database, valkey_url) as desk:
        yield desk


async def sent_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Have a replay cut off after its send, and repeated; return the old run's id and the new."""
    original = await desk.dead()
    error = Unavailable("the answer was lost")
    async with cut(monkeypatch, ServiceBusPublisher, "send_encoded", after=True, error=error):
        (first,) = await desk.replay()
    (second,) = await desk.replay()
    assert desk.intaking.broker() == (2, 0, 0)
    assert second["runId"] == first["runId"]
    return original, first["runId"]


async def status(desk: Desk, run_id: str) -> tuple[str, str | None]:
    run = await desk.run(run_id)
    return run["status"], run["reason"]


async def alive(desk: Desk) -> list[str]:
    return [run["run_id"] for run in await desk.intaking.runs() if run["status"] in ALIVE]


async def let_go(desk: Desk) -> None:
    """Have every message that is held go back to the queue, as its replica stops."""
    held = desk.intaking.settlement.holding
    await desk.intaking.settlement.abandon_all()
    await eventually(lambda: desk.intaking.broker()[:2] == (held, 0))


async def buried_one(desk: Desk, number: int) -> None:
    """Have the broker move one of the messages that wait in the queue, by its number."""
    others: list[Message] = []
    while True:
        message = await desk.intaking.queue.source.receive(10)
        assert message is not None
        if message.sequence_number == number:
            break
        others.append(message)
    await desk.intaking.queue.source.dead_letter(message, "MaxDeliveryCountExceeded", "10 times")
    for other in others:
        await desk.intaking.queue.source.abandon(other)


async def the_rest_is_only_removed(desk: Desk, letters: int, successor: str | None) -> None:
    """Replay what is left: nothing is sent, and nothing is left."""
    results = await desk.replay()
    assert [result["result"] for result in results] == ["settled"] * letters
    assert {result["runId"] for result in results} <= {successor}
    assert desk.intaking.broker() == (0, 0, 0)
    assert await alive(desk) == []


@pytest.mark.parametrize("swept", ["never", "before the replay"])
async def test_a_copy_that_comes_after_the_other_was_buried_and_replayed_is_no_second_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, swept: str
):
    _, run_id = await sent_twice(desk, monkeypatch)
    await buried_elsewhere(desk)
    if swept != "never":
        assert await sweep_of(desk.intaking).one_pass() == Swept(recorded=1)

    (again,) = await desk.replay()

    assert again["result"] == "replayed"
    assert await status(desk, run_id) == ("dead_lettered", "MaxDeliveryCountExceeded")
    assert await desk.take(2) == [again["runId"]]
    assert await alive(desk) == [again["runId"]]
    assert (await desk.run(again["runId"]))["effect_key"] == again["effectKey"]
    await eventually(lambda: desk.intaking.broker() == (0, 1, 1))
    await desk.finish(again["runId"])
    await the_rest_is_only_removed(desk, 1, again["runId"])


async def test_a_copy_that_comes_before_the_other_s_letter_is_replayed_keeps_it_from_that(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    _, run_id = await sent_twice(desk, monkeypatch)
    await buried_elsewhere(desk)
    assert await desk.take(1) == [run_id]
    (refused,) = await desk.replay()
    assert (refused["result"], "queued" in refused["why"]) == ("refused", True)
    await desk.finish(run_id)
    await the_rest_is_only_removed(desk, 1, None)


async def test_a_message_recorded_late_after_its_letter_was_replayed_is_no_second_run(desk: Desk):
    """Its replica received it, and was slow to record it: its lock ran out meanwhile."""
    await desk.intaking.send(GOOD)
    queue = desk.intaking.queue
    message = await queue.source.receive(10)
    assert message is not None
    await queue.source.dead_letter(message, "MaxDeliveryCountExceeded", "10 times")
    (result,) = await desk.replay()
    assert result["result"] == "replayed"

    feeder = desk.intaking.feeder
    origin: Origin = feeder._origin
    received = await feeder._intake.accept(message, origin)

    assert received is not None
    assert (received.is_new, received.run_id) == (False, result["replayedRunId"])
    assert received.verdict is not None
    assert await desk.take(1) == await alive(desk) == [result["runId"]]


async def test_a_message_recorded_late_before_its_letter_is_replayed_is_left_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    """The letter was found without a run; the run was there when the replay began."""
    await desk.intaking.send(GOOD)
    queue = desk.intaking.queue
    message = await queue.source.receive(10)
    assert message is not None
    await queue.source.dead_letter(message, "MaxDeliveryCountExceeded", "10 times")
    feeder, replaying = desk.intaking.feeder, desk.rest.services.replaying
    find = replaying._dead_letters.find

    async def then_recorded(ids):
        found = await find(ids)
        await feeder._intake.accept(message, feeder._origin)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(replaying._dead_letters, "find", then_recorded)
        (refused,) = await desk.replay("invoices:1")

    assert (refused["result"], "queued" in refused["why"]) == ("refused", True)
    (run_id,) = await alive(desk)
    assert await sweep_of(desk.intaking).one_pass() == Swept(ended=1)
    (result,) = await desk.replay()
    assert (result["result"], result["replayedRunId"]) == ("replayed", run_id)
    assert await desk.take(1) == await alive(desk) == [result["runId"]]


@pytest.mark.parametrize("other", ["held", "given back"])
async def test_a_run_lives_on_by_its_other_message(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, other: str
):
    _, run_id = await sent_twice(desk, monkeypatch)
    assert await desk.take(1) == [run_id]
    await buried_elsewhere(desk)
    if other == "given back":
        await let_go(desk)

    assert await sweep_of(desk.intaking).one_pass() == Swept()
    assert await status(desk, run_id) == ("queued", None)

    if other == "given back":
        assert await desk.take(1) == []
    await desk.finish(run_id)
    assert await sweep_of(desk.intaking).one_pass() == Swept()
    assert await status(desk, run_id) == ("completed", None)
    await the_rest_is_only_removed(desk, 1, None)


@pytest.mark.parametrize("page", [1, 250])
@pytest.mark.parametrize("swept", ["between", "afterwards"])
async def test_a_run_ends_with_the_last_of_its_messages(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, swept: str, page: int
):
    monkeypatch.setattr(sweep, "PAGE", page)
    _, run_id = await sent_twice(desk, monkeypatch)
    assert await desk.take(2) == [run_id]
    epoch = await desk.fleet.granted(RunId(run_id))
    await let_go(desk)
    first, second = (await desk.deliveries(run_id))[:2]
    await buried_one(desk, second["sequence_number"])
    if swept == "between":
        assert await sweep_of(desk.intaking).one_pass() == Swept()
        assert await status(desk, run_id) == ("offered", None)
    await buried_one(desk, first["sequence_number"])

    assert await sweep_of(desk.intaking).one_pass() == Swept(ended=1)

    assert await status(desk, run_id) == ("dead_lettered", "MaxDeliveryCountExceeded")
    assert (await desk.run(run_id))["lease_epoch"] > epoch
    assert await sweep_of(desk.intaking).one_pass() == Swept()
    results = await desk.replay()
    assert sorted(result["result"] for result in results) == ["replayed", "settled"]
    assert len({result["runId"] for result in results}) == 1
    assert await desk.take(1) == await alive(desk) == [results[0]["runId"]]


async def test_a_lock_that_is_found_lost_later_does_not_bring_a_dead_letter_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    _, run_id = await sent_twice(desk, monkeypatch)
    assert await desk.take(2) == [run_id]
    first, second = [held.message for held in desk.intaking.settlement._held[RunId(run_id)]]
    await desk.intaking.queue.source.dead_letter(second, "MaxDeliveryCountExceeded", "10 times")
    assert await sweep_of(desk.intaking).one_pass() == Swept()
    await desk.intaking.renew()  # its replica hears only now that the lock is gone
    await desk.intaking.queue.source.dead_letter(first, "MaxDeliveryCountExceeded", "10 times")
    assert await sweep_of(desk.intaking).one_pass() == Swept(ended=1)


async def test_a_copy_that_nobody_has_received_yet_joins_the_run_that_ended_without_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    _, run_id = await sent_twice(desk, monkeypatch)
    assert await desk.take(1) == [run_id]
    (held,) = desk.intaking.settlement._held[RunId(run_id)]
    await desk.intaking.queue.source.dead_letter(held.message, "TTLExpiredException", "too old")
    assert await sweep_of(desk.intaking).one_pass() == Swept(ended=1)

    assert await desk.take(1) == []

    await eventually(lambda: desk.intaking.broker() == (0, 0, 2))
    results = await desk.replay()
    assert sorted(result["result"] for result in results) == ["replayed", "settled"]
    (successor,) = {result["runId"] for result in results}
    assert await desk.take(1) == await alive(desk) == [successor]
    await desk.finish(successor)
    assert desk.intaking.broker() == (0, 0, 0)


async def test_two_copies_that_were_buried_before_they_became_a_run_are_one_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    _, run_id = await sent_twice(desk, monkeypatch)
    await buried_elsewhere(desk)
    await buried_elsewhere(desk)
    assert await sweep_of(desk.intaking).one_pass() == Swept(recorded=1)
    assert [d["disposition"] for d in await desk.deliveries(run_id)] == ["dead_letter"] * 2
    assert await sweep_of(desk.intaking).one_pass() == Swept()

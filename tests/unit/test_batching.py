"""Natural batching: one execution at a time, and everybody gets their own answer."""

import asyncio
import contextvars

import pytest

from bpa.batching import Batcher
from bpa.errors import Unavailable


class Gate:
    """An execution that is held until it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = asyncio.Event()
        self.go = asyncio.Event()

    async def execute(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        self.entered.set()
        await self.go.wait()
        return [item * 10 for item in items]


async def _submit_all(batcher: Batcher[int, int], items: range) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.create_task(asyncio.Event.wait(_SET))  # tasks start in order: all are in by now
    return tasks


_SET = asyncio.Event()
_SET.set()


async def test_an_idle_batcher_executes_a_lone_item_at_once():
    gate = Gate()
    gate.go.set()
    assert await Batcher(gate.execute).submit(1) == 10
    assert gate.batches == [[1]]


async def test_what_arrives_during_an_execution_goes_together_into_the_next():
    gate = Gate()
    batcher = Batcher(gate.execute)
    first = asyncio.create_task(batcher.submit(0))
    await gate.entered.wait()
    others = await _submit_all(batcher, range(1, 6))
    assert gate.batches == [[0]]
    gate.go.set()
    assert await asyncio.gather(first, *others) == [0, 10, 20, 30, 40, 50]
    assert gate.batches == [[0], [1, 2, 3, 4, 5]]


async def test_no_batch_exceeds_the_bound_and_order_is_kept():
    gate = Gate()
    gate.go.set()
    batcher = Batcher(gate.execute, max_batch=4)
    assert await asyncio.gather(*(batcher.submit(i) for i in range(10))) == [
        i * 10 for i in range(10)
    ]
    assert [len(batch) for batch in gate.batches] == [4, 4, 2]
    assert [item for batch in gate.batches for item in batch] == list(range(10))


async def test_an_exception_in_a_slot_reaches_only_its_submitter():
    async def execute(items: list[int]) -> list[int | Exception]:
        return [ValueError(f"no {item}") if item == 2 else item for item in items]

    batcher = Batcher(execute)
    results = await asyncio.gather(*(batcher.submit(i) for i in range(4)), return_exceptions=True)
    assert results[:2] + results[3:] == [0, 1, 3]
    assert str(results[2]) == "no 2"


async def test_an_exception_that_is_raised_reaches_all_of_its_batch_and_none_of_the_next():
    calls = 0

    async def execute(items: list[int]) -> list[int | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Unavailable("away")
        return list(items)

    batcher = Batcher(execute, max_batch=2)
    results = await asyncio.gather(*(batcher.submit(i) for i in range(4)), return_exceptions=True)
    assert [type(result) for result in results[:2]] == [Unavailable, Unavailable]
    assert results[2:] == [2, 3]


async def test_a_wrong_number_of_results_is_an_error_for_all_instead_of_a_mix_up():
    async def execute(items: list[int]) -> list[int | Exception]:
        return [0]

    batcher = Batcher(execute)
    results = await asyncio.gather(*(batcher.submit(i) for i in range(2)), return_exceptions=True)
    assert [str(result) for result in results] == ["1 results for a batch of 2 items"] * 2


async def test_a_cancelled_submitter_that_still_waits_is_left_out_and_the_others_go_on():
    gate = Gate()
    batcher = Batcher(gate.execute)
    first = asyncio.create_task(batcher.submit(0))
    await gate.entered.wait()
    second, third = await _submit_all(batcher, range(1, 3))
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.go.set()
    assert (await first, await third) == (0, 20)
    assert gate.batches == [[0], [2]]


async def test_a_submitter_cancelled_in_mid_execution_harms_nobody():
    gate = Gate()
    batcher = Batcher(gate.execute)
    first, second = await _submit_all(batcher, range(2))
    await gate.entered.wait()
    first.cancel()
    gate.go.set()
    assert await second == 10
    assert first.cancelled()
    assert await batcher.submit(5) == 50


async def test_closing_waits_for_everything_submitted_and_refuses_newcomers():
    gate = Gate()
    batcher = Batcher(gate.execute, max_batch=1)
    tasks = await _submit_all(batcher, range(3))
    closing = asyncio.create_task(batcher.aclose())
    await asyncio.wait({closing}, timeout=0)
    with pytest.raises(Unavailable):
        await batcher.submit(9)
    assert not closing.done()
    gate.go.set()
    await closing
    assert [task.result() for task in tasks] == [0, 10, 20]


async def test_closing_an_idle_batcher_returns_at_once():
    await Batcher(Gate().execute).aclose()


async def test_a_cancelled_worker_leaves_nobody_waiting_for_ever():
    gate = Gate()
    batcher = Batcher(gate.execute, max_batch=1)
    tasks = await _submit_all(batcher, range(3))
    await gate.entered.wait()
    assert batcher._worker is not None
    batcher._worker.cancel()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3


async def test_the_context_of_a_submitter_does_not_leak_into_the_execution():
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    async def execute(items: list[int]) -> list[int | Exception]:
        seen.append(variable.get())
        return list(items)

    batcher = Batcher(execute)
    variable.set("the submitter's")
    await batcher.submit(1)
    assert seen == ["none"]

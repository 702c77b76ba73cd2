import asyncio
from contextlib import nullcontext

import pytest

from bpa.cancellation import cancellation_delivered


async def _ended(task):
    await asyncio.wait({task})
    return task


async def _swallows(future):
    try:
        await future
    except asyncio.CancelledError:
        return "done"


async def _value(value):
    return value


async def test_a_cancellation_that_a_library_swallows_is_raised_at_the_end_of_the_block():
    reached = []

    async def service(future):
        with cancellation_delivered():
            reached.append(await _swallows(future))
        reached.append("went on")

    task = asyncio.ensure_future(service(asyncio.get_running_loop().create_future()))
    asyncio.get_running_loop().call_soon(task.cancel)
    assert (await _ended(task)).cancelled()
    assert reached == ["done"]


async def test_a_cancellation_in_the_moment_of_the_result_of_wait_for_is_raised():
    result = asyncio.get_running_loop().create_future()

    async def service():
        with cancellation_delivered():
            await asyncio.wait_for(result, 60)

    def in_one_moment():
        result.set_result(None)
        task.cancel()

    task = asyncio.ensure_future(service())
    asyncio.get_running_loop().call_soon(in_one_moment)
    assert (await _ended(task)).cancelled()


async def test_an_error_gives_way_to_the_cancellation_that_it_hides():
    async def service(future):
        with cancellation_delivered():
            await _swallows(future)
            raise OSError("away")

    task = asyncio.ensure_future(service(asyncio.get_running_loop().create_future()))
    asyncio.get_running_loop().call_soon(task.cancel)
    assert (await _ended(task)).cancelled()


async def test_without_a_cancellation_results_and_errors_pass():
    with cancellation_delivered():
        assert await asyncio.wait_for(_value("result"), 60) == "result"
    with pytest.raises(OSError, match="away"), cancellation_delivered():
        raise OSError("away")


async def test_a_timeout_within_the_block_is_no_cancellation_of_its_task():
    with cancellation_delivered(), pytest.raises(TimeoutError):
        await _times_out(nullcontext())


async def test_a_timeout_around_the_block_stays_one():
    with pytest.raises(TimeoutError):
        await _times_out(cancellation_delivered())


async def _times_out(block):
    async with asyncio.timeout(0):
        with block:
            await asyncio.Event().wait()


async def test_what_cleans_up_after_a_cancellation_is_not_cancelled_again():
    cleaned = []

    async def service():
        try:
            await asyncio.Event().wait()
        finally:
            with cancellation_delivered():
                cleaned.append(await _value("cleaned"))

    task = asyncio.ensure_future(service())
    asyncio.get_running_loop().call_soon(task.cancel)
    assert (await _ended(task)).cancelled()
    assert cleaned == ["cleaned"]

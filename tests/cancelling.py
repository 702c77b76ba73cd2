"""Cancel a call at each step that it makes on the loop, so that no moment is left to luck."""

import asyncio


async def cancelled_after(turns: int, task: asyncio.Task[object]) -> bool:
    """Cancel ``task`` after so many turns of the loop; say if it was still under way.

    Raises:
        AssertionError: It was, and went on to its end all the same.
    """
    for _ in range(turns):
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await turned.wait()
    under_way = task.cancel()
    await asyncio.wait({task})
    assert task.cancelled() or not under_way, f"it went on when cancelled after {turns} turns"
    return under_way

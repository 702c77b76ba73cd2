"""What many ask for is made once, kept for a moment, and the longer the longer it took."""

import asyncio

import pytest

from bpa.shelf import KEPT_S, LONG_S, Shelf


class Bench:
    """Makes numbered things, each when it is let go; time is told to it."""

    def __init__(self, settled_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.made = 0
        self.takes_s = 0.0
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.making = asyncio.Event()
        """Set once somebody makes it; who asked in the same turn waits by then."""
        self.shelf: Shelf[int] = Shelf(settled_s, lambda: self.now_s)
        self.mark = 0

    async def make(self) -> int:
        self.made += 1
        number = self.made
        self.making.set()
        await self.go.wait()
        self.now_s += self.takes_s
        if self.error:
            raise self.error
        return number

    async def get(self, key: str = "a") -> int:
        return await self.shelf.get(key, self.make, lambda: self.mark)


async def test_those_who_ask_at_once_get_one_thing():
    bench = Bench()
    bench.go.clear()
    asking = [asyncio.ensure_future(bench.get()) for _ in range(50)]
    await bench.making.wait()
    bench.go.set()
    assert await asyncio.gather(*asking) == [1] * 50


async def test_it_is_kept_for_a_moment():
    bench = Bench()
    assert await bench.get() == 1
    bench.now_s += KEPT_S * 0.9
    assert await bench.get() == 1
    bench.now_s += KEPT_S * 0.2
    assert await bench.get() == 2


async def test_what_was_made_before_a_change_is_out_of_date():
    bench = Bench()
    await bench.get()
    bench.mark += 1
    assert await bench.get() == 2


async def test_what_is_settled_for_a_while_outlasts_changes_for_so_long():
    bench = Bench(settled_s=1.9)
    assert await bench.get() == 1
    bench.mark += 1
    bench.now_s += 1.8
    assert await bench.get() == 1
    bench.now_s += 0.2
    assert await bench.get() == 2


@pytest.mark.parametrize(
    ("takes_s", "part"), [(0.001, 0.1), (0.05, 0.1), (0.07, 0.1), (0.1, 0.05), (1.0, 0.022)]
)
async def test_making_it_takes_a_small_part_of_the_time_however_often_things_change(
    takes_s: float, part: float
):
    bench = Bench()
    bench.takes_s = takes_s
    began_s = bench.now_s
    for second in range(1_000):
        bench.mark += 1
        bench.now_s = max(bench.now_s, began_s + second)
        await bench.get()
        await bench.get()
    assert (bench.made - 1) * takes_s <= (bench.now_s - began_s) * part


async def test_other_things_are_made_for_others():
    bench = Bench()
    assert (await bench.get("a"), await bench.get("b"), await bench.get("a")) == (1, 2, 1)


async def test_an_error_reaches_all_who_waited_for_it_and_nobody_after_them():
    bench = Bench()
    bench.error = ValueError("no")
    bench.takes_s = 5.0
    bench.go.clear()
    asking = [asyncio.ensure_future(bench.get()) for _ in range(50)]
    await bench.making.wait()
    bench.go.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert (found, bench.made) == ([bench.error] * 50, 1)
    bench.error = None
    assert await bench.get() == 2


async def test_when_who_makes_it_is_cancelled_the_next_one_does():
    bench = Bench()
    bench.go.clear()
    first, second = asyncio.ensure_future(bench.get()), asyncio.ensure_future(bench.get())
    await bench.making.wait()
    first.cancel()
    bench.go.set()
    assert await second == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_what_is_forgotten_is_made_anew():
    bench = Bench()
    await bench.get()
    bench.shelf.forget("a")
    assert await bench.get() == 2
    bench.shelf.clear()
    assert await bench.get() == 3


async def test_it_does_not_grow_without_end():
    bench = Bench()
    bench.takes_s = LONG_S * 2
    for number in range(2_000):
        bench.now_s -= bench.takes_s
        await bench.get(f"{number}")
    assert len(bench.shelf._things) <= 500

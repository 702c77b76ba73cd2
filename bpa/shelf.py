"""What many ask for at once: made once for all of them, and kept for a moment.

However many ask, and however often: the longer a thing takes to make, the longer it is kept, so
that making it takes near to a fiftieth of the time. So nobody has to choose intervals that suit an
idle machine and a busy one, few runs and a million.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

KEPT_S = 1.0
LONG_S = 0.02
"""What takes longer to make is kept, whatever has changed, ``_RESTS`` times what it took longer."""
_RESTS = 50
_RESTS_AT_MOST_S = 60.0
_THINGS_AT_MOST = 500

V = TypeVar("V")


@dataclass(slots=True)
class _Thing(Generic[V]):
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    values: list[V] = field(default_factory=list)
    """The one there is, if there is one."""
    error: Exception | None = None
    mark: object = None
    began_s: float = 0.0
    ended_s: float = 0.0

    def is_good(self, mark: object, now_s: float, settled_s: float) -> bool:
        took_s, age_s = self.ended_s - self.began_s, now_s - self.began_s
        if age_s < max(settled_s, min(_RESTS * (took_s - LONG_S), _RESTS_AT_MOST_S)):
            return bool(self.values)
        return bool(self.values) and self.mark == mark and age_s < KEPT_S


def _no_mark() -> object:
    return None


class Shelf(Generic[V]):
    """Keeps things by what they are asked for.

    Args:
        settled_s: For so long a thing is kept whatever has changed.
        steady_s: A clock that is never set.
    """

    def __init__(
        self, settled_s: float = 0.0, steady_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._settled_s = settled_s
        self._steady_s = steady_s
        self._things: dict[Hashable, _Thing[V]] = {}

    async def get(
        self,
        key: Hashable,
        make: Callable[[], Awaitable[V]],
        mark_of: Callable[[], object] = _no_mark,
    ) -> V:
        """Return what there is, or make it; who asks meanwhile waits for that.

        Args:
            key: What is asked for.
            make: Makes it. What it raises is raised to those who waited for it, and not kept.
            mark_of: Returns what moves on as things change: what was made before that is out of
                date, unless it took long.
        """
        thing = self._thing(key)
        if thing is None:
            return await make()
        asked_s = self._steady_s()
        async with thing.lock:
            if thing.is_good(mark_of(), self._steady_s(), self._settled_s):
                return thing.values[0]
            if thing.error is not None and thing.ended_s > asked_s:
                raise thing.error
            thing.values, thing.error, thing.mark = [], None, mark_of()
            thing.began_s = self._steady_s()
            try:
                thing.values = [await make()]
            except Exception as error:
                thing.error = error
                raise
            finally:
                thing.ended_s = self._steady_s()
            return thing.values[0]

    def forget(self, key: Hashable) -> None:
        """Have the next who asks for this be the first."""
        self._things.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._things.clear()

    def _thing(self, key: Hashable) -> _Thing[V] | None:
        """Return where it stands, or None where there is no room for another one."""
        thing = self._things.get(key)
        if thing is None:
            now_s = self._steady_s()
            self._things = {
                key: one
                for key, one in self._things.items()
                if one.lock.locked() or one.is_good(one.mark, now_s, self._settled_s)
            }
            if len(self._things) >= _THINGS_AT_MOST:
                return None
            thing = self._things[key] = _Thing()
        return thing

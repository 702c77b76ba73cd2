"""Which of a queue's messages are locked, by token, and until when.

Pure but for its tokens, which nobody may guess.
"""

from __future__ import annotations

from collections.abc import Callable
from os import urandom

from .deadlines import Deadlines
from .message import Lock, Message
from .refusals import MessageLockLost

_TOKEN_BYTES = 16


class Locks:
    """The locks of one queue.

    Args:
        alarm: Called with the earliest time in ms at which one ends.
    """

    def __init__(self, alarm: Callable[[int], None]) -> None:
        self._alarm = alarm
        self._locks: dict[bytes, Lock] = {}
        self._ends: Deadlines[bytes] = Deadlines()

    def add(self, message: Message, expires_ms: int) -> Lock:
        """Lock a message until a time."""
        lock = Lock(urandom(_TOKEN_BYTES), message, expires_ms)
        self._locks[lock.token] = lock
        self._end_at(lock)
        return lock

    def prolong(self, lock: Lock, expires_ms: int) -> None:
        """Let a lock end at another time."""
        lock.expires_ms = expires_ms
        self._end_at(lock)

    def held(self, token: bytes, now_ms: int) -> Lock:
        """Return the lock of a token. Raises MessageLockLost when there is none any more."""
        lock = self._locks.get(token)
        if lock is None or lock.expires_ms <= now_ms:
            raise MessageLockLost
        return lock

    def drop(self, lock: Lock) -> None:
        """Forget a lock: its message is settled."""
        del self._locks[lock.token]
        self._ends.drop(lock.token)

    def next_ended(self, now_ms: int) -> Message | None:
        """Return a message whose lock has ended, and forget the lock; None for no further one."""
        token = self._ends.pop(now_ms)
        return None if token is None else self._locks.pop(token).message

    def set_alarm(self) -> None:
        """Ask to be woken when the next one ends."""
        first_ms = self._ends.first_ms()
        if first_ms is not None:
            self._alarm(first_ms)

    def _end_at(self, lock: Lock) -> None:
        if self._ends.set(lock.token, lock.expires_ms):
            self._alarm(lock.expires_ms)

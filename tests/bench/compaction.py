"""How long others wait while the emulator writes its journal anew, with a full queue in it."""

from __future__ import annotations

import http.client
import threading
import time

from tests.bench.bare import BareClient
from tests.bench.brokers import BESIDE, Process

_BODY_BYTES = 200_000
_AT_MOST = 5000
_EVERY_S = 0.001


def longest_waits(process: Process) -> dict[str, float]:
    """Fill the journal over a queue beside the full one until it is written anew.

    Returns:
        The longest time in ms that a client waited for what.
    """
    assert process.journal is not None
    client = BareClient(process.port, BESIDE, durable=True, body_bytes=_BODY_BYTES)
    pages = _Pages(process.admin_port)
    confirmed_ms, size_bytes = 0.0, process.journal.stat().st_size
    for _ in range(_AT_MOST):
        for work in (client.send, client.receive):
            began = time.monotonic()
            work(1)
            confirmed_ms = max(confirmed_ms, (time.monotonic() - began) * 1000)
        before, size_bytes = size_bytes, process.journal.stat().st_size
        if size_bytes < before:
            break
    else:
        raise AssertionError("the journal was not written anew")
    client.close()
    return {"a page over HTTP": pages.stop(), "a confirmation": confirmed_ms}


class _Pages:
    """Asks for a page that costs nothing, over and over, in a thread."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._longest_ms = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stopped.wait(_EVERY_S):
            began = time.monotonic()
            self._connection.request("GET", "/health")
            self._connection.getresponse().read()
            self._longest_ms = max(self._longest_ms, (time.monotonic() - began) * 1000)

    def stop(self) -> float:
        """Return the longest time in ms that an answer took."""
        self._stopped.set()
        self._thread.join()
        self._connection.close()
        return self._longest_ms

"""The suite that every source and every sink passes, ours and third parties'.

Subclass `SourceConformance` or `SinkConformance` in a test module under a name that pytest
collects, and implement `harness`::

    class TestMyQueue(SourceConformance):
        @asynccontextmanager
        async def harness(self):
            async with my_empty_queue() as queue:
                yield MyHarness(queue)

Each test enters a fresh harness. The methods are plain coroutines that assert; run them with
pytest-asyncio in auto mode, or call them from any other runner.
"""

from bpa.connectors.conformance.sinks import Applied, Behaviour, SinkConformance, SinkHarness
from bpa.connectors.conformance.sources import Buried, SourceConformance, SourceHarness

__all__ = [
    "Applied",
    "Behaviour",
    "Buried",
    "SinkConformance",
    "SinkHarness",
    "SourceConformance",
    "SourceHarness",
]

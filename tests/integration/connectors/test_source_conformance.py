"""The Service Bus source passes the suite for sources, with one link and with several."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bpa.connectors.conformance import SourceConformance, SourceHarness
from tests.integration.connectors.queues import open_queue


class TestServiceBusOverOneLink(SourceConformance):
    @asynccontextmanager
    async def harness(self) -> AsyncIterator[SourceHarness]:
        async with open_queue(links=1) as queue:
            yield queue


class TestServiceBusOverSeveralLinks(SourceConformance):
    @asynccontextmanager
    async def harness(self) -> AsyncIterator[SourceHarness]:
        async with open_queue(links=3) as queue:
            yield queue

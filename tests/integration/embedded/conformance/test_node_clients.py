"""The core rules over npm's @azure/service-bus and rhea; the cases are in ``node/cases.mjs``."""

import re

import pytest

from bpa.embedded.service_bus import QueueConfig, ServiceBusEmulator
from tests.integration.embedded.javascript import FOLDER, run_node
from tests.integration.embedded.service_bus import options_for

CASES = re.findall(r"^  async (\w+)\(\) \{", (FOLDER / "cases.mjs").read_text(), re.MULTILINE)
QUEUES = (
    QueueConfig("invoices", max_delivery_count=10),
    QueueConfig("once", duplicate_window_s=60),
    QueueConfig("small", max_size_mb=1),
)


def test_there_are_cases():
    assert len(CASES) > 10


@pytest.mark.parametrize("case", CASES)
async def test_node(case):
    async with ServiceBusEmulator(options_for(*QUEUES)) as emulator:
        await run_node("cases.mjs", emulator.connection_string, case)

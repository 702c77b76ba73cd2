"""``GET /v1/queues`` and ``bpa queues``, over what was read of a real queue."""

import asyncio

import pytest
from click.testing import CliRunner

from bpa.cli import cli
from bpa.postgres import fetch_all
from tests.integration.connectors.backlogs import QUEUE, bus
from tests.integration.control.fleet import DEP_ID, Fleet
from tests.integration.control.rest import rest_over


async def test_rest_and_the_command_show_what_is_known(fleet: Fleet):
    async with bus() as one, rest_over(fleet, bus=one.emulator.connection_string) as rest:
        await one.send(3)
        answer = (await rest.get("/v1/queues")).json
        assert [(queue["queue"], queue["measuredAt"]) for queue in answer] == [(QUEUE, None)]
        assert await shown(rest.url) == ([*HEADS], [QUEUE, DEP_ID, *"????", "not", "yet"], "")
        await rest.services.queues.one_pass()
        (queue,) = (await rest.get("/v1/queues")).json
        assert queue["deploymentId"] == DEP_ID
        assert (queue["active"], queue["deadLetters"], queue["estimated"]) == (3, 0, True)
        assert 0 <= queue["oldestAgeS"] < 30
        assert 0 <= queue["readingAgeS"] < 30
        _, cells, said = await shown(rest.url)
        assert (cells[3], cells[-1]) == ("~3", "estimated")
        assert said == "invoices: set service_bus.administration for true numbers\n"
        await fetch_all(fleet.pool, """update deployments set status = '{"active": false}'""")
        assert await shown(rest.url) == (
            [], [], "no deployment feeds from a queue; make one with `bpa apply FILE`\n"
        )  # fmt: skip


HEADS = ("queue", "deployment", "later", "waiting", "oldest", "dead", "read", "note")


async def shown(url: str) -> tuple[list[str], list[str], str]:
    """The words of the table's first two lines, and what is said beside it."""
    words = ["--set", f"control.url={url}", "queues"]
    result = await asyncio.to_thread(CliRunner().invoke, cli, words)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    return (*(lines or [[], []]), result.stderr)


@pytest.mark.parametrize("words", [["queues"], ["queues", "--json"]])
def test_the_command_exits_with_6_where_control_does_not_answer(words):
    result = CliRunner().invoke(cli, ["--set", "control.url=http://localhost:1", *words])
    assert getattr(result.exception, "exit_code", None) == 6

"""What lists are narrowed by: spelled in any way, and named when there is none of it."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from bpa.cli import cli
from bpa.errors import NotFound
from tests.integration.cli.test_api import talking_to

NOON = "2026-03-01T12:00:00Z"


def total(reason: str, *, complete: bool = True) -> dict[str, Any]:
    return {
        "queue": "invoices",
        "reason": reason,
        "count": 2,
        "firstEnqueuedAt": NOON,
        "lastEnqueuedAt": NOON,
        "complete": complete,
    }


async def run(*words: str, totals: list[dict[str, Any]] | None = None) -> tuple[Result, list[str]]:
    """Run a command against a control with nothing but these totals; return what was asked too."""
    asked = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(str(request.rel_url))
        if request.method == "POST":
            asked.append(json.dumps(await request.json()))
            return web.json_response({"detail": "there is nothing"}, status=404)
        answers = {
            "/v1/dead-letters/totals": totals or [],
            "/v1/dead-letters": {"deadLetters": [], "nextCursor": None},
            "/v1/runs": {"runs": [], "nextCursor": None},
            "/v1/deployments": [],
        }
        return web.json_response(answers[request.rel_url.path])

    async with talking_to(handler) as api:
        flag = f"control.url={api._url}"
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["--set", flag, *words])
    return result, asked


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("agenterror", "AgentError"),
        ("TTLEXPIREDEXCEPTION", "TTLExpiredException"),
        ("strange", "Strange"),
        ("Strange", "Strange"),
    ],
)
async def test_a_reason_is_meant_however_it_is_spelled(given, meant):
    result, asked = await run("dlq", "list", "--reason", given, totals=[total("Strange")])
    assert result.exit_code == 0
    assert any(f"/v1/dead-letters?reason={meant}" in one for one in asked)
    assert f"no dead letters with the reason {meant}; there are 2 Strange" in result.stderr
    result, asked = await run(
        "dlq", "replay", "--yes", "--reason", given, totals=[total("Strange")]
    )
    assert isinstance(result.exception, NotFound)
    assert any(f'"deadLetters": {{"reason": "{meant}"}}' in one for one in asked)


@pytest.mark.parametrize("words", [("list",), ("replay", "--yes")], ids=" ".join)
async def test_a_reason_that_is_none_is_refused_with_those_there_are(words):
    result, _ = await run("dlq", *words, "--reason", "AgentEror", totals=[total("AgentError")])
    assert isinstance(result.exception, NotFound)
    told = "no dead letter has the reason 'AgentEror'; there are 2 AgentError in invoices"
    assert str(result.exception) == told


async def test_a_reason_that_may_lie_beyond_what_is_counted_is_looked_for():
    totals = [total("AgentError", complete=False)]
    _, asked = await run("dlq", "list", "--reason", "Strange", totals=totals)
    assert any("/v1/dead-letters?reason=Strange" in one for one in asked)


async def test_a_state_is_taken_as_tables_show_it():
    for given in ("dead-lettered", "dead_lettered"):
        _, asked = await run("runs", "list", "--status", given)
        assert any("status=dead_lettered" in one for one in asked)


async def test_a_deployment_that_is_none_is_told_from_one_without_runs():
    result, _ = await run("runs", "list", "--deployment", "invoces")
    assert isinstance(result.exception, NotFound)
    assert str(result.exception) == "there is no deployment 'invoces'; there are none"

"""A real Prometheus beside a server at work: every query of dashboards and alerts has an answer.

Loki and Tempo are in no package registry, so the queries to them are not asked here.
"""

from __future__ import annotations

import asyncio
import html
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest
import yaml

from observability.grafana import as_prometheus_takes, dashboards
from observability.programs import Programs
from observability.prometheus import CONFIG, Prometheus, running
from tests.e2e.queues import documents, emptied, send, send_documents
from tests.e2e.server import Bpa, serving
from tests.e2e.test_target_failures import invoice, script
from tests.eventually import eventually
from tests.promtool import asked

RIGHTLY_EMPTY = {"Fleet Health: Silent nodes: __auto": "a count of none, which is 0 on the panel"}
"""Queries without an answer in this load, and why that is right."""
LINTED = ("run_latency_ms", "tokens_in", "tokens_out", "usd_cost")
"""The architecture document's own names, which promtool would have otherwise."""
UNPRICED = "claude-of-tomorrow"
OUTAGE = 6
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTOR = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?![\w:])(\{[^}]*\})?(?!\s*\()")
_WORDS = {"and", "or", "unless", "offset", "bool"}


async def asked_of(prometheus: Prometheus, path: str, **words: str) -> Any:
    async with (
        aiohttp.ClientSession(prometheus.url) as session,
        session.get(f"/api/v1/{path}", params=words) as response,
    ):
        answer = await response.json()
    assert answer["status"] == "success", (words, answer)
    return answer["data"]


async def has_data(prometheus: Prometheus, query: str) -> bool:
    """Ask, and say whether there is an answer that is a number."""
    result = (await asked_of(prometheus, "query", query=query))["result"]
    return any(not math.isnan(float(series["value"][1])) for series in result)


def of_dashboards() -> Iterator[tuple[str, str]]:
    """Yield where each query to Prometheus stands, and the query without its 0 for no data."""
    for dashboard in dashboards().values():
        for panel in dashboard.panels:
            for legend, query in panel.named_queries.items():
                if panel.source == "prometheus":
                    bare = as_prometheus_takes(query.replace(" or vector(0)", ""), "5m")
                    yield f"{dashboard.title}: {panel.title}: {legend}", bare


def of_rules() -> Iterator[tuple[str, str]]:
    """Yield each rule and each series that it looks at: an alert that is silent has no answer."""
    for path in sorted((CONFIG / "alerts").glob("*.yml")):
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
            for rule in group["rules"]:
                name = rule.get("alert") or rule["record"]
                for selector in selectors(rule["expr"]):
                    yield f"{name}: {selector}", selector


def selectors(expression: str) -> list[str]:
    """Return the series that an expression looks at.

    >>> selectors('max by (a) (x{b="c"} - x offset 15m) > 5 or vector(0)')
    ['x', 'x{b="c"}']
    """
    bare = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", "", _GROUPING.sub("", expression))
    found = {f"{name}{labels}" for name, labels in _SELECTOR.findall(bare) if name not in _WORDS}
    return sorted(found)


def test_the_series_of_an_expression_are_found() -> None:
    assert selectors('max by (a) (x{b="c"} - x offset 15m) > 5 or vector(0)') == ["x", 'x{b="c"}']
    assert selectors("1 - 14.4 * sum(rate(a:b:c[5m])) unless on (n) d_e") == ["a:b:c", "d_e"]


def with_a_model_of_tomorrow(folder: Path) -> Path:
    """Return a copy of the shipped configuration with a second agent, whose model has no price."""
    config = folder / "config"
    shutil.copytree(CONFIG, config)
    agent = json.loads((config / "agents" / "invoice-classifier.json").read_text("utf-8"))
    agent |= {"agentId": "tomorrow", "name": "Tomorrow"}
    agent["modelProfile"]["model"] = UNPRICED
    (config / "agents" / "tomorrow.json").write_text(json.dumps(agent), "utf-8")
    path = config / "deployments" / "invoice-classifier-dev.json"
    deployment = json.loads(path.read_text("utf-8")) | {"agentId": "tomorrow", "queue": "tomorrow"}
    (config / "deployments" / "tomorrow-dev.json").write_text(json.dumps(deployment), "utf-8")
    return config


async def a_queue_with_short_locks(admin: str, name: str) -> None:
    """Create a queue, whose locks are renewed while a run is parked for some seconds."""
    token = f"SharedAccessSignature sr=x&sig=y&se={time.time() + 60:.0f}&skn=k"
    body = (
        '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
        '<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/'
        'connect"><LockDuration>PT5S</LockDuration></QueueDescription></content></entry>'
    )
    async with (
        aiohttp.ClientSession(admin, headers={"Authorization": token}) as session,
        session.put(f"/{name}", params={"api-version": "2021-05"}, data=body) as response,
    ):
        assert response.status == 201, await response.text()


async def all_that_can_happen(server: Bpa) -> None:
    """Have runs complete, fail in every way, be replayed, parked and probed, and a node drained."""
    bus = server.addresses["service_bus"]
    refused = [{"match": {"invoice_id": "REFUSED"}, "status": 400}]
    await script(server, *refused)
    failing = [d for d in documents("dead_lettered") if "demo" not in d.name]
    traces = await send_documents(bus, [*documents()[:8], *failing])
    traces += await send(bus, [invoice("REFUSED")])
    tomorrow = await send(bus, [invoice("TOMORROW")], "tomorrow")
    runs = await server.ended_of([*traces, *tomorrow])
    reasons = {run["reason"] for run in runs.values()}
    assert reasons >= {"BudgetExceeded", "DeserializationError", "NonRetryableHttpStatus"}
    assert runs[tomorrow[0]]["status"] == "completed"

    await script(server)
    (run_id,) = (r["runId"] for r in runs.values() if r["reason"] == "NonRetryableHttpStatus")

    async def replayed() -> bool:
        code, _, said = await bpa(server, "runs", "retry", run_id)
        assert code == 0, said
        return True

    await eventually(replayed, within_s=20, every_s=0.5)
    await emptied(bus)

    await script(server, {"status": 503})
    traces = await send(bus, [invoice(f"AWAY-{n}") for n in range(OUTAGE)], "tomorrow")

    async def parked_and_renewed() -> bool:
        shown = await text(server, "/metrics")
        assert "bpa_runs_parked_total{" in shown
        assert re.search(r'bpa_lock_renewals_total\{result="ok"\} [1-9]', shown)
        return True

    await eventually(parked_and_renewed, within_s=60, every_s=0.5)
    (node,) = await server.get("/v1/nodes")
    for words in (("drain", node["nodeId"], "--detach"), ("uncordon", node["nodeId"])):
        code, _, said = await bpa(server, *words)
        assert code == 0, said
    await script(server)
    await server.ended_of(traces, within_s=90)


async def bpa(server: Bpa, *words: str) -> tuple[int, str, str]:
    return await server.run("--set", f"control.url={server.addresses['http']}", *words)


async def text(server: Bpa, path: str) -> str:
    async with (
        aiohttp.ClientSession(server.addresses["http"]) as session,
        session.get(path) as response,
    ):
        return await response.text()


@pytest.mark.timeout(240)
async def test_every_query_of_every_dashboard_and_alert_has_an_answer(
    prometheus: Programs, old_data_dir: Path, tmp_path: Path, unused_tcp_port: int
) -> None:
    settings = {
        "config_dir": str(with_a_model_of_tomorrow(tmp_path)),
        "embedded.service_bus_admin_port": str(unused_tcp_port),
    }
    async with serving(old_data_dir, **settings) as server:
        await a_queue_with_short_locks(f"http://127.0.0.1:{unused_tcp_port}", "tomorrow")
        with running(prometheus, tmp_path / "prometheus", every="1s") as scraping:
            scraping.scrape({"bpa-all": [server.addresses["http"].removeprefix("http://")]})
            await all_that_can_happen(server)

            async def answered() -> bool:
                queries = dict([*of_dashboards(), *of_rules()])
                empty = {w for w, query in queries.items() if not await has_data(scraping, query)}
                assert empty == set(RIGHTLY_EMPTY), "\n".join(sorted(empty ^ set(RIGHTLY_EMPTY)))
                return True

            await eventually(answered, within_s=20, every_s=1.0)
            await every_choice_has_values(scraping)
            await the_rules_are_in_order_and_tell_of_the_model_without_a_price(scraping)
        promtool_knows_no_better_names(prometheus, await text(server, "/metrics"))


async def every_choice_has_values(prometheus: Prometheus) -> None:
    for dashboard in dashboards().values():
        for choice in dashboard.choices:
            if choice.metric:
                where = {"match[]": choice.metric}
                values = await asked_of(prometheus, f"label/{choice.name}/values", **where)
                assert values, (dashboard.title, choice)


async def the_rules_are_in_order_and_tell_of_the_model_without_a_price(
    prometheus: Prometheus,
) -> None:
    rules = [r for g in (await asked_of(prometheus, "rules"))["groups"] for r in g["rules"]]
    assert {(r["health"], r.get("lastError")) for r in rules} == {("ok", None)}
    firing = [a for r in rules for a in r.get("alerts", []) if a["state"] == "firing"]
    (alert,) = [a for a in firing if a["labels"]["alertname"] == "UnpricedTokens"]
    assert alert["labels"]["model"] == UNPRICED
    for alert in firing:
        assert "error" not in str(alert["annotations"]), alert
    assert "ControlPlaneDown" not in {alert["labels"]["alertname"] for alert in firing}


def promtool_knows_no_better_names(programs: Programs, metrics: str) -> None:
    _, said = asked(programs, "check", "metrics", given=metrics)
    others = [line for line in said.splitlines() if line and not line.startswith(LINTED)]
    assert not others, said


async def test_make_observability_says_where_to_look_and_ends_with_ctrl_c(
    prometheus: Programs, server: Bpa
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "observability", stdout=PIPE, stderr=STDOUT,
        cwd=CONFIG.parent, env={**os.environ, "BPA_DATA_DIR": str(server.data_dir)},
    )  # fmt: skip
    said = ""
    async with asyncio.timeout(60):
        while f"Scrapes {server.addresses['http']}/metrics" not in said:
            line = await process.stdout.readline()
            assert line, said
            said += line.decode()
        async with aiohttp.ClientSession() as session:
            for address in re.findall(r"http://\S+/(?:user/|alerts|graph)\b", said):
                async with session.get(address) as response:
                    assert response.status == 200, address
                    page = await response.text()
                if address.endswith("/user/"):
                    links = re.findall(r'href="(\S+?)"', page)
                    assert len(links) > 40
                    async with session.get(urljoin(address, html.unescape(links[-1]))) as response:
                        assert response.status == 200, links[-1]
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0, await process.stdout.read()

"""Dashboards as files: drawn from their sources, and whole."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import msgspec
import pytest

from observability.grafana import DRAWN, Dashboard, dashboards, drawn

TITLES = ["Cost / Token", "Fleet Health", "Queue Lag", "Run Latency"]
NAMES = sorted(dashboards())
BUILT_IN = {"__auto", "__range", "__rate_interval"}


@pytest.fixture(params=NAMES)
def document(request: pytest.FixtureRequest) -> Any:
    return json.loads((DRAWN / f"{request.param}.json").read_text("utf-8"))


def test_there_are_the_four_of_the_architecture() -> None:
    assert [dashboard.title for dashboard in dashboards().values()] == TITLES
    assert sorted(path.stem for path in DRAWN.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_the_one_that_make_dashboards_draws(name: str) -> None:
    file = DRAWN / f"{name}.json"
    assert file.read_text("utf-8") == drawn(dashboards()[name]), "run make dashboards"


def test_a_key_that_nobody_reads_is_refused() -> None:
    source = b"{uid: a, title: b, help: c, choices: [], rows: [], colour: green}"
    with pytest.raises(msgspec.ValidationError, match="colour"):
        msgspec.yaml.decode(source, type=Dashboard)


def test_every_panel_says_what_it_shows_and_asks_something(document: Any) -> None:
    for panel in document["panels"]:
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert all(t.get("expr") or t.get("query") for t in panel["targets"]), panel["title"]


def test_panels_do_not_lie_on_each_other(document: Any) -> None:
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))
    for one, other in combinations((p["gridPos"] for p in document["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert one["x"] + one["w"] <= 24


def test_every_variable_that_is_used_is_there(document: Any) -> None:
    there = {variable["name"] for variable in document["templating"]["list"]} | BUILT_IN
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(document["panels"])))
    assert used - there == set()
    assert there - used - BUILT_IN == set()

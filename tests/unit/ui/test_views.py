"""What pages show, as values."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from bpa.control.drains import NodeState, Stage
from bpa.control.ledger import By, total_of, with_completed
from bpa.control.replay_plan import LetterId, Outcome, Result
from bpa.control.rest.cost_schemas import Cost
from bpa.control.rest.node_schemas import Drain, NodeDetail, NodeLease, Sandbox
from bpa.control.rest.queue_schemas import Queue
from bpa.control.rest.run_schemas import RunSummary, StageView
from bpa.control.trends import Trend
from bpa.ui.views import costs, dead_letters, fleet, overview, runs, status, waterfall

NOW = datetime(2026, 11, 29, 12, 0, 30, tzinfo=UTC)
RUN = RunSummary(
    run_id="01a22849-b3fe-8840-9ef0-9654bce10154", agent_id="a", version="1", deployment_id="a-dev",
    node_id="n", status="running", reason=None, detail=None, waiting_reason=None,
    waiting_until=None, cancelling=False, parked=None, executions=1, cost_usd="0.001",
    tokens_used=5, trace_id="t", vendor="Acme", invoice_id="A-1", message_id="m-1",
    replayed_as=None, created_at=NOW, started_at=NOW, ended_at=None,
)  # fmt: skip
NODE = NodeDetail(
    node_id="n", boot_id="b", labels={"region": "aus-east", "zone": "b"}, version="1", slots=4,
    slots_used=1, state=NodeState.READY, draining=False, cordoned_at=None, cordoned_by=None,
    drain=None,
    registered_at=NOW, heartbeat_at=NOW, heartbeat_age_s=1.0, leases=[], sandbox=None,
)  # fmt: skip
QUEUE = Queue(
    queue="invoices", deployment_id="a-dev", agent_id="a", version="1", measured_at=NOW,
    reading_age_s=1.0, active=0, active_at_least=False, scheduled=0, dead_letters=0,
    dead_letters_at_least=False, estimated=False, oldest_enqueued_at=None, oldest_age_s=None,
    max_delivery_count=10, max_delivery_count_low=False, trouble=None, detail="",
)  # fmt: skip
NOTHING = {"completed": 0, "dead_lettered": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None,
           "cost_usd": "0"}  # fmt: skip
KNOWN = overview.Known(
    queues=[QUEUE], breakers=[], nodes=[NODE], alive=[],
    trend=Trend(NOW - timedelta(hours=1), [], [], NOTHING),
)  # fmt: skip


def states(beads) -> list[str]:
    return [bead.state for bead in beads]


def test_a_run_s_way_ends_where_it_is():
    assert states(status.way_of(RUN)) == ["done"] * 3 + ["now"] + ["ahead"] * 2
    done = msgspec.structs.replace(RUN, status="completed")
    assert states(status.way_of(done)) == ["done"] * 6
    early = msgspec.structs.replace(RUN, status="dead_lettered", executions=0)
    assert states(status.way_of(early)) == ["failed"] + ["ahead"] * 5


def test_silence_outweighs_what_was_decided_about_a_node():
    silent = msgspec.structs.replace(NODE, heartbeat_age_s=60.0, state=NodeState.CORDONED)
    badge = status.of_node(silent)
    assert (badge.text, badge.tone) == ("silent, cordoned", "bad")


@pytest.mark.parametrize(
    ("text", "here", "queued_path"),
    [
        ("", "all", "/ui/runs?q=status%3Aqueued"),
        ("acme status:queued", "queued", "/ui/runs?q=acme+status%3Aqueued"),
        ("status:dead_lettered since:1h", "dead-lettered", "/ui/runs?q=since%3A1h+status%3Aqueued"),
    ],
)
def test_a_tab_changes_the_state_and_keeps_the_rest_of_a_search(text, here, queued_path):
    shown = runs.runs(
        [], [], NOTHING, runs.Asked(text), number=None, cursor=None, following=None
    )  # fmt: skip
    assert [tab.text for tab in shown.tabs if tab.is_here] == [here]
    assert shown.tabs[1].path == queued_path


def test_a_line_names_whose_invoice_it_is_and_what_is_waited_for():
    waiting = msgspec.structs.replace(
        RUN, status="queued", waiting_reason="no slot is free", waiting_until=NOW
    )
    line = runs.line(waiting)
    assert line.what == "Acme A-1"
    assert line.why == "no slot is free; next try at 12:00:30 UTC"


def test_bars_share_one_scale_and_parts_stand_below_their_whole():
    def stage(name: str, parent: str, at_s: float, took_s: float | None) -> StageView:
        began = NOW + timedelta(seconds=at_s)
        ended = None if took_s is None else began + timedelta(seconds=took_s)
        return StageView(
            name=name, span_id=name, parent_id=parent, started_at=began, ended_at=ended,
            attempt=1, node_id="n", step=None, error="", detail="", attributes={},
        )  # fmt: skip

    drawn = waterfall.waterfall(
        [stage("receive", "", 0, 1), stage("think", "receive", 1, None),
         stage("chat x", "think", 2, 1)],
        NOW + timedelta(seconds=4),
    )  # fmt: skip
    assert [(bar.name, bar.depth, bar.x, bar.width) for bar in drawn.bars] == [
        ("receive", 0, 0.0, 250.0), ("think", 0, 250.0, 750.0), ("chat x", 1, 500.0, 250.0),
    ]  # fmt: skip
    assert drawn.bars[1].took == "3 s …"
    assert drawn.ticks == ["0", "1 s", "2 s", "3 s", "4 s"]
    assert waterfall.waterfall([], NOW).bars == []


def test_a_drain_says_what_is_left_and_what_ends_each_stay():
    drain = Drain(
        started_at=NOW,
        deadline_at=NOW + timedelta(seconds=60),
        left_s=15.0,
        requested_by="ui:local",
    )
    leases = [
        NodeLease(run_id=name, deployment_id="d", epoch=1, stage=Stage.MODEL, granted_at=NOW,
                  acknowledged_at=NOW, left_s=left_s)
        for name, left_s in (("a", 5.0), ("b", 50.0))
    ]  # fmt: skip
    node = msgspec.structs.replace(NODE, drain=drain, leases=leases, state=NodeState.DRAINING)
    page = fleet.node_page(node)
    assert page.drain is not None
    assert page.drain.headline == "2 runs left, 15 s to go"
    assert page.drain.share == pytest.approx(0.75)
    assert [one.latest for one in page.held] == ["ends in 5 s", "handed back in 15 s"]
    over = fleet.node_page(msgspec.structs.replace(node, leases=[]))
    assert over.drain is not None
    assert over.drain.is_over


def test_a_node_s_sandbox_is_told_in_words_and_one_that_does_not_say_as_such():
    told = Sandbox.of_names(["opens_nothing", "own_user", "a_later_one"])
    page = fleet.node_page(msgspec.structs.replace(NODE, sandbox=told))
    assert page.card.sandbox == "partial"
    assert page.confined is not None
    assert page.confined.held[-1] == "a_later_one"
    assert "can start processes" in " ".join(page.confined.missing)
    assert "no system call filter (seccomp): not in this release" in page.confined.missing
    silent = fleet.node_page(NODE)
    assert (silent.card.sandbox, silent.confined) == ("", None)


def test_costs_keep_what_they_are_narrowed_to_in_every_link_and_command():
    asked = costs.Asked(By.MODEL, "2026-11-01", "", "a b; rm", "", "m")
    known = costs.Known([{"agent_id": "a", "spec": {"modelProfile": {"model": "m2"}}}], ["d"])
    nothing = Cost.of(with_completed(total_of([]), 0))
    page = costs.cost_page(asked, known, [], nothing, [])
    assert all("agent=a+b%3B+rm&model=m" in one.path for one in [*page.bys, *page.periods])
    assert not any(one.is_here for one in page.periods)
    assert [one.text for one in page.bys if one.is_here] == ["by model"]
    assert [(one.value, one.options) for one in page.filters] == [
        ("a b; rm", ["a", "a b; rm"]), ("", ["d"]), ("m", ["m", "m2"]),
    ]  # fmt: skip
    assert page.commands[1] == "bpa budgets --since 2026-11-01 --agent 'a b; rm'"
    assert (page.total.each, page.said) == ("", "0.00 USD since 2026-11-01")
    chosen = asked.chosen(NOW)
    assert (chosen.agent, chosen.deployment, chosen.until) == ("a b; rm", None, None)


def test_nodes_that_need_somebody_come_first():
    silent = msgspec.structs.replace(NODE, node_id="z", heartbeat_age_s=99.0)
    shown = fleet.fleet([NODE, silent])
    assert [card.node.node_id for card in shown.cards] == ["z", "n"]
    assert (shown.ready, shown.slots, shown.used) == (1, 8, 2)


def test_where_nothing_is_wrong_nothing_needs_attention():
    shown = overview.overview(KNOWN, NOW)
    assert shown.concerns == []
    assert [step.is_done for step in shown.first_steps] == [True, True, False]
    assert shown.said.startswith("All is well: no dead letters")


def test_the_first_steps_say_what_is_missing_and_how_to_get_it():
    bare = overview.overview(replace(KNOWN, queues=[], nodes=[]), NOW)
    assert [step.is_done for step in bare.first_steps] == [False, False, False]
    other = replace(KNOWN, queues=[msgspec.structs.replace(QUEUE, queue="notes")])
    sends = overview.overview(other, NOW).first_steps[-1]
    assert sends.command == "bpa send --queue notes demo/invoices/*"
    busy = [msgspec.structs.replace(QUEUE, active=1)]
    assert not overview.overview(replace(KNOWN, queues=busy), NOW).first_steps


def test_all_is_not_well_while_dead_letters_may_lie_in_a_queue_that_was_not_read_since():
    died = {**KNOWN.trend.overall, "dead_lettered": 1}
    trend = replace(KNOWN.trend, overall=died)
    shown = overview.overview(replace(KNOWN, trend=trend), NOW)
    assert shown.concerns == []
    assert shown.said.startswith("1 run was dead-lettered in the last hour")


def test_dead_letters_silent_nodes_and_old_waits_need_attention_in_this_order():
    waits = {"status": "queued", "waits_for": "no slot is free", "runs": 3,
             "oldest_at": NOW - timedelta(minutes=5)}  # fmt: skip
    known = replace(
        KNOWN,
        queues=[msgspec.structs.replace(QUEUE, dead_letters=2)],
        nodes=[msgspec.structs.replace(NODE, heartbeat_age_s=99.0)],
        alive=[waits],
    )
    shown = overview.overview(known, NOW)
    assert [one.title for one in shown.concerns] == [
        "2 dead letters in invoices", "n is silent", "3 runs wait: no slot is free",
    ]  # fmt: skip
    assert shown.said.startswith("3 things need attention: 2 dead letters")


def test_the_lag_of_the_past_is_counted_back_from_what_came_and_ended():
    minute = NOW.replace(second=0) - timedelta(minutes=2)
    trend = Trend(
        NOW - timedelta(minutes=4),
        [{"at": minute, "arrived": 5}],
        [{**NOTHING, "at": minute + timedelta(minutes=1), "completed": 3, "p50_ms": 1.0,
          "p95_ms": 1.0, "p99_ms": 1.0}],
        {**NOTHING, "completed": 3},
    )  # fmt: skip
    alive = {"status": "running", "waits_for": None, "runs": 2, "oldest_at": NOW}
    queue = msgspec.structs.replace(QUEUE, active=2, oldest_enqueued_at=minute)
    shown = overview.overview(replace(KNOWN, trend=trend, alive=[alive], queues=[queue]), NOW)
    lag = shown.charts[0]
    assert [row[1] for row in lag.rows] == ["0", "0", "5", "2", "2"]
    assert lag.value == "2"


def test_a_body_that_differs_only_in_how_forms_write_line_ends_is_not_edited():
    body = b'{\n"a": 1}\n'
    assert dead_letters.edited_body('{\r\n"a": 1}\r\n', body) is None
    assert dead_letters.edited_body('{"a": 2}', body) == b'{"a": 2}'
    assert dead_letters.edited_body("x", b"\xff\xfe") == b"x"


def test_what_became_of_dead_letters_is_summed_up():
    outcomes = [
        Outcome(LetterId("q", n), result, "why")
        for n, result in enumerate([Result.REPLAYED, Result.REPLAYED, Result.REFUSED])
    ]
    assert dead_letters.summary(outcomes) == "2 replayed, 1 refused"
    assert [one.may_apply for one in dead_letters.done(outcomes)] == [True, True, False]

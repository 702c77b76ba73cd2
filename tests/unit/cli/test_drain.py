"""What is said of a drain, before, while and after it is watched."""

from datetime import UTC, datetime, timedelta

import pytest

from bpa.cli.drain import DrainReport, _announced, _headline, _summary
from bpa.cli.nodes import leases_of, shown_state
from bpa.cli.tables import output
from bpa.control.drains import NodeState, Stage
from bpa.control.rest.node_schemas import Drain, NodeDetail, NodeDrained, NodeLease

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def lease(number=1, *, stage=Stage.MODEL, left_s=30.0):
    at = None if stage is Stage.OFFERED else NOON
    return NodeLease(
        run_id=f"run-{number}",
        deployment_id="invoices",
        epoch=1,
        stage=stage,
        granted_at=NOON,
        acknowledged_at=at,
        left_s=None if at is None else left_s,
    )


def node(*leases, state=NodeState.DRAINING, left_s=600.0, age_s=1.0, drain=True):
    under_way = Drain(
        started_at=NOON, deadline_at=NOON + timedelta(seconds=600), left_s=left_s, requested_by=None
    )
    return NodeDetail(
        node_id="node-1",
        boot_id="boot-1",
        labels={},
        version="1",
        sandbox=None,
        slots=8,
        slots_used=len(leases),
        state=state,
        draining=drain,
        cordoned_at=NOON if drain else None,
        cordoned_by="cli:ada@desk" if drain else None,
        drain=under_way if drain else None,
        registered_at=NOON,
        heartbeat_at=NOON,
        heartbeat_age_s=age_s,
        leases=[*leases],
    )


def asked(of, *, before=None, taken_back=0):
    return NodeDrained(
        node=of, taken_back=taken_back, deadline_before=before, empty_within_s=of.drain.left_s + 35
    )


def report(of, *, drained=False, ended=(), handed_back=()):
    return DrainReport(
        drained=drained,
        node=of,
        taken_back=0,
        deadline_before=None,
        ended=[*ended],
        handed_back=[*handed_back],
    )


def test_a_drain_is_announced_with_what_runs_and_until_when():
    assert _announced(asked(node(lease(1), lease(2)), taken_back=1)) == [
        "node-1 gets no new leases",
        "1 offer was taken back; its run waits for another node",
        "2 runs may go on until 12:10:00 UTC (10 min); the rest is handed back then",
    ]
    assert _announced(asked(node(lease(), left_s=0.0)))[-1] == (
        "1 run to be handed back with the next heartbeat"
    )
    assert _announced(asked(node(state=NodeState.DRAINED))) == ["node-1 gets no new leases"]


@pytest.mark.parametrize(
    ("before_s", "said"),
    [
        (600, "node-1 drains already, until 12:10:00 UTC"),
        (300, "node-1 drains already; its deadline moves to 12:10:00 UTC, 5 min later"),
        (645, "node-1 drains already; its deadline moves to 12:10:00 UTC, 45 s sooner"),
    ],
)
def test_a_second_drain_says_what_becomes_of_the_deadline(before_s, said):
    assert _announced(asked(node(), before=NOON + timedelta(seconds=before_s))) == [said]


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (node(state=NodeState.READY, drain=False), "ready"),
        (node(state=NodeState.READY, drain=False, age_s=60), "silent"),
        (node(state=NodeState.CORDONED, drain=False), "cordoned"),
        (node(lease(), left_s=90.0), "draining (deadline in 90 s)"),
        (node(lease(), left_s=0.0), "draining (deadline passed)"),
        (node(lease(), left_s=0.0, age_s=60), "draining (deadline passed), silent"),
        (node(state=NodeState.DRAINED), "drained"),
        (node(state=NodeState.CLOSING, drain=False, age_s=60), "gone"),
    ],
)
def test_a_node_is_shown_with_its_state_in_words(shown, words):
    assert shown_state(shown) == words


def test_what_remains_says_what_it_waits_for_and_what_ends_its_stay(capsys):
    shown = node(
        lease(1, stage=Stage.OFFERED),
        lease(2, stage=Stage.MODEL, left_s=12.0),
        lease(3, stage=Stage.HTTP_OUT, left_s=900.0),
    )
    output().print(leases_of(shown, 400))
    lines = capsys.readouterr().out.splitlines()
    assert "offered" in lines[1]
    assert "waits for the model" in lines[2]
    assert lines[2].endswith("ends in 12 s")
    assert "waits for the target" in lines[3]
    assert lines[3].endswith("handed back in 10 min")
    assert "invoices" in lines[3]
    output().print(leases_of(shown, 80))
    assert "invoices" not in capsys.readouterr().out, "what is least needed gives way"
    assert _headline(shown) == "node-1 is draining (deadline in 10 min); 3 runs remain"


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (
            report(
                node(state=NodeState.DRAINED), drained=True, ended=["a", "b"], handed_back=["c"]
            ),
            "node-1 is drained (2 runs ended, 1 run handed back); "
            "it stays cordoned until `bpa uncordon node-1`",
        ),
        (
            report(node(state=NodeState.DRAINED), drained=True),
            "node-1 is drained; it stays cordoned until `bpa uncordon node-1`",
        ),
        (
            report(node(lease(4), left_s=0.0)),
            "node-1 is past its deadline; 1 run on it still: run-4",
        ),
        (
            report(node(lease(4), state=NodeState.READY, drain=False)),
            "the drain of node-1 was called off; 1 run on it",
        ),
    ],
)
def test_the_last_line_says_what_the_drain_came_to(of, said):
    assert _summary(of) == said

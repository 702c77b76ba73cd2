"""What is looked for: every query is read, or refused in words."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.control.search import QUALIFIERS, QUERY_CHARS_MAX, Search, quoted, read_search
from bpa.domain.runs import RunStatus
from bpa.errors import InvalidRequest

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
RUN = "019add4b-6c32-8d0c-8d3f-3c9c7e1f6a55"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def read(query: str) -> Search:
    return read_search(query, NOW)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", Search()),
        ("  \t\n ", Search()),
        ("status:completed", Search(statuses=(RunStatus.COMPLETED,))),
        ("STATUS:Completed", Search(statuses=(RunStatus.COMPLETED,))),
        (
            "status:running,queued,running",
            Search(statuses=(RunStatus.QUEUED, RunStatus.RUNNING)),
        ),
        (
            "status:active",
            Search(statuses=(RunStatus.OFFERED, RunStatus.QUEUED, RunStatus.RUNNING)),
        ),
        ("agent:a deployment:b", Search(agent="a", deployment="b")),
        ('node:"a b" queue:"x:y"', Search(node="a b", queue="x:y")),
        (r'queue:"a\"b\\c"', Search(queue=r"a\"b\c".replace('\\"', '"'))),
        ("error:AgentError", Search(reason="AgentError")),
        ("attempt:>1", Search(attempts_from=2)),
        ("attempt:>=1 attempt:<5", Search(attempts_from=1, attempts_to=4)),
        ("attempt:2", Search(attempts_from=2, attempts_to=2)),
        ("cost:>0.05 cost:<=1", Search(cost_over=Decimal("0.05"), cost_to=Decimal(1))),
        ("cost:=0.1", Search(cost_from=Decimal("0.1"), cost_to=Decimal("0.1"))),
        ("tokens:<=9", Search(tokens_to=9)),
        ("since:1h", Search(since=NOW - timedelta(hours=1))),
        ("until:2026-11-29", Search(until=datetime(2026, 11, 29, tzinfo=UTC))),
        ('since:"2026-11-29T08:00:00+02:00"', Search(since=datetime(2026, 11, 29, 6, tzinfo=UTC))),
        (f"trace:{TRACE.upper()}", Search(trace=TRACE)),
        ("replay:yes", Search(is_replay=True)),
        (f"replay:{RUN.upper()}", Search(replay_of=RUN)),
        ("acme  gmbh", Search(words="acme gmbh")),
        ('acme status:queued "a: b"', Search(statuses=(RunStatus.QUEUED,), words="acme a: b")),
        (RUN, Search(words=RUN, word_id=RUN)),
        ("INV-2026/001 Müller", Search(words="INV-2026/001 Müller")),
    ],
)
def test_a_query_is_read(query: str, found: Search):
    assert read(query) == found


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("colour:red", "no qualifier 'colour'; there are status, agent, deployment, node"),
        ("http://x", "no qualifier 'http'"),
        ("status:bored", "'bored' is none of active, queued"),
        ("status:", "'' is none of"),
        ("agent:", "agent: a value is needed"),
        ("agent:a agent:b", "agent: agent is said twice"),
        ("attempt:many", "'many' is no number"),
        ("attempt:1.5", "no whole number"),
        ("attempt:>-1", "no number"),
        ("attempt:99999999999", "no whole number"),
        ("tokens:>999999999999999999999999", "no number"),
        ("cost:NaN", "no number"),
        ("cost:>", "no number"),
        ("since:yesterday", "'yesterday' is no time; write 1h"),
        ("since:999999w", "no time"),
        ("until:0001-01-01T00:00:00+14:00", "no time"),
        ("trace:xyz", "no trace id"),
        ("replay:maybe", "neither yes nor no"),
        ("---", "neither letter nor digit"),
        ('"unclosed', "cannot be read"),
        ('"a"b', "cannot be read"),
        ('agent:"a"b', "cannot be read"),
        ("1:2", "cannot be read"),
        ("x" * (QUERY_CHARS_MAX + 1), "1000 at most"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(query: str, told: str):
    with pytest.raises(InvalidRequest, match=re.escape(told)):
        read(query)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str):
    with suppress(InvalidRequest):
        read(text)


@given(
    st.dictionaries(
        st.sampled_from(("agent", "deployment", "node", "queue", "reason")),
        st.text(min_size=1, max_size=40),
        min_size=1,
    ),
    st.sampled_from((" ", "\t", "  \n")),
)
def test_a_quoted_value_comes_back_as_it_is(values: dict[str, str], blank: str):
    query = blank.join(f"{name}:{quoted(value)}" for name, value in values.items())
    assert read(query) == Search(**values)


@given(st.lists(st.sampled_from((*QUALIFIERS, '"', ":", "\\", " ", ">", "1", "a", "é", "h", "-"))))
def test_pieces_of_queries_in_any_order_are_read_or_refused(pieces: list[str]):
    with suppress(InvalidRequest):
        read("".join(pieces))


def test_what_stands_beside_the_query_may_not_say_it_again():
    search = read("agent:a").narrowed(status=RunStatus.QUEUED, deployment="d")
    assert search == Search(agent="a", statuses=(RunStatus.QUEUED,), deployment="d")
    with pytest.raises(InvalidRequest, match="deployment is said twice, in q and beside it"):
        read("deployment:d").narrowed(status=None, deployment="d")

"""What somebody looks for among the runs: ``status:dead_lettered agent:x cost:>0.05 acme``. Pure.

A query is words and qualifiers, joined by AND; whatever holds blanks or a colon stands in double
quotes, in which a backslash stands before a quote and before a backslash. Words are looked for in
the message's id, the invoice's id and its vendor. A number may have ``>``, ``>=``, ``<`` or ``<=``
before it; a time is an ISO date, with or without the time of day, or how long ago it is (``15m 1h
7d 2w``).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from bpa.domain.quantities import moment
from bpa.domain.runs import TERMINAL, RunId, RunStatus
from bpa.errors import InvalidRequest

QUERY_CHARS_MAX = 1_000
_ACTIVE = "active"
_ALIVE = tuple(status for status in RunStatus if status not in TERMINAL)
_TERM = re.compile(
    r'(?P<name>[A-Za-z_]+):(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]*)(?=\s|$)'
    r'|"(?P<quoted>(?:[^"\\]|\\.)*)"(?=\s|$)'
    r'|(?P<word>[^\s":]+)(?=\s|$)',
    re.DOTALL,
)
_NUMBER = re.compile(r"(?P<sign>>=|<=|>|<|=)?(?P<number>[0-9]{1,18}(?:\.[0-9]{1,12})?)")
_SEPARATORS = re.compile(r"[\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\xa0]+")
_INT64_MAX = 2**63 - 1
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which runs are looked for: those to which everything applies that is not None."""

    statuses: tuple[RunStatus, ...] | None = None
    """Any of these."""
    agent: str | None = None
    deployment: str | None = None
    node: str | None = None
    """That has the run, or had it last."""
    queue: str | None = None
    reason: str | None = None
    """Of the dead letter."""
    attempts_from: int | None = None
    attempts_to: int | None = None
    cost_over: Decimal | None = None
    cost_from: Decimal | None = None
    cost_under: Decimal | None = None
    cost_to: Decimal | None = None
    tokens_from: int | None = None
    tokens_to: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Before this time."""
    trace: str | None = None
    is_replay: bool | None = None
    replay_of: RunId | None = None
    """A run that it is a replay of, the first of a chain too."""
    words: str | None = None
    """All of these, the last of them also as the beginning of a longer one."""
    word_id: RunId | None = None
    """The run whose id the words are: it is looked for as well."""

    def narrowed(self, *, status: RunStatus | None, deployment: str | None) -> Search:
        """Return the search with a status and a deployment, unless they are None.

        Raises:
            InvalidRequest: The query says one of them, too.
        """
        more: dict[str, Any] = {}
        if status is not None:
            more["statuses"] = (status,)
        if deployment is not None:
            more["deployment"] = deployment
        if twice := more.keys() & self.conditions().keys():
            raise _wrong(f"{sorted(twice)[0]} is said twice, in q and beside it; once is enough")
        return replace(self, **more)

    def conditions(self) -> dict[str, Any]:
        """Return what applies, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def read_search(query: str, now: datetime) -> Search:
    """Read a query.

    Raises:
        InvalidRequest: It is none; the message names what is wrong and what there is.
    """
    if len(query) > QUERY_CHARS_MAX:
        raise InvalidRequest(f"q: {len(query)} characters; {QUERY_CHARS_MAX} at most")
    found: dict[str, Any] = {}
    words: list[str] = []
    for name, value in _terms(query):
        if name is None:
            words.append(value)
            continue
        read = _QUALIFIERS.get(name.lower())
        if read is None:
            raise _wrong(
                f"there is no qualifier {name[:40]!r}; there are {', '.join(_QUALIFIERS)}; text "
                "with a colon stands in double quotes"
            )
        try:
            more = read(value, now)
        except ValueError as error:
            raise _wrong(f"{name.lower()}: {error}") from None
        if twice := found.keys() & more.keys():
            raise _wrong(f"{name.lower()}: {sorted(twice)[0]} is said twice; once is enough")
        found |= more
    return Search(**found, **_of_words(words))


def quoted(value: str) -> str:
    """Return a value as it stands in a query."""
    if value and not re.search(r'[\s":\\]', value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _terms(query: str) -> Iterator[tuple[str | None, str]]:
    at, end = 0, len(query)
    while True:
        while at < end and query[at].isspace():
            at += 1
        if at == end:
            return
        match = _TERM.match(query, at)
        if match is None:
            piece = query[at : at + 40]
            raise _wrong(f"{piece!r} cannot be read; text with a colon or a quote in it is quoted")
        at = match.end()
        if match["name"] is not None:
            yield match["name"], _unquoted(match["value"])
        else:
            yield None, match["word"] or _plain(match["quoted"] or "")


def _unquoted(value: str) -> str:
    return _plain(value[1:-1]) if value.startswith('"') else value


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _of_words(words: list[str]) -> dict[str, Any]:
    if not words:
        return {}
    for word in words:
        if not _SEPARATORS.sub("", word):
            raise _wrong(f"{word[:40]!r} holds neither letter nor digit to look for")
    said = " ".join(words)
    return {"words": said, "word_id": _uuid_or_none(said)}


def _uuid_or_none(text: str) -> RunId | None:
    try:
        return RunId(str(uuid.UUID(text)))
    except ValueError:
        return None


def _status(value: str, _: datetime) -> dict[str, Any]:
    chosen: dict[RunStatus, None] = {}
    for name in value.lower().split(","):
        if name == _ACTIVE:
            chosen |= dict.fromkeys(_ALIVE)
        elif name in set(RunStatus):
            chosen[RunStatus(name)] = None
        else:
            known = ", ".join([_ACTIVE, *RunStatus])
            raise ValueError(f"{name[:40]!r} is none of {known}; several are joined with commas")
    return {"statuses": tuple(sorted(chosen))}


def _text(field: str) -> Callable[[str, datetime], dict[str, Any]]:
    def read(value: str, _: datetime) -> dict[str, Any]:
        if not value:
            raise ValueError("a value is needed, as in agent:invoice-classifier")
        return {field: value}

    return read


def _whole(field: str, most: int) -> Callable[[str, datetime], dict[str, Any]]:
    def read(value: str, _: datetime) -> dict[str, Any]:
        sign, number = _signed(value)
        if number != number.to_integral_value() or number >= most:
            raise ValueError(f"{value!r} is no whole number up to {most - 1}")
        whole = int(number)
        start, end = f"{field}_from", f"{field}_to"
        match sign:
            case ">":
                return {start: whole + 1}
            case ">=":
                return {start: whole}
            case "<":
                return {end: whole - 1}
            case "<=":
                return {end: whole}
        return {start: whole, end: whole}

    return read


def _cost(value: str, _: datetime) -> dict[str, Any]:
    sign, number = _signed(value)
    if not sign or sign == "=":
        return {"cost_from": number, "cost_to": number}
    names = {">": "cost_over", ">=": "cost_from", "<": "cost_under", "<=": "cost_to"}
    return {names[sign]: number}


def _signed(value: str) -> tuple[str, Decimal]:
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise ValueError(f"{value[:40]!r} is no number; write it as in >1, <=0.05 or 3")
    try:
        return match["sign"] or "", Decimal(match["number"])
    except InvalidOperation as error:
        raise ValueError(f"{value[:40]!r} is no number") from error


def _time(field: str) -> Callable[[str, datetime], dict[str, Any]]:
    def read(value: str, now: datetime) -> dict[str, Any]:
        try:
            return {field: moment(value, now)}
        except InvalidRequest as error:
            raise ValueError(str(error)) from None

    return read


def _trace(value: str, _: datetime) -> dict[str, Any]:
    if not re.fullmatch(r"[0-9a-fA-F]{32}", value):
        raise ValueError(f"{value[:40]!r} is no trace id: 32 hexadecimal digits")
    return {"trace": value.lower()}


def _replay(value: str, _: datetime) -> dict[str, Any]:
    if value.lower() in ("yes", "no"):
        return {"is_replay": value.lower() == "yes"}
    run_id = _uuid_or_none(value)
    if run_id is None:
        raise ValueError(f"{value[:40]!r} is neither yes nor no nor the id of a run")
    return {"replay_of": run_id}


_QUALIFIERS: Mapping[str, Callable[[str, datetime], dict[str, Any]]] = {
    "status": _status,
    "agent": _text("agent"),
    "deployment": _text("deployment"),
    "node": _text("node"),
    "queue": _text("queue"),
    "reason": _text("reason"),
    "error": _text("reason"),
    "attempt": _whole("attempts", _INT32_MAX),
    "cost": _cost,
    "tokens": _whole("tokens", _INT64_MAX),
    "since": _time("since"),
    "until": _time("until"),
    "trace": _trace,
    "replay": _replay,
}
QUALIFIERS = tuple(_QUALIFIERS)


def _wrong(what: str) -> InvalidRequest:
    return InvalidRequest(f"q: {what}", [f"q: {what}"])

"""What is wrong with a deployment's spec, field by field. Pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from bpa.connectors.breaker import host_of
from bpa.control.message_properties import SECRET_NAMES
from bpa.control.names import check_names
from bpa.control.spec_changes import Problem
from bpa.documents.schema_checks import SchemaCheck
from bpa.domain.quantities import cpu_millis, memory_bytes
from bpa.domain.specs import EFFECTS_MAX, DeploymentSpec
from bpa.errors import InvalidRequest

_INT32_MAX = 2**31 - 1
_RUNS_MAX = 1_000_000
_DURATION_MAX_S = 7 * 86_400
_TIMEOUT_MAX_S = 600
_QUEUE_CHARACTERS_MAX = 260
_PROBLEMS_MOST = 50
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_OF_KIND = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_SECRET = re.compile(rf"{SECRET_NAMES.pattern}|^code$", re.IGNORECASE)
"""Names in a query that lead to a secret; ``code`` is that of Azure Functions."""
_NEEDED = frozenset({"agentId", "version", "environment"})
_NAMED = re.compile(r"Object (?:contains unknown|missing required) field `(?P<name>.*)`")


def read_spec(tree: Any) -> tuple[DeploymentSpec | None, list[Problem]]:
    """Return a spec from plain values, or all that is wrong with it.

    The decoder stops at the first value that it cannot take. So that value is noted, left out, and
    the rest is read again.
    """
    left, problems = copy.deepcopy(tree), list[Problem]()
    while len(problems) < _PROBLEMS_MOST:
        try:
            spec = msgspec.convert(left, DeploymentSpec)
        except msgspec.ValidationError as error:
            problem = _located(str(error))
            problems.append(problem)
            if not _mended(left, problem.field):
                return None, problems
        else:
            known = {problem.field for problem in problems}
            problems += [one for one in problems_of(spec) if one.field not in known]
            return (None if problems else spec), problems
    return None, problems


def check(spec: DeploymentSpec) -> None:
    """Refuse a spec that makes no sense.

    Raises:
        InvalidRequest: With a line for each field that will not do.
    """
    refuse([*problems_of(spec)])


def refuse(problems: list[Problem]) -> None:
    """Raise what is wrong, if anything is.

    Raises:
        InvalidRequest: With a line for each problem.
    """
    if problems:
        lines = [str(one) for one in problems]
        raise InvalidRequest("the deployment is not valid: " + "; ".join(lines), lines)


def problems_of(spec: DeploymentSpec) -> Iterator[Problem]:
    """Yield what is wrong with a spec whose values are of the right kinds."""
    yield from _unnamed(spec)
    yield from _unreadable(spec)
    yield from _out_of_range(spec)
    yield from _unaddressable(spec.http_out.base_url)
    if not spec.routes:
        yield Problem("routes", "at least one is needed, the agent has to choose one")
    if not 1 <= len(spec.queue) <= _QUEUE_CHARACTERS_MAX:
        yield Problem("queue", f"a name has 1 to {_QUEUE_CHARACTERS_MAX} characters")


def _located(text: str) -> Problem:
    found = _WHERE.match(text)
    what, path = (found["what"], found["path"] or "") if found else (text, "")
    path = path.split("[", 1)[0]
    named = _NAMED.match(what)
    if named is None:
        kinds = _OF_KIND.fullmatch(what)
        return Problem(path, _said(kinds[1], kinds[2]) if kinds else what)
    field = f"{path}.{named['name']}" if path else named["name"]
    return Problem(field, "is needed" if "missing" in what else "is no field of a deployment")


def _said(wanted: str, got: str) -> str:
    needed = " or ".join(_KINDS.get(kind, kind) for kind in wanted.split(" | "))
    return f"{needed} is needed here, not {_KINDS.get(got, got)}"


def _mended(tree: Any, field: str) -> bool:
    """Leave a field out; give one that is needed a name, so that the others can be read."""
    *outer, last = field.split(".")
    for key in outer:
        tree = tree.get(key) if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or not last:
        return False
    was_there = tree.pop(last, msgspec.UNSET) is not msgspec.UNSET
    is_needed = not outer and last in _NEEDED
    if is_needed:
        tree[last] = "unset"
    return was_there or is_needed


def _unnamed(spec: DeploymentSpec) -> Iterator[Problem]:
    names = {
        "agentId": spec.agent_id,
        "version": spec.version,
        "environment": spec.environment,
    }
    for field, name in names.items():
        try:
            check_names(**{field: name})
        except InvalidRequest as error:
            yield Problem(field, str(error).removeprefix(f"{field}: "))


def _unreadable(spec: DeploymentSpec) -> Iterator[Problem]:
    schema = spec.input_schema
    quantities: tuple[tuple[str, Callable[[], float], float], ...] = (
        ("target.resources.cpu", lambda: cpu_millis(spec.target.resources.cpu), _INT32_MAX),
        ("target.resources.memory", lambda: memory_bytes(spec.target.resources.memory), 2**63 - 1),
        ("budgets.maxDuration", lambda: spec.budgets.max_duration_s, _DURATION_MAX_S),
        ("inputSchema", lambda: schema is not None and bool(SchemaCheck(schema)), 1),
    )
    for field, read, most in quantities:
        try:
            if read() > most:
                yield Problem(field, "this is more than the platform can count")
        except (InvalidRequest, ValueError, OverflowError, RecursionError) as error:
            yield Problem(field, str(error))


def _unaddressable(base_url: str) -> Iterator[Problem]:
    """Say what is wrong with a target's address, without repeating it: it may hold a secret."""
    if not base_url:
        return
    scheme, _, rest = base_url.partition("://")
    if scheme not in ("http", "https") or not host_of(base_url):
        yield Problem("httpOut.baseUrl", "write the full address, as https://host/path")
    elif "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        yield Problem(
            "httpOut.baseUrl",
            "an address that names a user or password is not stored; leave that part out",
        )
    elif any(_SECRET.search(name) for name, _ in parse_qsl(urlsplit(base_url).query)):
        yield Problem(
            "httpOut.baseUrl",
            "an address whose query holds a key is not stored, everybody would see it; make it "
            "http_out.base_url of the nodes' settings, and leave it out here",
        )


def _out_of_range(spec: DeploymentSpec) -> Iterator[Problem]:
    for field, number, least, most in (
        ("target.slotBudget", spec.target.slot_budget, 1, _RUNS_MAX),
        ("target.replicas", spec.target.replicas, 1, _RUNS_MAX),
        ("target.slotBudget x target.replicas", spec.run_limit, 1, _RUNS_MAX),
        ("budgets.maxTokens", spec.budgets.max_tokens, 1, _INT32_MAX),
        ("budgets.maxCalls", spec.budgets.max_calls, 1, _INT32_MAX),
        ("budgets.maxUsd", spec.budgets.max_usd or 0, 0, _INT32_MAX),
        ("maxEffects", spec.max_effects, 1, EFFECTS_MAX),
        ("httpOut.timeoutS", spec.http_out.timeout_s, 0.001, _TIMEOUT_MAX_S),
    ):
        if not least <= number <= most:
            yield Problem(field, f"{number} is not within {least} and {most}")

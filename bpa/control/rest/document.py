"""The OpenAPI document as people and generated clients need it, made of what Litestar says.

What follows from an operation's form is said here once, for every operation: which problems it can
answer with, which headers come back, what the parameters are that many share. A handler says only
what is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from bpa.control.rest.problems import MEDIA_TYPE
from bpa.control.rest.verbs import documented, resource_of

_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_TEXT = {"type": "string"}
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

TAGS = {
    "agents": "Agents and their versions.",
    "breakers": "Targets that fail, and what waits for them.",
    "costs": "What model calls used and cost.",
    "dead letters": "Messages whose runs ended in a dead-letter queue, and their replay.",
    "deployments": "Agent versions at work on a queue.",
    "events": "Changes as server-sent events.",
    "health": "For orchestrators and Prometheus.",
    "leases": "For nodes where gRPC cannot go: what they pull, take and give back.",
    "nodes": "The fleet: registration, heartbeats, cordon and drain.",
    "queues": "What waits in the queues that are fed from.",
    "runs": "What became of messages: state, journal, cost; cancel and retry.",
}
"""What each tag is about; an operation with another one gets it without words."""

_PARAMETERS: dict[str, tuple[str, Any]] = {
    "agent_id": ("The agent's name.", "invoice-classifier"),
    "dead_letter_id": ("Queue and sequence number, with a colon between.", "invoices:42"),
    "deployment_id": ("Agent and environment, with a hyphen between.", "invoice-classifier-dev"),
    "node_id": ("The node's name.", "node-1"),
    "run_id": ("The run's UUID.", "019aa3f2-1c00-8a1b-9c2d-3e4f5a6b7c8d"),
    "version": ("The version's name.", "1.0.0"),
    "cursor": ("`nextCursor` of the page before, as it is; opaque.", None),
    "limit": ("How many, at most.", None),
    "environment": ("Only those of this environment.", "dev"),
    "deployment": ("Only what belongs to this deployment.", "invoice-classifier-dev"),
    "agent": ("Only what belongs to this agent.", "invoice-classifier"),
    "queue": ("Only those of this queue.", "invoices"),
    "reason": ("Only those dead-lettered for this reason.", "RetriesExhausted"),
    "status": ("Only runs in this state.", None),
    "since": ("From this time on.", "2026-01-31T00:00:00Z"),
    "until": ("Before this time.", "2026-02-01T00:00:00Z"),
    "by": ("What each line is the sum of.", None),
    "model": ("Only calls of this model.", "claude-haiku-4-5"),
    "count": ("Whether to say how many there are in all.", None),
    "topic": ("Only changes of these kinds; given once for each.", None),
}
"""What parameters are that say nothing themselves, and an example of each."""

_HEADERS = {
    "ETag": "Names this state: send it as `If-Match` with what you decide by it.",
    "Link": '`<path>; rel="next"` leads to the next page; absent on the last one.',
    "Location": "Where what was created is.",
    "Retry-After": "Seconds after which the same request may succeed.",
}

_ANSWERS = {
    400: "The request is not valid: `errors` names each field and what it must be.",
    404: "There is no such thing.",
    409: "The present state does not allow it; or the lease has moved on.",
    412: "It has changed since the ETag was read: look again.",
    413: "The body is too large.",
    415: "The body is not `application/json`.",
    428: "It has to be said which state the edit was made from: send `If-Match`.",
    500: "A fault of the server; its log says more.",
    503: "What is needed does not answer, or the replica is starting: try again.",
}


def described(said: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole document.

    Args:
        said: What Litestar says of the operations.
        components: The schemas of the structs, by name.
    """
    items = {documented(path): item for path, item in said["paths"].items()}
    tagged = {resource_of(path) for path, item in items.items() if _takes_if_match(item)}
    schemas = {**said["components"]["schemas"], **components}
    return {
        **said,
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": {
            path: {
                method: _operation(method, operation, has_tag=path in tagged)
                for method, operation in item.items()
            }
            for path, item in items.items()
        },
        "components": {"schemas": {name: _bounded(schema) for name, schema in schemas.items()}},
    }


def _takes_if_match(item: Mapping[str, Any]) -> bool:
    return any(
        parameter["name"] == "If-Match"
        for operation in item.values()
        for parameter in operation.get("parameters", ())
    )


def _operation(method: str, operation: dict[str, Any], *, has_tag: bool) -> dict[str, Any]:
    parameters = [_parameter(one) for one in operation.get("parameters", ())]
    names = {one["name"] for one in parameters}
    described = {**operation, "summary": _summary(operation["description"])}
    if parameters:
        described["parameters"] = parameters
    if "requestBody" in operation:
        described["requestBody"] = _body(operation["requestBody"])
    back = {"ETag": True} if "If-Match" in names or (has_tag and method == "get") else {}
    back |= {"Link": False} if "cursor" in names else {}
    described["responses"] = {
        **dict(_problems(method, operation, parameters)),
        **{
            code: _answer(answer, {**back, **({"Location": True} if code == "201" else {})})
            for code, answer in operation["responses"].items()
            if code != "400"  # Litestar's own form of it, which nobody gets
        },
    }
    return described


def _summary(description: str) -> str:
    """Return the first sentence."""
    return " ".join(description.split("\n\n", maxsplit=1)[0].split()).removesuffix(".")


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    """Say what is known of a parameter."""
    text, example = _PARAMETERS.get(parameter["name"], (None, None))
    schema = {name: value for name, value in parameter["schema"].items() if name != "description"}
    schema = _some(schema)
    if parameter["name"] == "run_id":
        schema["format"] = "uuid"
    return {
        **{name: parameter[name] for name in ("name", "in", "required")},
        **({"description": parameter.get("description") or text} if text else {}),
        **({"description": parameter["description"]} if parameter.get("description") else {}),
        **({"example": example} if example else {}),
        "schema": schema,
    }


def _body(body: dict[str, Any]) -> dict[str, Any]:
    """Say that a body which may be None may be left out, not that it may be null."""
    ((kind, content),) = body["content"].items()
    schema = _some(content["schema"])
    return {"content": {kind: {"schema": schema}}, "required": schema is content["schema"]}


def _some(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without null: that stands for what is left out, and is never sent."""
    if "oneOf" not in schema:
        return schema
    (some,) = (one for one in schema["oneOf"] if one != {"type": "null"})
    return {**some, **{name: value for name, value in schema.items() if name != "oneOf"}}


def _answer(answer: dict[str, Any], headers: Mapping[str, bool]) -> dict[str, Any]:
    """Add headers to an answer; those that are true always come."""
    return {
        **answer,
        "headers": {
            **(answer.get("headers") or {}),
            **{name: _header(name, is_always) for name, is_always in headers.items()},
        },
    }


def _header(name: str, is_always: bool) -> dict[str, Any]:  # noqa: FBT001 - a value of the document
    return {"description": _HEADERS[name], "required": is_always, "schema": _TEXT}


def _problems(
    method: str, operation: Mapping[str, Any], parameters: list[dict[str, Any]]
) -> Iterator[tuple[str, Any]]:
    """Yield the problems that an operation of this form may be answered with."""
    names = {one["name"] for one in parameters}
    applies = {
        404: "requestBody" in operation or any(one["in"] == "path" for one in parameters),
        409: method != "get",
        412: "If-Match" in names,
        428: any("428" in one.get("description", "") for one in parameters),
        413: "requestBody" in operation,
        415: "requestBody" in operation,
    }
    for status, text in _ANSWERS.items():
        if applies.get(status, True):
            yield str(status), problem_answer(status, text)


def problem_answer(status: int, text: str = "") -> dict[str, Any]:
    """Describe an answer that is a problem."""
    headers = {"Retry-After": _header("Retry-After", False)} if status == 503 else {}
    return {
        "description": text or HTTPStatus(status).phrase,
        "headers": headers,
        "content": _PROBLEM,
    }


def _bounded(schema: Any) -> Any:
    """Say what msgspec leaves unsaid: integers have 64 bits, and how base64 is written."""
    if isinstance(schema, list):
        return [_bounded(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _bounded(value) for name, value in schema.items()}
    if inner.get("type") == "integer" and not {"minimum", "maximum"} <= inner.keys():
        return {**inner, "format": "int64"}
    if inner.get("contentEncoding") == "base64":
        return {**inner, "pattern": _BASE64}
    return inner

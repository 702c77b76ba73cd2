"""What Schemathesis loads into its process: two checks of ours, and the rules no schema can state.

It runs outside of pytest, as the command that people would run.
"""

from typing import Any

import schemathesis

PROBLEM = "application/problem+json"
HEALTH = ("/readyz", "/startupz")  # their 503 says what is missing, to orchestrators

RULES = {
    "have no pages": "only some costs come in pages: a cursor depends on `by`",
    "this cursor is none of ours": "a cursor is opaque: only what was handed out is one",
    "q: ": "the language of searches is read by a parser, not by a pattern",
    "make them agree": "the body repeats a name of the path",
    "is reported with :": "`:complete` and `:fail` share one form of an outcome",
    "a completed run is reported with": "likewise",
    "is no dead-letter reason": "only a rejected outcome has to have a reason of the closed set",
    "names the target that it waits for": "only a parked outcome has to name a target",
    "give body as well": "a content type is that of the other body",
    "name one id": "another body replaces that of one dead letter",
    "give either": "an operation names what it is about in one of two ways",
    "another operation's": "a cursor is opaque, and leads on where it was handed out",
    " stays ": "the body of an edit repeats what its path names",
    "; search for ": "what can be done to runs depends on the state that is searched for",
    "slotBudget x target.replicas": "a product has a bound",
    "more than the platform can count": "a quantity is bounded by its unit",
    "httpOut.baseUrl": "an address is read by the client that calls it",
    "inputSchema": "whether it is a schema that can be checked fast, a validator says",
    "an integer beyond 64 bits": "in members that the schema leaves open, too",
    "nested too deep": "likewise",
    "this cannot be recorded": "counts of a report are bounded by the columns that take them",
}
"""Part of a refusal's detail, and why the schema cannot say it. Everything else it has to say."""


@schemathesis.check
def a_valid_request_is_refused_by_a_written_rule_only(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Hold 400 to the rules, where Schemathesis itself only knows yes or no."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if response.status_code == 400:
        detail = response.json()["detail"]
        assert any(rule in detail for rule in RULES), f"the schema does not say so: {detail}"


@schemathesis.check
def an_error_is_a_problem(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Hold every error to RFC 9457, those of methods that the document does not have as well."""
    if response.status_code < 400 or case.operation.path in HEALTH:
        return
    assert response.headers["content-type"] == [PROBLEM], response.headers
    assert response.json()["status"] == response.status_code


@schemathesis.hook
def before_call(
    _: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]
) -> None:
    """Wait a moment at most where a node waits for work: that long poll takes what it is told."""
    del kwargs
    if case.operation.path == "/v1/lease/pull" and isinstance(case.body, dict):
        wait_s = case.body.get("waitS", 20.0)
        case.body["waitS"] = min(wait_s, 0.01) if isinstance(wait_s, int | float) else wait_s

"""A JSON Schema that a deployment demands of its input.

What the schema is held against:

- a JSON body (also in a CloudEvent): the JSON exactly as it was sent, whatever its dialect;
- UBL and CII: the fields that code read, as an object with the keys of ``Fields``;
- prose and other XML: nothing at intake; the same object once the fields are known, that is after
  the model's answer (``check_fields``).

A schema over ``invoice_id, vendor, currency, total, issued_on, kind`` therefore means the same for
every dialect; one that asks for more binds JSON senders only if it also lets those objects pass.

Patterns meet text that strangers wrote, and a backtracking search may take years over thirty
characters. All searches of one document share a budget of CPU time; Python's own ``re`` has none,
and holds the interpreter while it searches, so that neither a thread nor a timer would help.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend

from bpa.documents.decoding import decode, parsed_json
from bpa.documents.values import Document, Fields, violated
from bpa.errors import InvalidRequest

_POINTER_MAX_CHARS = 120
_DEMANDED_MAX_CHARS = 200
SEARCH_S = 0.2
"""CPU seconds for all pattern searches over one document."""


def _is_integer(_checker: object, value: object) -> bool:
    """JSON Schema counts 2.0 as an integer; our numbers with a point are Decimals."""
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


class _Patterns:
    """The keywords that search for patterns, with one budget of time for a whole document."""

    def __init__(self) -> None:
        self._left_s = 0.0

    def begin(self) -> None:
        """Grant the budget of another document."""
        self._left_s = SEARCH_S

    def keywords(self) -> dict[str, Any]:
        """Return what takes the place of the library's own, which search without a limit."""
        return {
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional_properties,
        }

    def _found(self, pattern: str, text: str) -> bool:
        since_s = time.process_time()
        try:
            if self._left_s <= 0:
                raise TimeoutError
            return regex.search(pattern, text, timeout=self._left_s) is not None
        except TimeoutError:
            raise violated(
                f"searching it for the patterns of the demanded schema takes over {SEARCH_S:g} s; "
                "write patterns that need no backtracking"
            ) from None
        finally:
            self._left_s -= time.process_time() - since_s

    def _pattern(
        self, validator: Any, pattern: str, value: object, _: Any
    ) -> Iterator[ValidationError]:
        if validator.is_type(value, "string") and not self._found(pattern, str(value)):
            yield ValidationError("the pattern is not there")

    def _pattern_properties(
        self, validator: Any, patterns: Mapping[str, Any], value: Any, _: Any
    ) -> Iterator[ValidationError]:
        if not validator.is_type(value, "object"):
            return
        for pattern, schema in patterns.items():
            for name, inner in value.items():
                if self._found(pattern, name):
                    yield from validator.descend(inner, schema, path=name, schema_path=pattern)

    def _additional_properties(
        self, validator: Any, additional: Any, value: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        if not validator.is_type(value, "object"):
            return
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        extras = [
            n for n in value if n not in known and not any(self._found(p, n) for p in patterns)
        ]
        if validator.is_type(additional, "object"):
            for name in extras:
                yield from validator.descend(value[name], additional, path=name)
        elif extras and not additional:
            yield ValidationError("there are other properties")


class SchemaCheck:
    """A compiled schema (draft 2020-12); make it once per deployment version and keep it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Compile ``schema``.

        Raises:
            InvalidRequest: It is not a JSON Schema, refers to another document, or has a pattern
                that cannot be searched for within a limit of time.
        """
        try:
            _Validator.check_schema(schema)
        except SchemaError as error:
            where = _pointer(error.absolute_path)
            raise InvalidRequest(f"not a JSON Schema at {where}: {error.message}") from error
        if _refers_outside(schema):
            raise InvalidRequest("the schema refers to another document; put it under $defs")
        _check_patterns(schema)
        self._patterns = _Patterns()
        kind = extend(_Validator, self._patterns.keywords())  # type: ignore[no-untyped-call]
        self._validator = kind(_exact(schema))

    def check(self, document: Document, body: bytes, content_type: str | None) -> None:
        """Hold a decoded message against the schema at intake.

        Raises:
            RunEnded: ``SchemaValidationFailed`` with the place and the rule, never a value of it.
        """
        value = parsed_json(body, content_type)
        if value is not None:
            self._demand(value)
        elif document.fields is not None:
            self.check_fields(document.fields)

    def check_fields(self, fields: Fields) -> None:
        """Hold fields that became known later, from prose, against the schema.

        Raises:
            RunEnded: ``SchemaValidationFailed`` with the place and the rule, never a value of it.
        """
        self._demand(asdict(fields))

    def _demand(self, value: object) -> None:
        self._patterns.begin()
        failure: ValidationError | None = next(self._validator.iter_errors(value), None)
        if failure is not None:
            where = _pointer(failure.absolute_path)
            rule = f"the rule {failure.validator!r} of the demanded schema"
            raise violated(f"{where} breaks {rule}{_demanded(failure)}")


def check_schema(body: bytes, content_type: str | None, schema: Mapping[str, Any]) -> None:
    """Decode ``body`` and hold it against ``schema`` once; ``SchemaCheck`` is for repeated use.

    Raises:
        RunEnded: ``DeserializationError`` or ``PayloadTooLarge`` from decoding, else
            ``SchemaValidationFailed``.
        InvalidRequest: ``schema`` is not one.
    """
    SchemaCheck(schema).check(decode(body, content_type), body, content_type)


def _pointer(path: Any) -> str:
    """Return a JSON pointer (RFC 6901) cut to a line's length; ``the document`` for the root."""
    parts = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
    return "".join(filter(str.isprintable, parts))[:_POINTER_MAX_CHARS] or "the document"


def _demanded(failure: ValidationError) -> str:
    """Return what the schema asks for there, in its own words: the document has no say in them."""
    demanded: Any = failure.validator_value
    there: Any = failure.instance
    if failure.validator == "required":
        return _listed(": it lacks ", [name for name in demanded if name not in there])
    return _listed(": allowed is ", demanded) if failure.validator == "enum" else ""


def _listed(words: str, values: Iterable[object]) -> str:
    """Return values of a schema as JSON would write them, cut to a line's length."""
    text = ", ".join(json.dumps(value, ensure_ascii=False, default=float) for value in values)
    text = "".join(filter(str.isprintable, text))
    is_long = len(text) > _DEMANDED_MAX_CHARS
    return f"{words}{text[: _DEMANDED_MAX_CHARS - 1]}…" if is_long else f"{words}{text}"


def _exact(node: Any) -> Any:
    """Return the schema with its floats as Decimals, so that ``multipleOf: 0.01`` is exact."""
    if isinstance(node, float):
        return Decimal(repr(node))
    if isinstance(node, Mapping):
        return {key: _exact(value) for key, value in node.items()}
    return [_exact(item) for item in node] if isinstance(node, (list, tuple)) else node


def _refers_outside(node: Any) -> bool:
    if isinstance(node, Mapping):
        references = (node.get("$ref"), node.get("$dynamicRef"))
        if any(isinstance(at, str) and not at.startswith("#") for at in references):
            return True
        return any(_refers_outside(value) for value in node.values())
    return isinstance(node, list) and any(_refers_outside(item) for item in node)


def _check_patterns(schema: Mapping[str, Any]) -> None:
    """Refuse what would be searched for by the library itself, or cannot be at all."""
    nodes = [*_objects(schema)]
    if any(isinstance(node.get("$schema"), str) for node in nodes[1:]):
        raise InvalidRequest("$schema stands at the root of a schema and nowhere else")
    properties = [node["patternProperties"] for node in nodes if "patternProperties" in node]
    if properties and any("unevaluatedProperties" in node for node in nodes):
        raise InvalidRequest(
            "patternProperties and unevaluatedProperties do not go together here; "
            "write additionalProperties"
        )
    patterns = [node["pattern"] for node in nodes if isinstance(node.get("pattern"), str)]
    patterns += [name for one in properties if isinstance(one, Mapping) for name in one]
    for pattern in patterns:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise InvalidRequest(f"not a pattern: {pattern!r}: {error}") from error


def _objects(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from _objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from _objects(value)

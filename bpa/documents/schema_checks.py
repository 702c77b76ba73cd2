"""A JSON Schema that a deployment demands of its input.

What the schema is held against:

- a JSON body (also in a CloudEvent): the JSON exactly as it was sent, whatever its dialect;
- UBL and CII: the fields that code read, as an object with the keys of ``Fields``;
- prose and other XML: nothing at intake; the same object once the fields are known, that is after
  the model's answer (``check_fields``).

A schema over ``invoice_id, vendor, currency, total, issued_on, kind`` therefore means the same for
every dialect; one that asks for more binds JSON senders only if it also lets those objects pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend

from bpa.documents.decoding import decode, parsed_json
from bpa.documents.values import Document, Fields, violated
from bpa.errors import InvalidRequest

_POINTER_MAX_CHARS = 120


def _is_integer(_checker: object, value: object) -> bool:
    """JSON Schema counts 2.0 as an integer; our numbers with a point are Decimals."""
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


class SchemaCheck:
    """A compiled schema (draft 2020-12); make it once per deployment version and keep it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Compile ``schema``.

        Raises:
            InvalidRequest: It is not a JSON Schema, or refers to another document.
        """
        try:
            _Validator.check_schema(schema)
        except SchemaError as error:
            where = _pointer(error.absolute_path)
            raise InvalidRequest(f"not a JSON Schema at {where}: {error.message}") from error
        if _refers_outside(schema):
            raise InvalidRequest("the schema refers to another document; put it under $defs")
        self._validator = _Validator(_exact(schema))

    def check(self, document: Document, body: bytes, content_type: str | None) -> None:
        """Hold a decoded message against the schema at intake.

        Raises:
            RunEnded: ``SchemaValidationFailed`` with the place and the rule, never a value.
        """
        value = parsed_json(body, content_type)
        if value is not None:
            self._demand(value)
        elif document.fields is not None:
            self.check_fields(document.fields)

    def check_fields(self, fields: Fields) -> None:
        """Hold fields that became known later, from prose, against the schema.

        Raises:
            RunEnded: ``SchemaValidationFailed`` with the place and the rule, never a value.
        """
        self._demand(asdict(fields))

    def _demand(self, value: object) -> None:
        failure: ValidationError | None = next(self._validator.iter_errors(value), None)
        if failure is not None:
            where = _pointer(failure.absolute_path)
            raise violated(f"{where} breaks the rule {failure.validator!r} of the demanded schema")


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

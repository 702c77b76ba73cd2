"""What the model is asked about a document, and the strict check of what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bpa.documents.characters import one_line, visible
from bpa.documents.quotes import QUOTE_MAX_CHARS, quoted_fields
from bpa.documents.values import VENDOR_MAX_CHARS, Document, Fields, violated
from bpa.domain.conversation import Tool

POST_INVOICE = "post_invoice"
REASON_MAX_CHARS = 400

_DESCRIPTION = (
    "Post the invoice to its route. Call it once, when you know the vendor and the route."
)
_DESCRIPTION_OF_SEVERAL = (
    "Post the invoice to a route, when you know the vendor and the route. Call it once for each "
    "posting, {} times at most; once all is posted, say so in one sentence."
)

_QUOTES = ("invoice_id", "total", "currency", "issued_on")
_KINDS = ("invoice", "credit_note")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_QUOTE_DESCRIPTIONS = {
    "invoice_id": "The invoice's own number, copied exactly as it stands in the document.",
    "total": "The total amount with tax, copied exactly as it stands, with its minus sign if any.",
    "currency": "The currency's code or symbol, copied exactly as it stands in the document.",
    "issued_on": "The invoice date, copied exactly as it stands in the document.",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer after the check: the vendor resolved, the fields read by code."""

    vendor: str
    route: str
    confidence: float
    reason: str
    fields: Fields


def tool_of(document: Document, routes: Sequence[str], max_effects: int) -> Tool:
    """Return the one tool of an agent that works on ``document``."""
    several = _DESCRIPTION_OF_SEVERAL.format(max_effects)
    description = _DESCRIPTION if max_effects == 1 else several
    return Tool(POST_INVOICE, description, tool_parameters(document, routes))


def tool_parameters(document: Document, routes: Sequence[str]) -> dict[str, object]:
    """Return the closed JSON Schema of the tool's arguments for ``document``.

    Vendor, route, confidence and reason; where code could not read the document, also verbatim
    quotes of its number, total, currency and date, and its kind.
    """
    properties: dict[str, object] = {
        "vendor": {
            "type": "string",
            "minLength": 1,
            "maxLength": VENDOR_MAX_CHARS,
            "description": "The seller's name as the document writes it.",
        },
        "route": {
            "type": "string",
            "enum": list(routes),
            "description": "The one route that fits what was bought.",
        },
        "confidence": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "How sure you are of the route, from 0 to 1.",
        },
        "reason": {
            "type": "string",
            "maxLength": REASON_MAX_CHARS,
            "description": "One sentence: what in the document decided it.",
        },
    }
    if document.fields is None:
        for name in _QUOTES:
            properties[name] = {
                "type": "string",
                "minLength": 1,
                "maxLength": QUOTE_MAX_CHARS,
                "description": _QUOTE_DESCRIPTIONS[name],
            }
        properties["kind"] = {
            "type": "string",
            "enum": list(_KINDS),
            "description": "credit_note if the document credits money back, else invoice.",
        }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def check_answer(arguments: object, document: Document, routes: Sequence[str]) -> Answer:
    """Check a tool call's arguments and resolve the fields that will be posted.

    The vendor is the document's seller where code read one, otherwise the model's answer.

    Raises:
        RunEnded: ``SchemaValidationFailed`` naming the argument, never its value.
    """
    given = _closed(arguments, document)
    vendor = one_line(_string(given, "vendor", VENDOR_MAX_CHARS))
    route = _string(given, "route", max(map(len, routes), default=0))
    reason = visible(_string(given, "reason", REASON_MAX_CHARS))
    if not vendor:
        raise violated("vendor: must not be empty")
    if route not in routes:
        raise violated("route: is not one of the deployment's routes")
    if document.fields is None:
        quotes = {name: _string(given, name, QUOTE_MAX_CHARS) for name in (*_QUOTES, "kind")}
        fields = quoted_fields(document, quotes)
    else:
        fields = document.fields
    return Answer(
        vendor=fields.vendor or vendor,
        route=route,
        confidence=_confidence(given["confidence"]),
        reason=reason,
        fields=fields,
    )


def _closed(arguments: object, document: Document) -> Mapping[str, object]:
    """Return the arguments as a mapping with exactly the keys that were asked for."""
    if not isinstance(arguments, dict):
        raise violated("the arguments are not an object")
    expected = {"vendor", "route", "confidence", "reason"}
    if document.fields is None:
        expected |= {*_QUOTES, "kind"}
    if missing := sorted(expected - arguments.keys()):
        raise violated(f"missing: {', '.join(missing)}")
    if len(arguments) > len(expected):
        raise violated("there are arguments that were not asked for")
    return arguments


def _string(given: Mapping[str, object], name: str, max_chars: int) -> str:
    value = given[name]
    if not isinstance(value, str):
        raise violated(f"{name}: must be a string")
    if len(value) > max_chars:
        raise violated(f"{name}: at most {max_chars} characters")
    if _CONTROL.search(value):
        raise violated(f"{name}: holds control characters")
    return value


def _confidence(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise violated("confidence: must be a number")
    if not 0 <= value <= 1:
        raise violated("confidence: must lie between 0 and 1")
    return float(value)

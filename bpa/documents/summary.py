"""A structured document reduced to what a person would look at.

Every dialect is reduced to the same compact JSON object, so that a model meets one shape:
``kind, invoice_id, issued_on, due_on, vendor, buyer, currency, subtotal, tax, total, note, lines``
(each ``description, quantity, amount``) and ``lines_left_out``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from bpa.documents.characters import one_line
from bpa.documents.values import Fields

# A run of the demonstration may spend 4,000 tokens over two model calls that both carry the
# document; at the ~4 characters a token of plain text this leaves half of it for all the rest.
MAX_CHARS = 3_600
MAX_LINES = 20
_VALUE_MAX_CHARS = 120
_NOTE_MAX_CHARS = 240


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the invoice, its numbers as the document writes them."""

    description: str
    quantity: str | None = None
    amount: str | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """What is shown beside the fields."""

    buyer: str | None = None
    due_on: str | None = None
    subtotal: str | None = None
    tax: str | None = None
    note: str | None = None
    lines: tuple[Line, ...] = ()


def summarise(fields: Fields, details: Details) -> str:
    """Return fields and details as compact JSON of at most ``MAX_CHARS`` characters.

    Lines beyond ``MAX_LINES``, or beyond the size, are left out and counted.
    """
    head = {
        "kind": fields.kind,
        "invoice_id": fields.invoice_id,
        "issued_on": fields.issued_on,
        "due_on": _cut(details.due_on),
        "vendor": fields.vendor,
        "buyer": _cut(details.buyer),
        "currency": fields.currency,
        "subtotal": _cut(details.subtotal),
        "tax": _cut(details.tax),
        "total": fields.total,
        "note": _cut(details.note, _NOTE_MAX_CHARS),
    }
    lines = [_line(line) for line in details.lines[:MAX_LINES]]
    room = MAX_CHARS - len(_compact(head)) - len(',"lines":[],"lines_left_out":999999')
    shown = 0
    for line in lines:
        room -= len(_compact(line)) + 1
        if room < 0:
            break
        shown += 1
    left_out = len(details.lines) - shown
    return _compact({**head, "lines": lines[:shown], "lines_left_out": left_out or None})


def _line(line: Line) -> dict[str, object]:
    return {
        "description": _cut(line.description),
        "quantity": _cut(line.quantity),
        "amount": _cut(line.amount),
    }


def _cut(value: str | None, limit: int = _VALUE_MAX_CHARS) -> str | None:
    if value is None:
        return None
    text = one_line(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _compact(members: Mapping[str, object]) -> str:
    return msgspec.json.encode({k: v for k, v in members.items() if v is not None}).decode()

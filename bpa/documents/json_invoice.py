"""Our JSON invoice, described by ``config/schemas/invoice.schema.json``.

An object is one of ours when it has all of ``invoice_id``, ``currency``, ``total`` and
``issued_on``; a wrong type in it is then a malformed invoice. Any other object is another dialect,
which code does not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from bpa.documents.amounts import read_xsd_decimal
from bpa.documents.structured import checked_fields, read_iso_date
from bpa.documents.summary import Details, Line, summarise
from bpa.documents.values import Document, Kind, malformed

_REQUIRED = frozenset({"invoice_id", "currency", "total", "issued_on"})
_NAMES = {name: f"/{name}" for name in (*_REQUIRED, "vendor")}


def read(members: Mapping[str, object]) -> Document | None:
    """Read one of our invoices; None for another dialect.

    Raises:
        RunEnded: ``DeserializationError`` naming the member by its JSON pointer.
    """
    if not members.keys() >= _REQUIRED:
        return None
    fields = checked_fields(
        _NAMES,
        invoice_id=_text(members, "invoice_id"),
        vendor=_text(members, "vendor"),
        currency=_text(members, "currency"),
        total=read_xsd_decimal(_number(members, "total") or ""),
        issued_on=read_iso_date(_text(members, "issued_on") or ""),
        kind=_kind(members),
    )
    details = Details(
        buyer=_text(members, "buyer"),
        due_on=_text(members, "due_on"),
        subtotal=_number(members, "subtotal"),
        tax=_number(members, "tax"),
        note=_text(members, "note"),
        lines=_lines(members),
    )
    return Document("json", summarise(fields, details), fields)


def _kind(members: Mapping[str, object]) -> Kind:
    kind = members.get("kind", "invoice")
    if kind == "invoice":
        return "invoice"
    if kind == "credit_note":
        return "credit_note"
    raise malformed("/kind: must be invoice or credit_note")


def _lines(members: Mapping[str, object]) -> tuple[Line, ...]:
    lines = members.get("lines")
    if lines is None:
        return ()
    if not isinstance(lines, list):
        raise malformed("/lines: must be an array")
    return tuple(_line(line, f"/lines/{at}") for at, line in enumerate(lines))


def _line(line: object, where: str) -> Line:
    if not isinstance(line, dict):
        raise malformed(f"{where}: must be an object")
    return Line(
        _text(line, "description", where) or "",
        _number(line, "quantity", where),
        _number(line, "amount", where),
    )


def _text(members: Mapping[str, object], name: str, where: str = "") -> str | None:
    value = members.get(name)
    if value is None or isinstance(value, str):
        return value
    raise malformed(f"{where}/{name}: must be a string")


def _number(members: Mapping[str, object], name: str, where: str = "") -> str | None:
    """Return a decimal string; a JSON number counts as its literal, never as a float."""
    value = members.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise malformed(f"{where}/{name}: must be a decimal string or a number")

"""The body of a posted invoice, checked. Pure."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

import msgspec

from bpa.errors import InvalidRequest

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class Invoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One invoice or credit note as the platform posts it."""

    run_id: _Text
    invoice_id: _Text
    vendor: _Text
    route: _Text
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)]
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    """ISO 4217."""
    total: Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,18}(\.[0-9]{1,6})?$")]
    """A decimal string."""
    issued_on: str
    """ISO 8601 date."""
    kind: Literal["invoice", "credit_note"]


_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def check_invoice(body: bytes) -> Invoice:
    """Return the invoice in ``body``.

    Raises:
        InvalidRequest: A field is missing, unknown or wrong; the message names it.
    """
    try:
        invoice = msgspec.json.decode(body, type=Invoice)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error
    try:
        if not _ISO_DATE.fullmatch(invoice.issued_on):
            raise ValueError
        date.fromisoformat(invoice.issued_on)
    except ValueError as error:
        raise InvalidRequest("Expected an ISO 8601 date - at `$.issued_on`") from error
    return invoice


def is_json_object(body: bytes) -> bool:
    """Say whether ``body`` is a JSON object at all."""
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False

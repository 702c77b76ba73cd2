"""What reading an invoice yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bpa.errors import Reason, RunEnded

Kind = Literal["invoice", "credit_note"]
Dialect = Literal["json", "ubl", "cii", "text"]

INVOICE_ID_MAX_CHARS = 128
VENDOR_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class Fields:
    """The business fields that are posted, each as code read it.

    ``total`` is a plain decimal string with its sign and at least two decimals (``1234.50``), the
    amount with tax; ``issued_on`` an ISO date; ``currency`` an ISO 4217 code. ``vendor`` is None
    where code could not read the seller.
    """

    invoice_id: str
    vendor: str | None
    currency: str
    total: str
    issued_on: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Document:
    """A message body after decoding.

    ``text`` is all that a model may see of it; ``fields`` is None for prose and for dialects that
    code does not read.
    """

    dialect: Dialect
    text: str
    fields: Fields | None


def malformed(detail: str) -> RunEnded:
    """Make the refusal of a body that does not parse as what it says it is."""
    return RunEnded(Reason.DESERIALIZATION_ERROR, detail)


def violated(detail: str) -> RunEnded:
    """Make the refusal of a value that parses but is not what was demanded."""
    return RunEnded(Reason.SCHEMA_VALIDATION_FAILED, detail)

"""The body that the target API gets, described by ``config/schemas/payload.schema.json``."""

from __future__ import annotations

import msgspec

from bpa.documents.values import Fields


def payload(run_id: str, fields: Fields, *, vendor: str, route: str, confidence: float) -> bytes:
    """Return the JSON body for the target: the same bytes for the same arguments, always.

    ``total`` is a decimal string, ``confidence`` a number from 0 to 1.
    """
    return msgspec.json.encode(
        {
            "run_id": run_id,
            "invoice_id": fields.invoice_id,
            "vendor": vendor,
            "route": route,
            "confidence": float(confidence),
            "currency": fields.currency,
            "total": fields.total,
            "issued_on": fields.issued_on,
            "kind": fields.kind,
        }
    )

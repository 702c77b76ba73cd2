"""Documents as bytes, for storage and for the lease (MessagePack)."""

from __future__ import annotations

import msgspec

from bpa.documents.values import Document
from bpa.errors import InvalidRequest


def to_wire(document: Document) -> bytes:
    """Return ``document`` as MessagePack; ``from_wire`` gives back an equal one."""
    return msgspec.msgpack.encode(document)


def from_wire(stored: bytes) -> Document:
    """Return the document that ``to_wire`` made these bytes of.

    Raises:
        InvalidRequest: The bytes are not such a document.
    """
    try:
        return msgspec.msgpack.decode(stored, type=Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"these bytes are not a stored document: {error}") from error

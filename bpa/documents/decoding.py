"""The one door through which every message body goes.

Whatever the bytes are, ``decode`` returns a Document or raises ``RunEnded`` with
``DeserializationError`` or ``PayloadTooLarge``, and nothing else: a poison message is dead-lettered
after one delivery and never stops an intake.
"""

from __future__ import annotations

import base64
import binascii
from xml.etree.ElementTree import Element

import msgspec

from bpa.documents import cii, json_invoice, json_tree, ubl, xml_tree
from bpa.documents.characters import prose
from bpa.documents.content_types import ContentType, read_content_type
from bpa.documents.values import Document, malformed
from bpa.errors import Reason, RunEnded

MAX_BYTES = 1_048_576
MAX_TEXT_BYTES = 2 * MAX_BYTES
"""What a document's text may grow to as UTF-8: leases and the sandbox's frames carry it."""

_JSON_WITH_EXACT_NUMBERS = msgspec.json.Encoder(decimal_format="number")


def decode(body: bytes, content_type: str | None, *, max_bytes: int = MAX_BYTES) -> Document:
    """Read a message body by its content type (absent: ``application/json``).

    ``application/json`` (our invoice is read by code, other objects as text),
    ``application/xml`` (UBL 2.1 and CII are read by code, other XML as text), ``text/plain``, and
    ``application/cloudevents+json``, whose data is read by its own content type.

    Raises:
        RunEnded: ``DeserializationError``, or ``PayloadTooLarge`` above ``max_bytes`` or, as text,
            above `MAX_TEXT_BYTES`; the detail says where it went wrong without quoting the payload.
    """
    if len(body) > max_bytes:
        raise RunEnded(
            Reason.PAYLOAD_TOO_LARGE, f"the body has {len(body)} bytes; {max_bytes} are allowed"
        )
    body, read_as = unwrap(body, content_type)
    if read_as.form == "xml":
        document = _read_xml(xml_tree.parse(body))
    else:
        text = _characters(body, read_as)
        document = _read_json(text) if read_as.form == "json" else _read_prose(text)
    text_bytes = len(document.text.encode("utf-8", "replace"))
    if text_bytes > MAX_TEXT_BYTES:
        raise RunEnded(
            Reason.PAYLOAD_TOO_LARGE,
            f"the document's text has {text_bytes} bytes; {MAX_TEXT_BYTES} are allowed",
        )
    return document


def parsed_json(body: bytes, content_type: str | None) -> object:
    """Return the JSON value that a body carries, or None when it carries XML or prose.

    Raises:
        RunEnded: ``DeserializationError``, as ``decode``.
    """
    body, read_as = unwrap(body, content_type)
    return json_tree.parse(_characters(body, read_as)) if read_as.form == "json" else None


def unwrap(body: bytes, content_type: str | None) -> tuple[bytes, ContentType]:
    """Take a structured CloudEvent's data out of its envelope; anything else stays as it is.

    CloudEvents 1.0, JSON format section 3.1: ``data`` is a JSON value where ``datacontenttype``
    is absent or JSON, a string otherwise; ``data_base64`` holds bytes.

    Raises:
        RunEnded: ``DeserializationError``.
    """
    read_as = read_content_type(content_type)
    if read_as.form != "cloudevent":
        return body, read_as
    event = json_tree.parse(_characters(body, read_as))
    if not isinstance(event, dict) or not isinstance(event.get("specversion"), str):
        raise malformed("the CloudEvent has no specversion")
    header = event.get("datacontenttype")
    if header is not None and not isinstance(header, str):
        raise malformed("the CloudEvent's datacontenttype is not a string")
    inner = read_content_type(header)
    if inner.form == "cloudevent":
        raise malformed("a CloudEvent inside a CloudEvent")
    return _data(event, inner), inner


def _data(event: dict[str, object], inner: ContentType) -> bytes:
    encoded, data = event.get("data_base64"), event.get("data")
    if isinstance(encoded, str) and "data" not in event:
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise malformed("the CloudEvent's data_base64 is not base64") from None
    if "data" not in event or encoded is not None:
        raise malformed("the CloudEvent needs either data or data_base64")
    if inner.form == "json":
        return _JSON_WITH_EXACT_NUMBERS.encode(data)
    if not isinstance(data, str):
        raise malformed("the CloudEvent's data is not a string, as its datacontenttype demands")
    return data.encode(inner.codec or "utf-8", errors="replace")


def _characters(body: bytes, read_as: ContentType) -> str:
    try:
        text = body.decode(read_as.codec)
    except UnicodeError:
        raise malformed(
            "the body is not valid in its character encoding (UTF-8 unless the "
            "content type names another)"
        ) from None
    if not text.strip():
        raise malformed("the body is empty")
    return text


def _read_json(text: str) -> Document:
    value = json_tree.parse(text)
    if not isinstance(value, dict):
        raise malformed("the JSON document is not an object")
    known = json_invoice.read(value)
    if known is not None:
        return known
    return Document("text", prose(_JSON_WITH_EXACT_NUMBERS.encode(value).decode()), None)


def _read_xml(root: Element) -> Document:
    if root.tag in (ubl.INVOICE, ubl.CREDIT_NOTE):
        return ubl.read(root)
    if root.tag == cii.ROOT:
        return cii.read(root)
    tree = {xml_tree.local_name(root.tag): xml_tree.as_members(root)}
    return Document("text", prose(_JSON_WITH_EXACT_NUMBERS.encode(tree).decode()), None)


def _read_prose(text: str) -> Document:
    if "\x00" in text:
        raise malformed("the text holds a NUL character")
    seen = prose(text)
    if not seen:
        raise malformed("the text has no visible characters")
    return Document("text", seen, None)

"""The content type of a message: what to read its body as."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bpa.documents.values import malformed

Form = Literal["json", "xml", "text", "cloudevent"]

# RFC 9110 section 8.3.1: type/subtype, then parameters of token or quoted string.
_TYPE = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+)\s*", re.ASCII)
_PARAMETER = re.compile(
    r";\s*(?:([\w!#$%&'*+.^`|~-]+)=(?:([\w!#$%&'*+.^`|~-]+)|\"([^\"\\]*)\"))?\s*", re.ASCII
)
_MAX_CHARS = 256

_FORMS: dict[str, Form] = {
    "application/json": "json",
    "application/xml": "xml",
    "text/plain": "text",
    "application/cloudevents+json": "cloudevent",
}
_CHARSETS: dict[Form, dict[str, str]] = {
    "json": {"utf-8": "utf-8-sig", "us-ascii": "utf-8-sig"},
    "cloudevent": {"utf-8": "utf-8-sig", "us-ascii": "utf-8-sig"},
    # The encoding of XML is read from the document itself.
    "xml": {"utf-8": "", "us-ascii": "", "utf-16": ""},
    "text": {
        "utf-8": "utf-8-sig",
        "us-ascii": "utf-8-sig",
        "utf-16": "utf-16",
        "iso-8859-1": "iso-8859-1",
        "windows-1252": "cp1252",
    },
}


@dataclass(frozen=True, slots=True)
class ContentType:
    """What to read a body as; ``codec`` is the Python codec of its characters."""

    form: Form
    codec: str


def read_content_type(header: str | None) -> ContentType:
    """Read a content-type header; absent or empty, it is JSON.

    Raises:
        RunEnded: ``DeserializationError`` for a header that is none, a type that is not read here,
            or a charset that its type does not allow.
    """
    if header is None or not header.strip():
        return ContentType("json", "utf-8-sig")
    found = _TYPE.match(header) if len(header) <= _MAX_CHARS else None
    if found is None:
        raise malformed("the content type is not of the form type/subtype")
    form = _FORMS.get(found[1].lower())
    if form is None:
        raise malformed(f"the content type is none of {', '.join(_FORMS)}")
    charset = _charset(header[found.end() :])
    codec = _CHARSETS[form].get(charset)
    if codec is None:
        allowed = ", ".join(_CHARSETS[form])
        raise malformed(f"the charset of {found[1].lower()} must be one of {allowed}")
    return ContentType(form, codec)


def _charset(parameters: str) -> str:
    charset, at = "utf-8", 0
    while at < len(parameters):
        found = _PARAMETER.match(parameters, at)
        if found is None:
            raise malformed("the content type has parameters that are not of the form name=value")
        if found[1] and found[1].lower() == "charset":
            charset = (found[2] or found[3] or "").lower()
        at = found.end()
    return charset

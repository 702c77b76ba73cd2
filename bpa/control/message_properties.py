"""What is kept and shown of a message beside its body: a stranger's words, bounded. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from bpa.connectors import Message, PropertyValue
from bpa.documents.characters import one_line
from bpa.telemetry.redaction import redactor

TEXT_CHARS_MAX = 4096
_KEPT_MOST = 32
_KEPT_CHARS_MAX = 200
"""Of each name and value that is kept: some 13,000 characters of a message at most."""
WITHHELD = "(withheld)"
SECRET_NAMES = re.compile(
    r"auth|cookie|credential|key|passw|pwd|secret|sig$|signature|token", re.IGNORECASE
)
"""Names whose values may be secrets, and are neither kept nor shown (I12)."""
_redacted = redactor(())
"""What looks like a secret under another name."""


def kept_of(message: Message) -> dict[str, Any]:
    """Return what is written down of a message with its run."""
    properties = message.properties
    return {
        "content_type": _kept(message.content_type),
        "correlation_id": _kept(message.correlation_id),
        "properties": shown(dict(islice(properties.items(), _KEPT_MOST)), _KEPT_CHARS_MAX),
        "properties_left_out": max(0, len(properties) - _KEPT_MOST),
    }


def shown(
    properties: Mapping[str, PropertyValue], name_chars_max: int = TEXT_CHARS_MAX
) -> dict[str, str]:
    """Return application properties for people; what may be a secret is withheld (I12)."""
    return {
        readable(name)[:name_chars_max]: WITHHELD
        if SECRET_NAMES.search(name)
        else _redacted(readable(str(value)))[:_KEPT_CHARS_MAX]
        for name, value in properties.items()
    }


def readable(text: str) -> str:
    """Return a stranger's text on one line, without invisible characters."""
    return one_line(text)[:TEXT_CHARS_MAX]


def _kept(text: str | None) -> str | None:
    return None if text is None else readable(text)[:_KEPT_CHARS_MAX]

"""Find the document in a conversation's user text and read it, whatever its form. Pure."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from bpa.embedded.anthropic.facts import Facts
from bpa.embedded.anthropic.prose import read_prose
from bpa.embedded.anthropic.structured import read_tree, xml_tree

_WRAPPED = re.compile(
    r"\A[^<{]*<(?P<tag>document|invoice_document|untrusted_document|untrusted|input|content)\b[^<>]*>"
    r"(?P<inside>.*)</(?P=tag)>",
    re.DOTALL | re.IGNORECASE,
)
_FENCED = re.compile(r"```[a-z]*\n(?P<inside>.*?)```", re.DOTALL)
_XML_START = re.compile(r"<(?:\?xml|[A-Za-z][\w.-]*(?::[\w.-]+)?[\s>])")


@lru_cache(maxsize=64)
def read_document(text: str) -> Facts:
    """Return the facts of the document in ``text``: JSON, XML, or prose if it is neither.

    A wrapper element or a code fence around the document is taken off, words before a JSON or
    XML document are skipped. One conversation asks several times, hence the cache.
    """
    inside = _unwrapped(text)
    tree = _json(inside)
    if tree is not None:
        return read_tree(tree)
    start = _XML_START.search(inside)
    if start:
        end = inside.rfind(">") + 1
        xml = xml_tree(inside[start.start() : end])
        if xml is not None:
            return read_tree(xml)
    return read_prose(inside)


def _unwrapped(text: str) -> str:
    wrapped = _WRAPPED.search(text)
    if wrapped:
        text = wrapped["inside"].rpartition(f"<{wrapped['tag']}>")[2]
    fenced = _FENCED.search(text)
    return (fenced["inside"] if fenced else text).strip()


def _json(text: str) -> dict[str, object] | list[object] | None:
    """Return the first JSON value in ``text``, its numbers as they are written."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder(parse_float=str, parse_int=str).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list):
        return value if value and isinstance(value[0], dict) else None
    return value if isinstance(value, dict) and value else None

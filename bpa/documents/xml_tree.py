"""XML parsed without DTD, entities, foreign encodings or bottomless nesting."""

from __future__ import annotations

import codecs
import re
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from bpa.documents.values import malformed

MAX_DEPTH = 64
_VALUE_MAX_CHARS = 200
_DECLARED = re.compile(r"\s*<\?xml[^>]*?\sencoding\s*=\s*[\"']([^\"'>]*)[\"']")
_ENCODINGS = {"utf-8": ("utf-8", "utf8", "us-ascii"), "utf-16": ("utf-16", "utf-16le", "utf-16be")}


class _BoundedBuilder:
    """Builds the tree and refuses nesting that no invoice has."""

    def __init__(self) -> None:
        self._tree = TreeBuilder()
        self._depth = 0
        self.data = self._tree.data

    def start(self, tag: str, attributes: dict[str, str]) -> Element:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise malformed(f"nested deeper than {MAX_DEPTH} levels")
        return self._tree.start(tag, attributes)

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return self._tree.end(tag)

    def close(self) -> Element:
        return self._tree.close()


def parse(body: bytes) -> Element:
    """Parse ``body`` into its root element.

    The encoding is UTF-16 with a byte-order mark, else UTF-8, as XML 1.0 section 4.3.3 has it; a
    declaration that says otherwise is refused rather than believed.

    Raises:
        RunEnded: ``DeserializationError`` for everything else.
    """
    text = _decoded(body)
    parser = DefusedXMLParser(
        target=_BoundedBuilder(), forbid_dtd=True, forbid_entities=True, forbid_external=True
    )
    try:
        parser.feed(text)
        root: Element = parser.close()
    except DefusedXmlException:
        raise malformed("XML with a DTD or entities is refused; send it without DOCTYPE") from None
    except ParseError as error:
        line, column = error.position
        raise malformed(f"not well-formed XML at line {line} column {column}") from None
    except (ValueError, LookupError):
        raise malformed("not well-formed XML") from None
    return root


def _decoded(body: bytes) -> str:
    is_utf16 = body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8"
    try:
        text = body.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise malformed(f"XML that is not valid {encoding.upper()}") from None
    declared = _DECLARED.match(text[:256])
    if declared and declared[1].lower() not in _ENCODINGS[encoding]:
        raise malformed(f"XML that declares another encoding than the {encoding.upper()} it is in")
    if "\x00" in text:
        raise malformed("XML that holds a NUL character")
    return text


def local_name(tag: str) -> str:
    """Return a tag or attribute name without its namespace."""
    return tag.rpartition("}")[2]


def as_members(element: Element) -> object:
    """Return an element of an unknown dialect as JSON has it, under local names.

    A leaf is its text, anything else an object of attributes and children; a repeated child
    becomes an array, text beside attributes or children stands under ``value``. Long values
    (signatures, attachments) are cut.
    """
    text = " ".join((element.text or "").split())[:_VALUE_MAX_CHARS]
    if not len(element) and not element.attrib:
        return text
    members: dict[str, object] = {
        local_name(name): value[:_VALUE_MAX_CHARS] for name, value in element.attrib.items()
    }
    children: dict[str, list[object]] = {}
    for child in element:
        children.setdefault(local_name(child.tag), []).append(as_members(child))
    members |= {name: found if len(found) > 1 else found[0] for name, found in children.items()}
    return {**members, "value": text} if text else members

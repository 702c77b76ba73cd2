"""Characters that a reader does not see, and their removal.

Control characters, bidirectional overrides, zero-width and filler characters, variation selectors,
private use and the Unicode tag block carry text past a human reader to a model or a terminal
(Unicode TR36 and TR39); none of them belongs in an invoice.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ud800-\udfff\ue000-\uf8ff"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffd\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_COLUMN_GAPS = re.compile(r"[^\S\n]{4,}")
_LINE_TAILS = re.compile(r"[^\S\n]+\n")
_EMPTY_LINES = re.compile(r"\n{3,}")

EXCERPT_MAX_CHARS = 200
_PIECE_CHARS = 512


def visible(text: str) -> str:
    """Return ``text`` in NFC without invisible characters, its line ends as newlines."""
    if text.isascii() and text.isprintable():
        return text
    return _composed(_INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)))


def _composed(text: str) -> str:
    """Return ``text`` in NFC, at a cost that grows with its length alone.

    Normalising sorts runs of combining marks by insertion: a megabyte of them takes minutes. So
    it is done line by line, and within a longer line piece by piece.
    """
    if text.isascii():
        return text
    pieces = (
        line[at : at + _PIECE_CHARS]
        for line in text.splitlines(keepends=True)
        for at in range(0, len(line), _PIECE_CHARS)
    )
    return "".join(unicodedata.normalize("NFC", piece) for piece in pieces)


def one_line(text: str) -> str:
    """Return ``text`` without invisible characters, every run of whitespace as one space."""
    return " ".join(visible(text).split())


def prose(text: str) -> str:
    """Return ``text`` as a model may see it: visible, with narrow column gaps, few empty lines.

    Layout carries meaning (three spaces still part columns) but pages rendered from PDF spend most
    of their tokens on it.
    """
    text = _COLUMN_GAPS.sub("   ", visible(text))
    return _EMPTY_LINES.sub("\n\n", _LINE_TAILS.sub("\n", text + "\n")).strip()


def excerpt(body: bytes) -> str:
    """Return at most 200 visible characters of ``body`` on one line, for people to recognise it."""
    text = one_line(body[: 8 * EXCERPT_MAX_CHARS].decode("utf-8", errors="replace"))
    return text if len(text) <= EXCERPT_MAX_CHARS else text[: EXCERPT_MAX_CHARS - 1] + "…"

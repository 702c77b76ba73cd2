"""What a document says, as far as the stub needs it to answer. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

# These and the patterns of ``prose`` run over lower-case text and begin with a letter: without a
# flag or an anchor in front, the engine skips ahead by first letters, several times as fast.
CREDIT_WORDS = re.compile(
    r"(?:credit\s?note|credit\s+memo|gutschrift|rechnungskorrektur|stornorechnung"
    r"|nota\s+de\s+cr[eé]dito|factura\s+rectificativa|abono|avoir|note\s+de\s+cr[eé]dit"
    r"|facture\s+d['\u2019]avoir|nota\s+di\s+credito|creditnota|creditfactuur)\b"
)
INVOICE_WORDS = re.compile(r"(?:tax\s+invoice|invoice|facture|factura|fattura|factuur|rechnung)\b")


@dataclass(frozen=True, slots=True)
class Facts:
    """The fields of one document, each as it literally stands there; None where it does not.

    ``words`` is the text that tells what was bought; ``is_credit`` says that the document
    takes money back.
    """

    vendor: str | None = None
    invoice_id: str | None = None
    total: str | None = None
    currency: str | None = None
    issued_on: str | None = None
    kind: str | None = None
    words: str = ""
    is_credit: bool = False


def amount(quote: str | None) -> float:
    """Return a quoted amount as a number, 0 if it is none; for rules of thumb, not for books.

    The last of ``.`` and ``,`` is the decimal mark unless exactly three digits follow it and it
    is the only kind of mark.
    """
    if not quote:
        return 0.0
    digits = re.sub(r"[^\d.,-]", "", quote)
    mark = max(digits.rfind("."), digits.rfind(","))
    if mark < 0:
        return _number(digits)
    whole, fraction = digits[:mark], digits[mark + 1 :]
    other = "," if digits[mark] == "." else "."
    if len(fraction) == 3 and other not in whole:
        return _number(re.sub(r"[.,]", "", digits))
    return _number(re.sub(r"[.,]", "", whole) + "." + fraction)


def _number(digits: str) -> float:
    try:
        return float(digits)
    except ValueError:
        return 0.0


def lowered(text: str) -> str:
    """Return ``text`` in lower case, every letter at its old place."""
    low = text.lower()
    if len(low) == len(text):
        return low
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in text)


def terms(text: str) -> tuple[str, ...]:
    """Return the words of a list that is written as text, for the reader's sake."""
    return tuple(text.split())

"""JSON parsed without loss and without surprise.

Numbers stay exact (int and Decimal, never float). Refused with ``DeserializationError``: what RFC
8259 does not allow (NaN, Infinity), what interchanging parsers read differently (RFC 7493: repeated
keys, lone surrogates), NUL, numbers beyond any amount of money, nesting beyond any invoice.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import NoReturn

from bpa.documents.values import malformed

MAX_DEPTH = 64
_MAX_NUMBER_CHARS = 64
_MAX_EXPONENT = 64


def _refuse_constant(_name: str) -> NoReturn:
    raise malformed("not JSON: NaN and Infinity are not numbers; send a decimal string")


def _integer(literal: str) -> int:
    if len(literal) > _MAX_NUMBER_CHARS:
        raise malformed(f"a number has more than {_MAX_NUMBER_CHARS} characters")
    return int(literal)


def _decimal(literal: str) -> Decimal:
    if len(literal) > _MAX_NUMBER_CHARS:
        raise malformed(f"a number has more than {_MAX_NUMBER_CHARS} characters")
    try:
        number = Decimal(literal)
    except ArithmeticError:
        number = Decimal("Infinity")
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or max(abs(exponent), abs(number.adjusted())) > _MAX_EXPONENT:
        raise malformed(f"a number lies beyond 10 to the power of ±{_MAX_EXPONENT}")
    return number


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise malformed("an object repeats a key; each key may stand once")
    return members


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_int=_integer,
    parse_float=_decimal,
    parse_constant=_refuse_constant,
)


def parse(text: str) -> object:
    """Parse ``text`` into dicts, lists, strings, ints, Decimals, booleans and None.

    Raises:
        RunEnded: ``DeserializationError`` for everything that is not plain JSON.
    """
    try:
        value: object = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise malformed(f"not JSON: {error.msg.rstrip(': ')} at {where}") from None
    except RecursionError:
        raise malformed(f"nested deeper than {MAX_DEPTH} levels") from None
    _check(value)
    return value


def _check(value: object) -> None:
    """Refuse what is nested too deep or holds a string that other systems cannot store."""
    rest: list[tuple[object, int]] = [(value, 1)]
    while rest:
        node, depth = rest.pop()
        if isinstance(node, str):
            _check_string(node)
        elif isinstance(node, (dict, list)):
            if depth > MAX_DEPTH:
                raise malformed(f"nested deeper than {MAX_DEPTH} levels")
            if isinstance(node, dict):
                rest.extend((key, depth) for key in node)
            children = node.values() if isinstance(node, dict) else node
            rest.extend((at, depth + 1) for at in children if isinstance(at, (str, dict, list)))


def _check_string(text: str) -> None:
    if "\x00" in text:
        raise malformed("a string holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise malformed("a string holds half of a surrogate pair") from None

"""Read and write just enough of the AMQP 1.0 type system, on bytes, without building values.

Pure. What is copied without being built keeps its AMQP type to the bit. A message body is never
decoded: a section is found by the size its constructor carries (OASIS AMQP 1.0, part 1 section 1.2,
and part 3 section 3.2), so that cost does not grow with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as struct_error

HEADER = 0x70
DELIVERY_ANNOTATIONS = 0x71
MESSAGE_ANNOTATIONS = 0x72
PROPERTIES = 0x73
APPLICATION_PROPERTIES = 0x74
DATA = 0x75
SEQUENCE = 0x76
VALUE = 0x77
FOOTER = 0x78

NULL = b"\x40"
_U32 = Struct(">I")
_PAIR8 = Struct(">BB")
_PAIR32 = Struct(">II")
_LONG = Struct(">q")
_FIXED_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_NARROW = frozenset({0xA, 0xC, 0xE})
_WIDE = frozenset({0xB, 0xD, 0xF})
_ULONG0, _SMALL_ULONG, _ULONG, _SYM8, _SYM32 = 0x44, 0x53, 0x80, 0xA3, 0xB3
_DESCRIPTORS = frozenset({_ULONG0, _SMALL_ULONG, _ULONG, _SYM8, _SYM32})
_DEEPEST_DESCRIPTION = 4


class MalformedMessage(ValueError):
    """The bytes are not what AMQP 1.0 says they must be."""


def value_end(data: bytes, position: int) -> int:
    """Return the offset behind the value at ``position``.

    Raises:
        MalformedMessage: The value is truncated or its constructor unknown.
    """
    for _ in range(_DEEPEST_DESCRIPTION):
        if position >= len(data):
            break
        code = data[position]
        if code:
            return _primitive_end(data, position, code)
        position += 1
        if position >= len(data) or data[position] not in _DESCRIPTORS:
            break
        position = _primitive_end(data, position, data[position])
    raise MalformedMessage(f"no AMQP value at offset {position}")


def _primitive_end(data: bytes, position: int, code: int) -> int:
    kind = code >> 4
    width = _FIXED_WIDTHS.get(kind)
    if width is not None:
        end = position + 1 + width
    elif kind in _NARROW and position + 1 < len(data):
        end = position + 2 + data[position + 1]
    elif kind in _WIDE and position + 5 <= len(data):
        end = position + 5 + _U32.unpack_from(data, position + 1)[0]
    else:
        raise MalformedMessage(f"unknown or truncated constructor 0x{code:02x} at {position}")
    if end > len(data):
        raise MalformedMessage(f"a value at offset {position} ends behind the message")
    return end


def sections(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Walk the sections of an encoded message.

    Yields:
        (code, start, value, end): the section's descriptor code and the offsets of the section,
        of the value in it, and of what follows.

    Raises:
        MalformedMessage: Not a sequence of the nine sections in the order AMQP prescribes.
    """
    position, last = 0, 0
    while position < len(data):
        start = position
        code, value = _descriptor(data, position)
        repeatable = code in (DATA, SEQUENCE)
        if not HEADER <= code <= FOOTER or code < last or (code == last and not repeatable):
            raise MalformedMessage(f"section 0x{code:02x} is out of place at offset {start}")
        last = code
        position = value_end(data, value)
        yield code, start, value, position


def _descriptor(data: bytes, position: int) -> tuple[int, int]:
    head = data[position : position + 3]
    if len(head) == 3 and head[0] == 0 and head[1] == _SMALL_ULONG:
        return head[2], position + 3
    if len(data) >= position + 10 and head[:2] == b"\x00\x80":
        return int.from_bytes(data[position + 2 : position + 10], "big"), position + 10
    raise MalformedMessage(f"no section starts at offset {position}")


def items(data: bytes, position: int) -> list[bytes]:
    """Return the encoded elements of the list or map at ``position``.

    Raises:
        MalformedMessage: It is neither, or its count does not agree with its size.
    """
    code = data[position]
    try:
        if code == 0x45:
            return []
        if code in (0xC0, 0xC1):
            size, count = _PAIR8.unpack_from(data, position + 1)
            start, end = position + 3, position + 2 + size
        elif code in (0xD0, 0xD1):
            size, count = _PAIR32.unpack_from(data, position + 1)
            start, end = position + 9, position + 5 + size
        else:
            raise MalformedMessage(f"neither list nor map at offset {position}: 0x{code:02x}")
    except struct_error as error:
        raise MalformedMessage("a list or map is truncated") from error
    if end > len(data) or count > size:
        raise MalformedMessage("a list or map is larger than the message")
    found = []
    for _ in range(count):
        stop = value_end(data, start)
        found.append(data[start:stop])
        start = stop
    if start != end:
        raise MalformedMessage("the elements of a list or map do not fill its size")
    return found


def pairs(data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Walk the (key, value) pairs of the map at ``position``, both still encoded."""
    if data[position] == 0x40:
        return
    flat = items(data, position)
    if len(flat) % 2:
        raise MalformedMessage("a map has a key without a value")
    yield from zip(flat[::2], flat[1::2], strict=True)


def text(encoded: bytes) -> str | None:
    """Return the text of an encoded string or symbol, None of anything else."""
    code = encoded[0]
    if code in (0xA1, _SYM8):
        return encoded[2:].decode("utf-8", "replace")
    if code in (0xB1, _SYM32):
        return encoded[5:].decode("utf-8", "replace")
    return None


def number(encoded: bytes) -> int | None:
    """Return the value of an encoded integer or timestamp, None of anything else."""
    code = encoded[0]
    if code in (0x43, 0x44):
        return 0
    if code in (0x50, 0x52, _SMALL_ULONG, 0x60, 0x70, _ULONG):
        return int.from_bytes(encoded[1:], "big")
    if code in (0x51, 0x54, 0x55, 0x61, 0x71, 0x81, 0x83):
        return int.from_bytes(encoded[1:], "big", signed=True)
    return None


def binary(data: bytes, position: int) -> bytes:
    """Return the bytes of the binary at ``position``.

    Raises:
        MalformedMessage: There is something else.
    """
    code = data[position]
    if code == 0xA0:
        return data[position + 2 : value_end(data, position)]
    if code == 0xB0:
        return data[position + 5 : value_end(data, position)]
    raise MalformedMessage(f"a data section holds no binary at offset {position}")


def encode_symbol(value: str) -> bytes:
    """Encode an ASCII symbol of at most 255 characters."""
    raw = value.encode("ascii")
    return bytes((_SYM8, len(raw))) + raw


def encode_string(value: str) -> bytes:
    """Encode a string."""
    raw = value.encode("utf-8", "replace")
    return bytes((0xA1, len(raw))) + raw if len(raw) < 256 else b"\xb1" + _U32.pack(len(raw)) + raw


def encode_binary(value: bytes) -> bytes:
    """Encode bytes."""
    size = len(value)
    return (bytes((0xA0, size)) if size < 256 else b"\xb0" + _U32.pack(size)) + value


def encode_boolean(*, value: bool) -> bytes:
    """Encode a boolean."""
    return b"\x41" if value else b"\x42"


def encode_uint(value: int) -> bytes:
    """Encode an unsigned 32-bit integer in its shortest form."""
    if value == 0:
        return b"\x43"
    return bytes((0x52, value)) if value < 256 else b"\x70" + _U32.pack(value)


def encode_long(value: int) -> bytes:
    """Encode a signed 64-bit integer."""
    return b"\x81" + _LONG.pack(value)


def encode_timestamp(value_ms: int) -> bytes:
    """Encode milliseconds since the epoch as a timestamp."""
    return b"\x83" + _LONG.pack(value_ms)


def encode_list(fields: list[bytes]) -> bytes:
    """Join encoded elements into a list."""
    body = b"".join(fields)
    return b"\xd0" + _PAIR32.pack(4 + len(body), len(fields)) + body


def encode_map(body: bytes, pairs_count: int) -> bytes:
    """Make a map of ``pairs_count`` pairs, encoded one behind the other in ``body``."""
    return b"\xd1" + _PAIR32.pack(4 + len(body), 2 * pairs_count) + body


def encode_section(code: int, value: bytes) -> bytes:
    """Put an encoded value under a section's descriptor."""
    return bytes((0, _SMALL_ULONG, code)) + value

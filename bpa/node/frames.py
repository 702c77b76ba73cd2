"""The frames between a node and one sandboxed child: pure, no I/O.

A frame is a length (u32, big endian) and a msgpack map whose ``t`` names its type. ::

    parent -> child   Task, Answer, Cancel
    child  -> parent  Ready, Call, Log, Done, Failed

The child is hostile: every byte it writes is measured before anything is built from it. `scan`
walks the raw msgpack and refuses what is too deep, has too many values or is not JSON-like (text
keys, no binary, no extensions); then msgspec checks the types. Whatever is wrong with the input,
the only error is `SandboxProtocolError`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import msgspec

from bpa.errors import BpaError

HEADER_BYTES = 4
_HEADER = struct.Struct(">I")


class SandboxProtocolError(BpaError):
    """A frame broke the protocol; its sender is not to be trusted with another."""

    code = "sandbox_protocol"


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What one side may send."""

    frame_bytes_max: int = 4 << 20
    """Bytes of one frame without its header: twice the largest text of a document, so that the
    budgets judge it."""
    frames_max: int = 1_000
    """Frames of one child, over its life."""
    depth_max: int = 32
    """Containers within containers."""
    values_max: int = 20_000
    """Values (keys included) in one frame."""
    frames_per_s: float = 200.0
    """Sustained rate; as many may come at once."""


class _Frame(msgspec.Struct, frozen=True, tag_field="t"):
    """The root of the tagged union."""


class AgentSpec(msgspec.Struct, frozen=True):
    """What the child has to know of the agent's version."""

    name: str
    instructions: str
    model: str
    max_output_tokens: int


ANY_ARGUMENTS: dict[str, Any] = {"type": "object", "additionalProperties": True}
"""Parameters of a tool in a sandbox: the broker tells the model the schema and judges the
arguments, so the child has nothing to check and hands on whatever came."""


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool the model may call; ``parameters`` is a JSON schema, see `ANY_ARGUMENTS`."""

    name: str
    description: str
    parameters: dict[str, Any]


class Fault(msgspec.Struct, frozen=True):
    """Why a call was refused: a stable code, and a line without secrets."""

    code: str
    message: str


class Task(_Frame, frozen=True, tag="task"):
    """The first frame to a child: the one thing it is to do."""

    run_id: str
    agent: AgentSpec
    document: str
    tools: list[ToolSpec]
    one_tool_call: bool = True
    """Whether the conversation ends with the first tool that succeeds."""


class Answer(_Frame, frozen=True, tag="answer", omit_defaults=True):
    """What became of call ``id``: ``value`` when ``ok``, else ``error``."""

    id: int
    ok: bool
    value: Any = None
    error: Fault | None = None


class Cancel(_Frame, frozen=True, tag="cancel"):
    """Stop at the next frame; SIGKILL follows for a child that does not."""


class Ready(_Frame, frozen=True, tag="ready", omit_defaults=True):
    """The child is confined and waits for its task."""

    protections: tuple[str, ...] = ()
    """What it found to be in force; a zygote's first child alone looks."""


class Call(_Frame, frozen=True, tag="call"):
    """A wish; ``id`` counts from 1. See `bpa.node.agent` for the shape of ``request``."""

    id: int
    kind: Literal["model", "tool"]
    request: dict[str, Any]


class Log(_Frame, frozen=True, tag="log"):
    """One event for the node's log."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, Any]


class Done(_Frame, frozen=True, tag="done"):
    """The agent ended; ``text`` is its last word, possibly empty."""

    text: str


class Failed(_Frame, frozen=True, tag="failed"):
    """The agent raised: ``ClassName: message``, without locals."""

    error: str


Frame = Task | Answer | Cancel | Ready | Call | Log | Done | Failed
_FromParent = Task | Answer | Cancel
_FromChild = Ready | Call | Log | Done | Failed


class Sender(Enum):
    """Who writes the frames that a decoder reads."""

    CHILD = "child"
    PARENT = "parent"


_DECODERS: Mapping[Sender, msgspec.msgpack.Decoder[Any]] = {
    Sender.CHILD: msgspec.msgpack.Decoder(_FromChild),
    Sender.PARENT: msgspec.msgpack.Decoder(_FromParent),
}
_ENCODER = msgspec.msgpack.Encoder()


def encode(frame: Frame, limits: FrameLimits = FrameLimits()) -> bytes:
    """Return the frame with its header.

    Raises:
        SandboxProtocolError: It is larger than the limit, or holds what msgpack cannot carry.
    """
    try:
        body = _ENCODER.encode(frame)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SandboxProtocolError(f"frame cannot be encoded: {type(error).__name__}") from error
    if len(body) > limits.frame_bytes_max:
        raise SandboxProtocolError(
            f"frame of {len(body)} bytes exceeds the limit of {limits.frame_bytes_max}"
        )
    return _HEADER.pack(len(body)) + body


class Decoder:
    """Turn a stream of bytes into frames; after an error it takes no more."""

    __slots__ = ("_buffer", "_count", "_decode", "_limits", "_refused")

    def __init__(self, limits: FrameLimits, sender: Sender = Sender.CHILD) -> None:
        self._limits = limits
        self._decode = _DECODERS[sender].decode
        self._buffer = bytearray()
        self._count = 0
        self._refused: SandboxProtocolError | None = None

    def feed(self, chunk: bytes) -> list[Frame]:
        """Add bytes and return the frames they complete, possibly none.

        Raises:
            SandboxProtocolError: The stream broke the protocol, now or earlier.
        """
        if self._refused is not None:
            raise self._refused
        self._buffer += chunk
        frames: list[Frame] = []
        try:
            while (body := self._take()) is not None:
                frames.append(self._parse(body))
        except SandboxProtocolError as error:
            self._refused = error
            self._buffer.clear()
            raise
        return frames

    def close(self) -> None:
        """Check that the stream ended between two frames.

        Raises:
            SandboxProtocolError: It ended inside one.
        """
        if self._buffer:
            raise SandboxProtocolError("stream ended inside a frame")

    def _take(self) -> bytes | None:
        if len(self._buffer) < HEADER_BYTES:
            return None
        (size,) = _HEADER.unpack_from(self._buffer)
        if size > self._limits.frame_bytes_max:
            raise SandboxProtocolError(
                f"frame of {size} bytes exceeds the limit of {self._limits.frame_bytes_max}"
            )
        end = HEADER_BYTES + size
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEADER_BYTES:end])
        del self._buffer[:end]
        return body

    def _parse(self, body: bytes) -> Frame:
        self._count += 1
        if self._count > self._limits.frames_max:
            raise SandboxProtocolError(f"more than {self._limits.frames_max} frames")
        scan(body, depth_max=self._limits.depth_max, values_max=self._limits.values_max)
        try:
            frame: Frame = self._decode(body)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise SandboxProtocolError(f"not a known frame: {type(error).__name__}") from error
        return frame


class FrameRate:
    """A token bucket for one sender's frames; time is passed in (seconds, monotonic)."""

    __slots__ = ("_per_s", "_tokens", "_updated_s")

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._tokens = max(1.0, per_s)
        self._updated_s = now_s

    def admit(self, now_s: float) -> None:
        """Count one frame.

        Raises:
            SandboxProtocolError: It came too soon after too many others.
        """
        refill = max(0.0, now_s - self._updated_s) * self._per_s
        self._tokens = min(max(1.0, self._per_s), self._tokens + refill)
        self._updated_s = now_s
        if self._tokens < 1.0:
            raise SandboxProtocolError(f"more than {self._per_s:g} frames a second")
        self._tokens -= 1.0


# -- the raw walk ----------------------------------------------------------------------------------

_SCALAR, _TEXT, _ARRAY, _MAP = range(4)


@dataclass(frozen=True, slots=True)
class _Form:
    """How one msgpack type byte is read: what it is, and where its size stands."""

    kind: int
    payload: int
    size: struct.Struct | None = None


def _forms() -> tuple[_Form | None, ...]:
    """Tabulate the type bytes; None is refused (binary, extensions, the unused 0xc1)."""
    forms: list[_Form | None] = [None] * 256
    for byte in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
        forms[byte] = _Form(_SCALAR, 0)
    for byte, payload in zip(range(0xCA, 0xD4), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True):
        forms[byte] = _Form(_SCALAR, payload)
    for byte in range(0x80, 0x90):
        forms[byte] = _Form(_MAP, byte - 0x80)
    for byte in range(0x90, 0xA0):
        forms[byte] = _Form(_ARRAY, byte - 0x90)
    for byte in range(0xA0, 0xC0):
        forms[byte] = _Form(_TEXT, byte - 0xA0)
    u8, u16, u32 = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I")
    for byte, kind, size in (
        (0xD9, _TEXT, u8), (0xDA, _TEXT, u16), (0xDB, _TEXT, u32),
        (0xDC, _ARRAY, u16), (0xDD, _ARRAY, u32), (0xDE, _MAP, u16), (0xDF, _MAP, u32),
    ):  # fmt: skip
        forms[byte] = _Form(kind, 0, size)
    return tuple(forms)


_FORMS = _forms()


def scan(body: bytes, *, depth_max: int, values_max: int) -> None:
    """Check the shape of one msgpack value without building anything.

    Its cost is bounded by ``values_max``, not by the bytes: a text is stepped over.

    Raises:
        SandboxProtocolError: Too deep, too many values, a key that is no text, a type that JSON
            does not know, or an end that does not meet the end of the bytes.
    """
    position = 0
    values = 0
    pending: list[tuple[int, bool]] = []  # (values still to come, in a map) of the open containers
    left, in_map = 1, False
    while True:
        while left == 0:
            if not pending:
                if position != len(body):
                    raise SandboxProtocolError("bytes after the frame's value")
                return
            left, in_map = pending.pop()
        position, kind, payload = _read_head(body, position)
        if in_map and left % 2 == 0 and kind != _TEXT:
            raise SandboxProtocolError("a map's key is not text")
        left -= 1
        values += 1
        if kind < _ARRAY:
            position += payload
            continue
        children = payload if kind == _ARRAY else payload * 2
        if values + children > values_max:
            raise SandboxProtocolError(f"more than {values_max} values in a frame")
        if len(pending) >= depth_max:
            raise SandboxProtocolError(f"deeper than {depth_max} containers")
        pending.append((left, in_map))
        left, in_map = children, kind == _MAP


def _read_head(body: bytes, position: int) -> tuple[int, int, int]:
    """Return where the payload starts, its kind, and its bytes (or members)."""
    try:
        form = _FORMS[body[position]]
        if form is None:
            raise SandboxProtocolError(f"type byte {body[position]:#04x} is not allowed")
        position += 1
        if form.size is None:
            return position, form.kind, form.payload
        (payload,) = form.size.unpack_from(body, position)
        return position + form.size.size, form.kind, payload
    except (IndexError, struct.error):
        raise SandboxProtocolError("frame ends inside a value") from None

"""The security layer that a connection may begin with: SASL, as the service offers it. Pure.

MSSBCBS and ANONYMOUS come with nothing and need tokens; PLAIN brings the name of a key and the key,
and may touch everything. As with tokens, no key is checked.
"""

from __future__ import annotations

from bpa import amqp

_HEADER = b"AMQP\x03\x01\x00\x00"
_MECHANISMS = ("MSSBCBS", "PLAIN", "ANONYMOUS")
_INIT, _OUTCOME = b"\x00\x53\x41", b"\x00\x53\x44"
_OFFER = b"\x00\x53\x40"
_OK, _REFUSED = 0, 1
_FRAME_HEAD_BYTES = 8
_LARGEST_FRAME_BYTES = 4096
_SASL_FRAME = 1


class SaslFailed(Exception):
    """The peer broke the protocol or was refused; ``answer`` is what it is still to be sent."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.answer = answer


class SaslServer:
    """Answers the security layer, if there is one, and passes on what comes behind it."""

    def __init__(self) -> None:
        self._held = b""
        self._began = False
        self.finished = False
        self.trusted = False
        """Whether the peer has shown a key."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes in; return (bytes for the peer, bytes that are not ours).

        Raises:
            SaslFailed: The connection must end.
        """
        data, self._held = self._held + data, b""
        answer = b""
        if not self._began:
            if not data.startswith(_HEADER):
                self._hold_or_finish(data)
                return b"", data if self.finished else b""
            self._began = True
            data, answer = data[len(_HEADER) :], _HEADER + _frame(_OFFER, _offer())
        frame = self._cut(data)
        if frame is None:
            self._held = data
            return answer, b""
        return answer + self._answer_init(frame, answer), data[len(frame) :]

    def _hold_or_finish(self, data: bytes) -> None:
        if _HEADER.startswith(data):
            self._held = data
        else:
            self.finished = True

    def _cut(self, data: bytes) -> bytes | None:
        if len(data) < _FRAME_HEAD_BYTES:
            return None
        size = int.from_bytes(data[:4], "big")
        if not _FRAME_HEAD_BYTES <= size <= _LARGEST_FRAME_BYTES or data[5] != _SASL_FRAME:
            raise SaslFailed("the peer sent something else than a SASL frame")
        return data[:size] if len(data) >= size else None

    def _answer_init(self, frame: bytes, unsent: bytes) -> bytes:
        body = frame[4] * 4
        if frame[body : body + 3] != _INIT:
            raise SaslFailed("the peer sent something else than sasl-init")
        try:
            fields = amqp.items(frame, body + 3)
            mechanism = amqp.text(fields[0])
            response = b""
            if len(fields) > 1 and fields[1] != amqp.NULL:
                response = amqp.binary(fields[1], 0)
        except (amqp.MalformedMessage, IndexError) as error:
            raise SaslFailed("the peer sent a malformed sasl-init") from error
        self.trusted = mechanism == "PLAIN" and _holds_key(response)
        if mechanism not in _MECHANISMS or (mechanism == "PLAIN" and not self.trusted):
            refusal = unsent + _frame(_OUTCOME, _outcome(_REFUSED))
            raise SaslFailed(f"the SASL mechanism {mechanism} was refused", refusal)
        self.finished = True
        return _frame(_OUTCOME, _outcome(_OK))


def _holds_key(response: bytes) -> bool:
    parts = response.split(b"\x00")
    return len(parts) == 3 and bool(parts[1]) and bool(parts[2])


def _offer() -> bytes:
    names = b"".join(bytes((len(name),)) + name.encode() for name in _MECHANISMS)
    body = bytes((len(_MECHANISMS), 0xA3)) + names
    return amqp.encode_list([b"\xe0" + bytes((len(body),)) + body])


def _outcome(code: int) -> bytes:
    return amqp.encode_list([bytes((0x50, code))])


def _frame(descriptor: bytes, fields: bytes) -> bytes:
    size = _FRAME_HEAD_BYTES + len(descriptor) + len(fields)
    return size.to_bytes(4, "big") + bytes((2, _SASL_FRAME, 0, 0)) + descriptor + fields

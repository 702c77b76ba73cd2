"""The child's end of the frames: blocking, over the one descriptor it has.

A child has nothing to do while it waits for an answer, so it waits in ``recv`` and needs neither
a selector nor a second descriptor.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Any, Literal

from bpa.node.frames import (
    Answer,
    Call,
    Cancel,
    Decoder,
    Frame,
    FrameLimits,
    SandboxProtocolError,
    Sender,
    Task,
    encode,
)

_CHUNK_BYTES = 16_384


class Cancelled(Exception):
    """The parent asked the child to stop."""


class Refused(Exception):
    """The broker refused a call; ``code`` says why in a word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Channel:
    """One task in, calls out and their answers back."""

    def __init__(self, connection: socket.socket, limits: FrameLimits) -> None:
        self._connection = connection
        self._limits = limits
        self._decoder = Decoder(limits, Sender.PARENT)
        self._received: deque[Frame] = deque()
        self._calls = 0

    def send(self, frame: Frame) -> None:
        """Write one frame.

        Raises:
            SandboxProtocolError: The frame is larger than the limit.
            OSError: The parent is gone.
        """
        self._connection.sendall(encode(frame, self._limits))

    def task(self) -> Task:
        """Wait for the task, the first frame.

        Raises:
            Cancelled: There is none: the parent closed its end or thought better of it.
        """
        frame = self._receive()
        if not isinstance(frame, Task):
            raise SandboxProtocolError("the first frame is not a task")
        return frame

    def call(self, kind: Literal["model", "tool"], request: dict[str, Any]) -> Any:
        """Make one call and wait for its answer's value.

        Raises:
            Refused: The broker said no.
            Cancelled: The parent asked to stop instead.
        """
        self._calls += 1
        self.send(Call(self._calls, kind, request))
        answer = self._receive()
        if not isinstance(answer, Answer) or answer.id != self._calls:
            raise SandboxProtocolError("not the answer to the pending call")
        if answer.ok:
            return answer.value
        if answer.error is None:
            raise SandboxProtocolError("a refusal without a reason")
        raise Refused(answer.error.code, answer.error.message)

    def _receive(self) -> Frame:
        while not self._received:
            chunk = self._connection.recv(_CHUNK_BYTES)
            if not chunk:
                raise Cancelled("the node asked to stop")
            self._received.extend(self._decoder.feed(chunk))
        frame = self._received.popleft()
        if isinstance(frame, Cancel):
            raise Cancelled("the node asked to stop")
        return frame

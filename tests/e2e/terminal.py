"""A command at a terminal of a given width, and what stood on it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import termios

from rich.cells import cell_len

from tests.e2e.server import BPA, Bpa

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


async def shown(server: Bpa, *words: str, columns: int = 80, **environ: str) -> tuple[int, bytes]:
    """Run a command whose output is a terminal; return its exit code and what it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in server.environment.items() if k not in ("COLUMNS", "NO_COLOR")}
    process = await asyncio.create_subprocess_exec(
        BPA, *server.flags, *words,
        stdin=theirs, stdout=theirs, stderr=theirs,
        env={**environment, "TERM": "xterm-256color", **environ},
    )  # fmt: skip
    os.close(theirs)
    written = asyncio.create_task(asyncio.to_thread(_read_all, ours))
    try:
        code = await process.wait()
        return code, await written
    finally:
        os.close(ours)


def _read_all(terminal: int) -> bytes:
    written = b""
    with contextlib.suppress(OSError):  # what Linux says once nobody has the other end
        while part := os.read(terminal, 65_536):
            written += part
    return written


def lines_of(written: bytes) -> list[str]:
    """Return the lines that a reader sees, without colours."""
    return _ESCAPES.sub(b"", written).decode().replace("\r\n", "\n").split("\n")


def too_long(written: bytes, columns: int = 80) -> list[str]:
    """Return the lines that a terminal of so many columns has to break."""
    return [line for line in lines_of(written) if cell_len(line.split("\r")[-1]) > columns]

"""Log lines to a pipe that is read, or not."""

import os
import select

import pytest

from bpa import stderr
from bpa.stderr import LineStream


@pytest.fixture
def pipe(monkeypatch):
    """The stream and what reads it."""
    monkeypatch.setattr(stderr, "_PATIENCE_MS", 1)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield LineStream(writing), reading
    for fd in (reading, writing):
        os.close(fd)


def everything(fd):
    """What lies in the pipe."""
    found = b""
    while select.select([fd], [], [], 0)[0] and (data := os.read(fd, 65536)):
        found += data
    return found.decode()


def fill(stream, line="x" * 999 + "\n"):
    """Write until lines are dropped; how many fitted."""
    written = 0
    while not stream._dropped:
        stream.write(line)
        written += 1
    return written - 1


def test_lines_that_are_read_come_whole_and_in_order(pipe):
    stream, reading = pipe
    lines = [f"{n} {'é' * 3000}\n" for n in range(5)]
    for line in lines:
        assert stream.write(line) == len(line)
    stream.flush()
    assert everything(reading) == "".join(lines)


def test_a_pipe_that_nobody_reads_costs_lines_that_are_counted(pipe):
    stream, reading = pipe
    fitted = fill(stream)
    for _ in range(99):
        stream.write("lost\n")
    assert everything(reading) == ("x" * 999 + "\n") * fitted
    stream.write("read again\n")
    said, line = everything(reading).splitlines()
    assert said == '{"event": "log_lines_dropped", "level": "warning", "lines": 100}'
    assert line == "read again"


def test_a_line_cut_short_ends_before_the_next_begins(pipe):
    stream, reading = pipe
    fill(stream, "y" * 100_000 + "\n")
    torn = everything(reading)
    assert not torn.endswith("\n")
    stream.write("next\n")
    assert everything(reading).splitlines()[1:] == [
        '{"event": "log_lines_dropped", "level": "warning", "lines": 1}',
        "next",
    ]


def test_the_wait_for_room_is_paid_once(pipe):
    stream, reading = pipe
    fill(stream)
    assert stream._patience_ms == 0
    everything(reading)
    stream.write("read again\n")
    assert stream._patience_ms == 1


def test_a_pipe_whose_reader_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    stream = LineStream(writing)
    stream.write("to nobody\n")
    os.close(writing)
    assert stream._dropped == 1

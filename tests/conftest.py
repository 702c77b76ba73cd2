"""What holds for every test: it leaves no process behind, and its children hear a Ctrl-C."""

import contextlib
import signal
from collections.abc import Iterator

import psutil
import pytest


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    """Fail the session when a child of ours is still there after all fixtures are torn down."""
    yield
    left = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            left.append(f"{child.pid} {' '.join(child.cmdline()[:6])} ({child.status()})")
    assert not left, f"processes left behind: {left}"


@pytest.fixture(scope="session", autouse=True)
def an_interrupt_is_heard() -> None:
    """Let children hear SIGINT, which a shell without a terminal has its background jobs ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

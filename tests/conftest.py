"""What holds for every test: it leaves no process behind."""

import contextlib
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

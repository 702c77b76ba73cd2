"""What holds for every test: it leaves no process behind, and its children hear a Ctrl-C.

And what several kinds of them start from: a data directory, fresh or with a Postgres in it; the
programs that no Python package has.
"""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from bpa.embedded.postgres import EmbeddedPostgres
from observability.programs import Missing, Programs, programs


def pytest_configure(config: pytest.Config) -> None:
    """Draw the same examples each time; ``--hypothesis-seed=random`` or a number draws others."""
    settings.register_profile(
        "suite",
        parent=settings(),
        derandomize=config.getoption("hypothesis_seed") is None,
        deadline=None,  # an example that takes long on a busy machine is no failure
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("suite")


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


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """A loop for fixtures that outlive a test's; it never becomes the current one."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield runner


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A directory for a server of the test's own; it is not there yet."""
    return tmp_path / "data"


@pytest.fixture(scope="session")
def made_cluster(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which Postgres was started and stopped once; copy it."""
    path = tmp_path_factory.mktemp("cluster")

    async def start_and_stop() -> None:
        async with EmbeddedPostgres(path):
            pass

    runner.run(start_and_stop())
    return path


@pytest.fixture
def old_data_dir(made_cluster: Path, data_dir: Path) -> Path:
    """A data directory of the test's own that has had its first start, which is the slow one."""
    shutil.copytree(made_cluster, data_dir)
    return data_dir


@pytest.fixture(scope="session")
def prometheus() -> Programs:
    """Prometheus and promtool; skip where no apt could bring them, fail where it should have."""
    try:
        return programs()
    except Missing as missing:
        if missing.could_be_had:
            raise
        pytest.skip(str(missing))

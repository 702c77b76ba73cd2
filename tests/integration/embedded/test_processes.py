"""Children: ready lines, deaths with a reason, clean stops, and no orphans."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bpa.embedded.processes import ChildProcess, spawn_service
from bpa.errors import StartupError, Unavailable
from tests.eventually import eventually
from tests.integration.embedded.conftest import Hold, alive

SAY_READY = 'print(\'{"event": "ready", "port": 7}\', flush=True);'
IGNORE_STOP = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
PAUSE = "import signal; signal.pause()"


def _python(*statements: str) -> list[str]:
    return [sys.executable, "-c", "".join(statements)]


def _fill(path: Path, size: int) -> None:
    path.write_bytes(b"x" * size)


def _size(path: Path) -> int:
    return path.stat().st_size


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


async def test_a_service_is_returned_with_its_ready_line(log_path: Path) -> None:
    child, ready = await spawn_service(
        _python(
            "print('starting', flush=True);",
            'print(\'{"event": "other"}\', flush=True);',
            SAY_READY,
            PAUSE,
        ),
        name="service",
        log_path=log_path,
    )
    assert ready == {"event": "ready", "port": 7}
    assert alive(child.pid)
    await child.stop()
    assert not alive(child.pid)
    assert (await child.wait()).code == -signal.SIGTERM


async def test_a_service_that_ends_before_it_is_ready_says_why(log_path: Path) -> None:
    with pytest.raises(StartupError, match="service ended with exit code 3: no room") as caught:
        await spawn_service(
            _python("import sys; sys.stderr.write('no room\\n'); sys.exit(3)"),
            name="service",
            log_path=log_path,
        )
    assert "\n" not in str(caught.value)


async def test_a_service_that_is_never_ready_is_stopped(log_path: Path) -> None:
    with pytest.raises(StartupError, match=r"not ready within 0\.3 s"):
        await spawn_service(_python(PAUSE), name="service", log_path=log_path, ready_timeout_s=0.3)


async def test_a_program_that_does_not_exist_is_refused_in_one_line(log_path: Path) -> None:
    with pytest.raises(StartupError, match=r"cannot start /nowhere/server.*No such file"):
        await spawn_service(["/nowhere/server"], name="service", log_path=log_path)


async def test_an_earlier_starts_ready_line_does_not_count(log_path: Path) -> None:
    for port in (1, 2):
        say = SAY_READY.replace("7", str(port))
        child, ready = await spawn_service(_python(say, PAUSE), name="s", log_path=log_path)
        await child.stop()
        assert ready["port"] == port


async def test_a_child_that_ignores_the_polite_signal_is_killed_in_time(log_path: Path) -> None:
    child = ChildProcess(
        "stubborn", _python(IGNORE_STOP, SAY_READY, PAUSE), log_path=log_path, stop_timeout_s=0.2
    )
    async with child:
        await child.wait_for_line(lambda line: "ready" in line, timeout_s=10)
    assert (await child.wait()).code == -signal.SIGKILL


async def test_a_child_that_dies_by_itself_is_reported_with_code_and_last_lines(
    log_path: Path,
) -> None:
    async with ChildProcess(
        "mortal", _python("print('so long', flush=True); raise SystemExit(4)"), log_path=log_path
    ) as child:
        ended = await child.died()
        assert (ended.code, ended.last_lines) == (4, ("so long",))
        with pytest.raises(Unavailable, match="mortal ended with exit code 4: so long"):
            await child.watch()


async def test_a_stop_of_ours_is_no_death(log_path: Path) -> None:
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        async with ChildProcess("calm", _python(SAY_READY, PAUSE), log_path=log_path) as child:
            await child.wait_for_line(lambda line: "ready" in line, timeout_s=10)
            watching = group.create_task(child.watch())
        assert (await child.wait()).code == -signal.SIGTERM
        assert not watching.done()
        watching.cancel()


async def test_a_child_sees_no_secret_of_our_environment(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    code = "import os; print('saw', sorted(os.environ), flush=True)"
    async with ChildProcess("curious", _python(code), log_path=log_path) as child:
        seen = await child.wait_for_line(lambda line: "saw" in line, timeout_s=10)
    assert "PATH" in seen
    assert "ANTHROPIC" not in seen


async def test_a_child_has_a_process_group_of_its_own_and_default_signals(log_path: Path) -> None:
    code = "import signal; print('pipe', signal.getsignal(signal.SIGPIPE), flush=True);"
    shell = f"{sys.executable} -c '{code}'; kill -PIPE $$; sleep 60"
    async with ChildProcess("child", ["/bin/sh", "-c", shell], log_path=log_path) as child:
        assert os.getpgid(child.pid) == child.pid
        ended = await child.died()
    assert ended.code == -signal.SIGPIPE


async def test_a_large_log_is_set_aside_before_a_start(log_path: Path) -> None:
    size = 8 * 1024 * 1024 + 1
    _fill(log_path, size)
    child, _ = await spawn_service(_python(SAY_READY, PAUSE), name="service", log_path=log_path)
    await child.stop()
    assert 0 < _size(log_path) < 1000
    assert _size(log_path.with_name("child.log.1")) == size


async def test_a_kill_9_of_the_parent_ends_the_child(tmp_path: Path, hold: Hold) -> None:
    holder = await hold(tmp_path, "service")
    pid = holder.ready["service_pid"]
    assert alive(pid)
    await holder.kill()
    await eventually(lambda: not alive(pid), within_s=2)


async def test_a_child_whose_parent_is_gone_before_it_asked_does_not_start(log_path: Path) -> None:
    child = ChildProcess("late", _python(SAY_READY, PAUSE), log_path=log_path)
    argv: list[str] = []

    def remember(words: list[str], **options: object) -> object:
        words[words.index(str(os.getpid()))] = "1"  # not our id: as if we had been replaced
        argv.extend(words)
        return original(words, **options)

    original = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", remember)
        child.start()
    assert argv
    ended = await child.wait()
    assert ended.code == 1
    assert ended.last_lines == ("the parent is gone already",)


async def test_a_start_works_while_other_threads_hold_locks(log_path: Path) -> None:
    lock, done = threading.Lock(), threading.Event()
    thread = threading.Thread(target=lambda: (lock.acquire(), done.wait()))
    thread.start()
    try:
        child, _ = await spawn_service(_python(SAY_READY, PAUSE), name="s", log_path=log_path)
        await child.stop()
    finally:
        done.set()
        thread.join()

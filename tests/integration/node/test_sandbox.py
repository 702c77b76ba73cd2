"""A sandbox inherits nothing, can do nothing, and when it misbehaves only its own run fails."""

import asyncio
import contextlib
import ctypes
import os
import re
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bpa.domain.sandboxes import Protection, SandboxLevel, level_of
from bpa.errors import StartupError, Unavailable
from bpa.node.confine import CHANNEL_FD, NOBODY
from bpa.node.frames import Done, SandboxProtocolError
from bpa.node.sandbox import Sandbox, SandboxLimits
from bpa.node.zygote import AGENT_ENTRY, Zygote
from tests.eventually import eventually
from tests.integration.node.scripted import PROBES, Conversation, converse, lives, task

LIMITS = SandboxLimits(memory_bytes=64 << 20, cpu_s=1, frames_per_s=100)
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
SECRET = "sk-this-must-not-travel"


@pytest.fixture
async def zygote(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Zygote]:
    monkeypatch.setenv("BPA_TEST_SECRET", SECRET)
    async with Zygote(limits=LIMITS, entry=PROBES) as zygote:
        yield zygote


async def probe(zygote: Zygote, document: str) -> Conversation:
    return await converse(await zygote.spawn(task(document)))


async def assert_still_works(zygote: Zygote) -> None:
    assert (await probe(zygote, "report")).last == Done("report")


async def test_a_child_is_confined_in_every_way_that_needs_no_privilege(zygote: Zygote) -> None:
    with socket.socket() as inherited:  # open before the fork, and inheritable on top
        inherited.set_inheritable(True)
        conversation = await probe(zygote, "report")
    (log,) = conversation.logs
    seen = log.fields
    as_root = os.geteuid() == 0
    assert seen["environ"] in ({}, {"LC_CTYPE": "C.UTF-8"})  # the interpreter sets that one
    assert seen["descriptors"] == [CHANNEL_FD]
    assert seen["is_child_of_zygote"]
    assert seen["leads_session"]
    assert seen["umask"] == 0o077
    assert seen["pdeathsig"] == signal.SIGKILL
    assert seen["dumpable"] == 0
    assert seen["no_new_privs"] == 1
    assert set(seen["uids"]) == {NOBODY if as_root else os.getuid()}
    if as_root:
        assert set(seen["gids"]) == {NOBODY}
    zeroes = {name for name, values in seen["rlimits"].items() if values == [0, 0]}
    assert zeroes == {"RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_CORE"}
    assert seen["rlimits"]["RLIMIT_CPU"] == [1, 1]
    refused = seen["refused"]
    assert refused["open"] == refused["socket"] == refused["dup"] == "OSError"
    if not is_root_outside(os.getuid()):  # whom the kernel exempts from RLIMIT_NPROC
        assert refused["fork"] == "BlockingIOError"
    if as_root:
        assert refused["kill_parent"] == "PermissionError"
    assert conversation.status is not None
    assert conversation.status.code == 0


async def test_what_a_node_publishes_of_its_sandboxes_is_what_a_child_meets(zygote: Zygote) -> None:
    (log,) = (await probe(zygote, "report")).logs
    seen, held = log.fields, {*zygote.protections}
    met = {
        Protection.OWN_USER: os.getuid() not in seen["uids"],
        Protection.OWN_SESSION: seen["leads_session"],
        Protection.ENDS_WITH_NODE: seen["pdeathsig"] == signal.SIGKILL,
        Protection.OPENS_NOTHING: seen["refused"]["open"] == "OSError",
        Protection.STARTS_NOTHING: seen["refused"]["fork"] == "BlockingIOError",
        Protection.CPU_LIMIT: seen["rlimits"]["RLIMIT_CPU"] == [1, 1],
        Protection.MEMORY_LIMIT: (await probe(zygote, "hog")).last is None,
        Protection.NO_NEW_PRIVILEGES: seen["no_new_privs"] == 1,
        Protection.MEMORY_HIDDEN: seen["dumpable"] == 0,
    }
    assert held == {protection for protection, is_met in met.items() if is_met}
    if not is_root_outside(os.getuid()):
        assert level_of(held) is (SandboxLevel.USER if os.geteuid() == 0 else SandboxLevel.PROCESS)


@pytest.mark.parametrize(
    ("hole", "lost"),
    [
        ("limits", {"opens_nothing", "starts_nothing", "memory_limit", "cpu_limit"}),
        ("attributes", {"ends_with_node", "no_new_privileges"}),
        ("session_and_user", {"own_session"}),
    ],
)
async def test_a_protection_that_does_not_hold_is_not_published(hole: str, lost: set[str]) -> None:
    entry = f"tests.integration.node.probes:prepare_without_{hole}"
    async with Zygote(limits=LIMITS, entry=entry) as zygote:
        held = {*zygote.protections}
    assert not lost & held
    assert held, "the others are tried all the same"
    assert level_of(held) is SandboxLevel.PARTIAL
    if hole == "session_and_user":
        assert Protection.OWN_USER not in held


async def test_the_memory_of_a_node_is_closed_to_others_of_its_user() -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    async with Zygote(limits=LIMITS, entry=PROBES):
        assert libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0


async def test_the_zygote_carries_neither_environment_nor_secret_nor_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BPA_TEST_SECRET", SECRET)
    async with Zygote(limits=SandboxLimits(), entry=AGENT_ENTRY) as zygote:
        assert zygote.pid is not None
        assert proc(zygote.pid, "environ") == ""
        assert memory_holds(os.getpid(), SECRET)
        assert not memory_holds(zygote.pid, SECRET)
        assert len(os.listdir(f"/proc/{zygote.pid}/task")) == 1


async def test_the_agent_brings_no_network_client_into_the_zygote() -> None:
    clients = {"anthropic", "httpx", "httpx2", "aiohttp", "azure", "mcp", "requests", "grpclib"}
    entry = "tests.integration.node.probes:prepare_beside_the_agent"
    async with Zygote(limits=SandboxLimits(), entry=entry) as zygote:
        (log,) = (await probe(zygote, "report")).logs
    modules = {module.partition(".")[0] for module in log.fields["modules"]}
    assert "agent_framework" in modules
    assert not clients & modules


def children_of(zygote: Zygote) -> list[int]:
    return [int(pid) for pid in proc(zygote.pid, f"task/{zygote.pid}/children").split()]


def is_root_outside(uid: int) -> bool:
    """Tell whether a user is root only by another name, from within a user namespace."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= uid < inside + count:
            return uid != 0 and outside + uid - inside == 0
    return False


def proc(pid: int | None, file: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_text()


def memory_holds(pid: int, text: str) -> bool:
    """Search the private writable memory of a process."""
    needle = text.encode()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ \d+\s*(\S*)", line)
            if match is None or match[3] in ("[vvar]", "[vsyscall]"):
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            memory.seek(start)
            if needle in memory.read(end - start):
                return True
    return False


async def test_a_memory_hog_ends_alone(zygote: Zygote) -> None:
    async with await zygote.spawn(task("wait")) as bystander:
        hog = await probe(zygote, "hog")
        assert hog.last is None
        assert hog.status is not None
        assert hog.status.code == 70
        assert hog.status.rss_bytes_max > 60 << 20
        assert lives(bystander.pid)
    await assert_still_works(zygote)


async def test_a_spinning_child_ends_at_its_processor_limit(zygote: Zygote) -> None:
    spinner = await probe(zygote, "spin")
    assert spinner.status is not None
    assert spinner.status.signal in (signal.SIGKILL, signal.SIGXCPU)
    assert spinner.status.cpu_s > 0.5  # the kernel counts the limit in ticks
    await assert_still_works(zygote)


async def test_a_child_past_its_deadline_is_killed_by_the_clock_of_the_node(
    zygote: Zygote,
) -> None:
    async with await zygote.spawn(task("spin")) as spinner:
        spinner.cancel()  # polite, and in vain
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await spinner.receive()
        status = await spinner.kill()
        assert status.signal == signal.SIGKILL
        assert status.reason == "killed by SIGKILL"
        assert await spinner.receive() is None
        assert await spinner.kill() is status
    assert not lives(spinner.pid)
    await assert_still_works(zygote)


async def test_a_kill_ends_a_receive_that_is_under_way(zygote: Zygote) -> None:
    async with await zygote.spawn(task("spin")) as spinner, asyncio.TaskGroup() as group:
        received = group.create_task(spinner.receive())
        await spinner.kill()
    assert received.result() is None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("flood", "frames a second"),
        ("garbage", "not a known frame|after the frame"),
        ("oversized", "exceeds the limit"),
        ("cut", "inside a frame"),
    ],
)
async def test_a_child_that_breaks_the_protocol_is_found_out(
    zygote: Zygote, document: str, message: str
) -> None:
    sandbox = await zygote.spawn(task(document))
    with pytest.raises(SandboxProtocolError, match=message):
        await converse(sandbox)
    assert not lives(sandbox.pid)
    await assert_still_works(zygote)


async def test_a_child_that_floods_slowly_ends_at_the_number_of_its_frames() -> None:
    limits = SandboxLimits(frames_max=40, frames_per_s=1e9)
    async with Zygote(limits=limits, entry=PROBES) as zygote:
        with pytest.raises(SandboxProtocolError, match="more than 40 frames"):
            await converse(await zygote.spawn(task("flood")))


@pytest.mark.parametrize(("document", "reason"), [("quit", "exit code 70"), ("crash", "SIGSEGV")])
async def test_how_a_child_ended_is_told(zygote: Zygote, document: str, reason: str) -> None:
    ended = await probe(zygote, document)
    assert ended.last is None
    assert ended.status is not None
    assert reason in ended.status.reason
    await assert_still_works(zygote)


async def test_what_is_sent_to_a_dead_child_is_dropped(zygote: Zygote) -> None:
    sandbox = await zygote.spawn(task("quit"))
    await sandbox.wait()
    await sandbox.send(task())
    sandbox.cancel()
    assert await sandbox.receive() is None
    await sandbox.send(task())


async def test_a_child_forked_ahead_that_was_killed_is_replaced(zygote: Zygote) -> None:
    (idle,) = await eventually(lambda: children_of(zygote))
    os.kill(idle, signal.SIGKILL)
    await eventually(lambda: not lives(idle))
    sandbox = await zygote.spawn(task("report"))
    assert sandbox.pid != idle
    assert (await converse(sandbox)).last == Done("report")


async def test_a_spawn_that_is_cancelled_leaves_no_child() -> None:
    async with Zygote(limits=LIMITS, entry=PROBES, ahead=0) as zygote:
        for _ in range(5):
            spawning = asyncio.ensure_future(zygote.spawn(task("wait")))
            await asyncio.wait([spawning], timeout=0)
            spawning.cancel()
            await asyncio.wait([spawning])
            assert spawning.cancelled()
        await eventually(lambda: not children_of(zygote))
        await assert_still_works(zygote)


@contextlib.contextmanager
def no_descriptors_left(pid: int = 0) -> Iterator[None]:
    """Let a process (this one) open nothing more for a while; what is open stays open."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_node_without_descriptors_has_no_sandbox_until_it_has_some() -> None:
    async with Zygote(limits=LIMITS, entry=PROBES, ahead=0) as zygote:
        with no_descriptors_left(), pytest.raises(Unavailable, match="no socket for a child"):
            await zygote.spawn(task("report"))
        await assert_still_works(zygote)


async def test_a_zygote_without_descriptors_refuses_a_fork_and_lives() -> None:
    async with Zygote(limits=LIMITS, entry=PROBES, ahead=0) as zygote:
        pid = zygote.pid
        assert pid is not None
        refusal = "the zygote cannot fork: the zygote has no descriptor"
        with no_descriptors_left(pid), pytest.raises(Unavailable, match=refusal):
            await zygote.spawn(task("report"))
        await assert_still_works(zygote)
        assert zygote.pid == pid


async def test_a_child_that_waits_is_given_out_although_no_other_can_be_forked(
    zygote: Zygote,
) -> None:
    (idle,) = await eventually(lambda: children_of(zygote))
    await zygote._waiting[0]
    with no_descriptors_left():
        sandbox = await zygote.spawn(task("report"))
    assert sandbox.pid == idle
    assert (await converse(sandbox)).last == Done("report")
    await assert_still_works(zygote)


async def test_a_child_whose_descriptor_was_dropped_fails_its_spawn_alone() -> None:
    async with Zygote(limits=LIMITS, entry=PROBES, ahead=0) as zygote:
        pending = zygote._fork()
        with no_descriptors_left(), pytest.raises(Unavailable, match="no descriptor for child"):
            await pending
        await eventually(lambda: not children_of(zygote))
        await assert_still_works(zygote)


async def test_closing_the_zygote_ends_every_child() -> None:
    children: list[Sandbox] = []
    async with Zygote(limits=LIMITS, entry=PROBES, ahead=2) as zygote:
        children += [await zygote.spawn(task("wait")) for _ in range(3)]
        pids = [child.pid for child in children]
        assert all(map(lives, pids))
        assert zygote.pid is not None
        pids.append(zygote.pid)
    await eventually(lambda: not any(map(lives, pids)))
    assert [await child.receive() for child in children] == [None] * 3


async def test_a_zygote_that_cannot_start_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    zygote = Zygote(limits=LIMITS, entry="tests.integration.node.probes:broken_preparation")
    with pytest.raises(StartupError):
        await zygote.start()
    assert "this zygote cannot start" in capfd.readouterr().err
    assert zygote.pid is not None
    assert not lives(zygote.pid)


async def test_a_machine_that_refuses_the_confinement_is_found_out_at_the_start() -> None:
    entry = "tests.integration.node.probes:prepare_where_limits_are_refused"
    zygote = Zygote(limits=LIMITS, entry=entry)
    with pytest.raises(StartupError, match=r"cannot be confined.*limits are refused here"):
        await zygote.start()
    assert zygote.pid is not None
    assert not lives(zygote.pid)


@pytest.mark.parametrize(
    "wrong", [{"uid": 0}, {"uid": 2**32 - 1}, {"uid": -1}, {"memory_bytes": -1}, {"cpu_s": 0.0}]
)
def test_limits_that_would_not_confine_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SandboxLimits(**wrong)

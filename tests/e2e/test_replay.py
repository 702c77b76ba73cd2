"""Dead letters replayed with the installed ``bpa``, once mended, edited, and cut off by a kill."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.fleet import Backing, Fleet, backing
from tests.e2e.queues import dead_letters, documents, emptied, send
from tests.e2e.server import BPA, Bpa, nobody_lives
from tests.eventually import eventually

TEMPLATE = next(d for d in documents() if d.name.startswith("006-lindner"))
NUMBER = TEMPLATE.expected["invoice_id"].encode()
QUEUE = "replay-killed"
HOLD = 4711
"""The advisory lock at which a replay is held between the send and what it writes down of it."""


def invoice(number: str) -> tuple[bytes, str]:
    """Return a document of its own, known to scripts by its invoice id."""
    return TEMPLATE.body.replace(NUMBER, number.encode()), TEMPLATE.content_type


async def refuse(server: Bpa, *numbers: str) -> None:
    """Have the target answer 400 to these invoices, which closes no road to it for others."""
    rules = [{"match": {"invoice_id": number}, "status": 400} for number in numbers]
    await server.put("/_target/script", {"rules": rules}, "target")


async def failed(server: Bpa, number: str, queue: str = "invoices") -> dict[str, Any]:
    """Send an invoice that the target refuses; return its dead-lettered run."""
    bus = server.addresses["service_bus"]
    await refuse(server, number)
    (trace_id,) = await send(bus, [invoice(number)], queue)
    ended = (await server.ended_of([trace_id]))[trace_id]
    assert (ended["status"], ended["reason"]) == ("dead_lettered", "NonRetryableHttpStatus")

    async def buried() -> bool:
        return trace_id in await dead_letters(bus, queue)

    await eventually(buried, within_s=20, every_s=0.1)
    await refuse(server)
    return dict(await server.get(f"/v1/runs/{ended['runId']}"))


async def told(server: Bpa, *words: str) -> tuple[int, str, str]:
    """Run a command against this server; return its exit code and what it printed."""
    url = f"control.url={server.addresses['http']}"
    return await server.run("--set", url, *words, "--json")


async def bpa(server: Bpa, *words: str, code: int = 0) -> Any:
    """Run a command against this server with ``--json``; return what it printed."""
    found, out, err = await told(server, *words)
    assert found == code, (words, found, out, err)
    return json.loads(out) if out else None


async def letter_of(server: Bpa, run_id: str) -> dict[str, Any]:
    letters = (await bpa(server, "dlq", "list", "--limit", "1000"))["deadLetters"]
    (letter,) = [letter for letter in letters if letter["runId"] == run_id]
    return dict(letter)


async def completed(server: Bpa, run_id: str) -> dict[str, Any]:
    """Wait for a run's completion and return it whole."""

    async def probe() -> dict[str, Any]:
        run = await server.get(f"/v1/runs/{run_id}")
        assert run["status"] == "completed", (run["status"], run["reason"], run["waitingReason"])
        return dict(run)

    return await eventually(probe, within_s=60, every_s=0.2)


async def test_a_dead_letter_of_a_mended_target_is_applied_once_under_its_first_key_and_bytes(
    server: Bpa,
) -> None:
    original = await failed(server, "REPLAY-1")
    letter = await letter_of(server, original["runId"])
    asked = await server.model_requests()
    shown = await bpa(server, "dlq", "show", letter["id"])
    assert [effect["effectKey"] for effect in shown["sent"]] == [original["effectKey"]]

    dry = await bpa(server, "dlq", "replay", "--id", letter["id"], "--dry-run")
    assert (dry["dryRun"], dry["results"][0]["runId"]) == (True, None)
    assert (await letter_of(server, original["runId"]))["halfReplayedAs"] is None

    (result,) = (await bpa(server, "dlq", "replay", "--id", letter["id"]))["results"]
    assert result["result"] == "replayed"
    run = await completed(server, result["runId"])

    tried = (await server.tries())[original["effectKey"]]
    assert (tried["tries"], tried["bodies"], tried["applied"]) == (2, 1, True)
    (applied,) = [i for i in await server.received() if i["body"]["invoice_id"] == "REPLAY-1"]
    assert applied["body"]["run_id"] == original["runId"], "the bytes are those of the first try"
    assert await server.model_requests() == asked, "no answer was paid for again"
    assert (run["costUsd"], run["tokensUsed"], run["effectKey"]) == ("0", 0, original["effectKey"])
    assert {step["inheritedFrom"] for step in run["steps"]} == {original["runId"]}
    await emptied(server.addresses["service_bus"])
    await bpa(server, "dlq", "show", letter["id"], code=3)
    await bpa(server, "dlq", "replay", "--id", letter["id"], code=3)


async def test_an_edited_dead_letter_is_applied_under_a_key_of_its_own(
    server: Bpa, tmp_path: Path
) -> None:
    original = await failed(server, "REPLAY-2")
    letter = await letter_of(server, original["runId"])
    file = tmp_path / "mended.json"
    file.write_bytes(invoice("REPLAY-2b")[0])

    replay = ("dlq", "replay", "--id", letter["id"], "--edit", str(file))
    (result,) = (await bpa(server, *replay))["results"]  # it was refused: nothing to ask
    run = await completed(server, result["runId"])

    assert (result["edited"], result["inheritedSteps"]) == (True, 0)
    assert run["effectKey"].startswith(run["runId"])
    assert (await server.tries())[original["effectKey"]]["applied"] is False
    numbers = [item["body"]["invoice_id"] for item in await server.received()]
    assert (numbers.count("REPLAY-2"), numbers.count("REPLAY-2b")) == (0, 1)


async def test_a_dead_lettered_run_is_retried_by_its_id(server: Bpa) -> None:
    original = await failed(server, "REPLAY-3")
    retried = await bpa(server, "runs", "retry", original["runId"])
    run = await completed(server, retried["replayed"]["runId"])
    assert run["effectKey"] == original["effectKey"]
    await bpa(server, "runs", "retry", original["runId"], code=5)
    await bpa(server, "runs", "retry", run["runId"], code=5)


async def test_dead_letters_of_a_reason_are_replayed_at_a_rate_and_the_rest_stays(
    server: Bpa,
) -> None:
    runs = [await failed(server, f"REPLAY-4{letter}") for letter in "abc"]
    bus = server.addresses["service_bus"]
    (broken,) = await send(bus, [(b"{", "application/json")])
    await server.ended_of([broken])

    words = ("dlq", "replay", "--reason", "NonRetryableHttpStatus", "--rate", "2", "--yes")
    done = await bpa(server, *words)

    operation = done["operation"]
    assert (operation["ratePerS"], operation["succeeded"]) == (2, operation["items"])
    for run in runs:
        replayed = (await server.get(f"/v1/runs/{run['runId']}"))["replayedAs"]
        assert (await completed(server, replayed))["effectKey"] == run["effectKey"]
    left = await dead_letters(bus)
    assert broken in left
    assert not {run["traceId"] for run in runs} & set(left)


async def at_a_terminal(server: Bpa, answer: str, *words: str) -> tuple[int, str, str]:
    """Run a command whose standard input is a terminal at which somebody types."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            BPA, *server.flags, "--set", f"control.url={server.addresses['http']}", *words,
            stdin=theirs, stdout=PIPE, stderr=PIPE, env=server.environment,
        )  # fmt: skip
        os.write(ours, f"{answer}\n".encode())
        out, err = await process.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_everything_is_replayed_only_by_who_says_so(server: Bpa) -> None:
    await failed(server, "REPLAY-6")
    before = (await bpa(server, "dlq", "list", "--limit", "1000"))["deadLetters"]

    code, out, err = await told(server, "dlq", "replay")
    assert (code, out, "--yes" in err) == (2, "", True)
    code, out, err = await at_a_terminal(server, "n", "dlq", "replay")
    assert (code, out) == (130, "")
    letters = "dead letter" if len(before) == 1 else "dead letters"
    assert f"replay all {len(before)} {letters}? [y/N]" in err
    code, _, err = await at_a_terminal(server, "y", "dlq", "replay", "--no-input")
    assert (code, "--yes" in err) == (2, True)
    assert (await bpa(server, "dlq", "list", "--limit", "1000"))["deadLetters"] == before

    words = ("dlq", "replay", "--reason", "NonRetryableHttpStatus", "--limit", "1", "--json")
    code, out, err = await at_a_terminal(server, "y", *words)
    assert (code, json.loads(out)["operation"]["items"]) == (0, 1), err
    assert "replay 1 dead letter with NonRetryableHttpStatus? [y/N]" in err


@pytest.fixture(scope="module")
def servers(
    runner: asyncio.Runner, made_cluster: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backing]:
    """The stores and doubles of control and a node as processes of their own."""
    stack = AsyncExitStack()
    directory = tmp_path_factory.mktemp("backing")
    yield runner.run(stack.enter_async_context(backing(directory, made_cluster)))
    runner.run(stack.aclose())


@asynccontextmanager
async def held_after_the_send(dsn: str) -> AsyncIterator[None]:
    """Hold every replay where it has sent its message and notes that; cut it off at the end."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            f"""
            create function hold() returns trigger language plpgsql as $$
            begin perform pg_advisory_xact_lock({HOLD}); return new; end $$;
            create trigger hold before update of sent_at on replays
            for each row execute function hold();
            select pg_advisory_lock({HOLD});
            """
        )
        yield
        await connection.execute(
            f"""
            select pg_terminate_backend(pid) from pg_locks
            where locktype = 'advisory' and objid = {HOLD} and not granted;
            drop trigger hold on replays;
            """
        )


async def test_a_replay_whose_control_is_killed_after_the_send_is_finished_by_repeating_it(
    servers: Backing, tmp_path: Path
) -> None:
    settings = await servers.settings()
    fleet = Fleet(tmp_path, settings, servers.local)
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(fleet.governed())
        ports = {
            f"control.{kind}_port": control.addresses[kind].rpartition(":")[2]
            for kind in ("grpc", "http")
        }
        await stack.enter_async_context(fleet.node("only", "aus-east"))
        await fleet.deploy(QUEUE, ["aus-east"])
        bus = control.addresses["service_bus"]
        original = await failed(control, "REPLAY-5", QUEUE)
        letter = await letter_of(control, original["runId"])

        async with held_after_the_send(settings["postgres.dsn"]):
            replaying = asyncio.create_task(told(control, "dlq", "replay", "--id", letter["id"]))

            async def arrived() -> str:
                new = {run["runId"] for run in await control.runs()} - {original["runId"]}
                assert len(new) == 1, new
                return str(new.pop())

            run_id = await eventually(arrived, within_s=30, every_s=0.1)
            await completed(control, run_id)
            assert not replaying.done(), "the replay is between its send and its end"
            await nobody_lives(await control.kill())
            code, _, err = await replaying
            assert code == 6, err
        assert len(await dead_letters(bus, QUEUE)) == 1, "the kill came before the end"

        again = await stack.enter_async_context(fleet.governed(**ports))
        assert (await letter_of(again, original["runId"]))["halfReplayedAs"] == run_id

        async def finished() -> dict[str, Any]:
            code, out, err = await told(again, "dlq", "replay", "--id", letter["id"])
            assert code == 0, (out, err)  # 5 while the killed control's lock lasts
            return dict(json.loads(out)["results"][0])

        result = await eventually(finished, within_s=40, every_s=0.5)
        assert (result["result"], result["runId"]) == ("settled", run_id)
        assert await dead_letters(bus, QUEUE) == {}
        await emptied(bus, QUEUE, within_s=20)
        assert {run["runId"] for run in await again.runs()} == {original["runId"], run_id}
        tried = (await again.tries())[original["effectKey"]]
        assert (tried["bodies"], tried["applied"]) == (1, True)
        numbers = [item["body"]["invoice_id"] for item in await again.received()]
        assert numbers.count("REPLAY-5") == 1


async def test_an_operation_whose_control_is_killed_amid_an_item_does_each_of_them_once(
    servers: Backing, tmp_path: Path
) -> None:
    settings = await servers.settings()
    fleet, queue = Fleet(tmp_path, settings, servers.local), "operation-killed"
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(fleet.governed())
        ports = {
            f"control.{kind}_port": control.addresses[kind].rpartition(":")[2]
            for kind in ("grpc", "http")
        }
        await stack.enter_async_context(fleet.node("only", "aus-east"))
        await fleet.deploy(queue, ["aus-east"])
        numbers = [f"OPERATION-{letter}" for letter in "abcd"]
        originals = [await failed(control, number, queue) for number in numbers]

        async with held_after_the_send(settings["postgres.dsn"]):
            asked = {"action": "replay", "deadLetters": {"queue": queue}}
            operation = await control.post("/v1/operations", asked)
            assert operation["items"] == len(numbers)

            async def arrived() -> bool:
                return len(await control.runs()) == len(numbers) + 1

            await eventually(arrived, within_s=30, every_s=0.1)
            await nobody_lives(await control.kill())

        again = await stack.enter_async_context(fleet.governed(**ports))
        path = f"/v1/operations/{operation['id']}"
        assert (await again.get(path))["state"] == "running"

        async def done() -> dict[str, Any]:
            await due_now(settings["postgres.dsn"])
            shown = dict(await again.get(path))
            assert shown["state"] == "done", shown
            return shown

        counts = (await eventually(done, within_s=60, every_s=0.5))["counts"]
        assert sum(counts.values()) == len(numbers)
        assert set(counts) <= {"replayed", "settled"}, "settled: what was sent before the kill"
        assert await dead_letters(again.addresses["service_bus"], queue) == {}
        for original in originals:
            replayed = (await again.get(f"/v1/runs/{original['runId']}"))["replayedAs"]
            await completed(again, replayed)
            tried = (await again.tries())[original["effectKey"]]
            assert (tried["bodies"], tried["applied"]) == (1, True)
        assert len(await again.runs()) == 2 * len(numbers)
        received = [item["body"]["invoice_id"] for item in await again.received()]
        assert sorted(one for one in received if one in numbers) == numbers


async def due_now(dsn: str) -> None:
    """Let the time go by that items are left to whoever took them."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("update operation_items set due_at = now() where result is null")

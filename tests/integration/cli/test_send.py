"""``bpa send`` against the emulator: all of it, none of it, or a part that is told."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bpa.cli import cli
from bpa.connectors.service_bus import ServiceBusPublisher
from bpa.errors import InvalidRequest
from tests.integration.connectors.queues import QUEUE, emulator


async def send(address: str, *words: str, files: list[Path]) -> Result:
    """Run the command in a thread: it has an event loop of its own."""
    runner = CliRunner(env={"BPA_SERVICE_BUS__CONNECTION_STRING": address})
    return await asyncio.to_thread(runner.invoke, cli, ["send", *words, *map(str, files)])


def answer(result: Result) -> str:
    """Return the last line: the emulator, in this process too, logs before it."""
    return result.stdout.splitlines()[-1]


def documents(folder: Path, *sizes: int) -> list[Path]:
    files = [folder / f"{number}.txt" for number in range(len(sizes))]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(b"x" * size)
    return files


async def test_all_are_sent_also_one_that_travels_alone(tmp_path: Path):
    files = documents(tmp_path, 10, 250_000, 10)
    async with emulator() as broker:
        result = await send(broker.connection_string, files=files)
        assert (result.exit_code, answer(result)) == (0, f"3 sent to {QUEUE}")
        assert broker._broker.queues[QUEUE].counts().active == 3


@pytest.mark.parametrize("place", [0, 2])
async def test_a_file_that_is_too_large_is_named_and_nothing_is_sent(tmp_path: Path, place: int):
    sizes = [150_000] * 3
    sizes[place] = 300_000
    files = documents(tmp_path, *sizes)
    async with emulator() as broker:
        error = (await send(broker.connection_string, files=files)).exception
        assert isinstance(error, InvalidRequest)
        assert error.exit_code == 2
        assert str(error).startswith(f"nothing was sent\n{files[place]}: 300,")
        assert broker._broker.queues[QUEUE].counts().active == 0


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
async def test_what_was_sent_before_the_broker_went_is_told_from_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
):
    files = documents(tmp_path, 150_000, 150_000, 10)
    whole, here = ServiceBusPublisher.send, asyncio.get_running_loop()

    async with emulator() as broker:

        async def hang_up() -> None:
            for connection in [*broker._connections]:
                connection.abort()

        async def cut_after_the_first(publisher, messages, accepted):
            def then_cut(count: int) -> None:
                accepted(count)
                asyncio.run_coroutine_threadsafe(hang_up(), here).result()

            await whole(publisher, messages, then_cut)

        monkeypatch.setattr(ServiceBusPublisher, "send", cut_after_the_first)
        result = await send(broker.connection_string, *words, files=files)
        assert result.exit_code == 7
        assert f"1 of 3 sent, up to {files[0]}; not sent" in result.stderr
        assert result.stderr.rstrip().endswith(f": {files[1]} {files[2]}")
        if words:
            told = json.loads(answer(result))
            assert told == {"queue": QUEUE, "sent": 1, "notSent": [str(f) for f in files[1:]]}
        assert broker._broker.queues[QUEUE].counts().active == 1

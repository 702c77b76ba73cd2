"""The local default's servers as children of whoever wants them."""

import aiohttp

from bpa.config import load
from bpa.embedded.stack import local_stack

ELSEWHERE = {
    "postgres.dsn": "postgresql://elsewhere",
    "redis.url": "redis://elsewhere",
    "service_bus.connection_string": "Endpoint=sb://elsewhere",
    "anthropic.api_key": "k",
    "embedded.target_port": "0",
}


async def test_files_where_the_command_was_given_are_not_taken_for_modules(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('not the standard library')")
    monkeypatch.chdir(tmp_path)
    settings = load({}, flags={**ELSEWHERE, "data_dir": str(tmp_path / "data")}).settings
    async with local_stack(settings) as stack, aiohttp.ClientSession() as session:
        async with session.get(f"{stack.target_url}/health") as answer:
            assert answer.status == 200
        assert list(stack.children) == ["target"]

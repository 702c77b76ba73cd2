"""The local default's servers as children of whoever wants them."""

import aiohttp

from bpa.config import load
from bpa.embedded.stack import local_stack

ELSEWHERE = {
    "BPA_POSTGRES__DSN": "postgresql://elsewhere",
    "BPA_REDIS__URL": "redis://elsewhere",
    "BPA_SERVICE_BUS__CONNECTION_STRING": "Endpoint=sb://elsewhere",
    "BPA_ANTHROPIC__API_KEY": "k",
    "BPA_EMBEDDED__TARGET_PORT": "0",
}


async def test_files_where_the_command_was_given_are_not_taken_for_modules(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('not the standard library')")
    monkeypatch.chdir(tmp_path)
    settings = load({**ELSEWHERE, "BPA_DATA_DIR": str(tmp_path / "data")}).settings
    async with local_stack(settings) as stack, aiohttp.ClientSession() as session:
        async with session.get(f"{stack.target_url}/health") as answer:
            assert answer.status == 200
        assert list(stack.children) == ["target"]

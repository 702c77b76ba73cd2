"""A program that holds embedded servers and says so, made to be killed by tests.

``python -m tests.integration.embedded.holder DATA_DIR postgres|valkey|service...`` writes a JSON
line with addresses when all are up, then waits for ever; a refused start ends it with one line.
"""

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from bpa.embedded.postgres import EmbeddedPostgres
from bpa.embedded.processes import spawn_service
from bpa.embedded.valkey import EmbeddedValkey
from bpa.errors import StartupError

SERVICE = (
    "import json, signal; print(json.dumps({'event': 'ready', 'port': 7}), flush=True);"
    " signal.pause()"
)


async def main(data_dir: Path, kinds: list[str]) -> None:
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    async with AsyncExitStack() as stack:
        ready: dict[str, object] = {}
        if "postgres" in kinds:
            postgres = await stack.enter_async_context(EmbeddedPostgres(data_dir))
            ready["dsn"], ready["postgres_pid"] = postgres.dsn, postgres.process.pid
        if "valkey" in kinds:
            valkey = await stack.enter_async_context(EmbeddedValkey(data_dir))
            ready["url"], ready["valkey_pid"] = valkey.url, valkey.process.pid
        if "service" in kinds:
            child, _ = await spawn_service(
                [sys.executable, "-c", SERVICE], name="service", log_path=data_dir / "service.log"
            )
            stack.push_async_callback(child.stop)
            ready["service_pid"] = child.pid
        print(json.dumps(ready), flush=True)  # noqa: T201 - the test reads it
        await terminated.wait()


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
    except StartupError as error:
        sys.exit(f"StartupError: {error}")

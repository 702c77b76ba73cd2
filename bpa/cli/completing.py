"""What a shell may complete from a running server: ids and names, if they can be had at once.

Whoever presses Tab waits: there is half a second for one request, no client library is imported for
it, and whatever goes wrong completes nothing.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from click.shell_completion import CompletionItem

_PATIENCE_S = 0.5
_MOST = 50

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completer(path: str, key: str, name: str, help_name: str = "") -> Completer:
    """Return what completes ``name`` of the documents at a path; ``key`` leads to them."""

    def complete(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
        try:
            answer = _get(context, path)
            found = answer[key] if key else answer
            names = {str(one[name]): str(one.get(help_name) or "") for one in found}
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return []
        items = [(word, said) for word, said in names.items() if word.startswith(begun)]
        return [CompletionItem(word, help=said or None) for word, said in items[:_MOST]]

    return complete


run_ids = _completer(f"/v1/runs?limit={_MOST}", "runs", "runId", "status")
node_ids = _completer("/v1/nodes", "", "nodeId", "state")
deployment_ids = _completer("/v1/deployments", "", "deploymentId", "queue")
agent_ids = _completer("/v1/agents", "", "agentId")
queue_names = _completer("/v1/queues", "", "queue")
dead_letter_ids = _completer(f"/v1/dead-letters?limit={_MOST}", "deadLetters", "id", "reason")
groups = _completer("/v1/dead-letters/groups", "", "id", "cause")
operation_ids = _completer(f"/v1/operations?limit={_MOST}", "operations", "id", "state")
reasons = _completer("/v1/dead-letters/totals", "", "reason")


def _get(context: click.Context, path: str) -> Any:
    parts = urlsplit(_url(context))
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def _url(context: click.Context) -> str:
    """Return where REST is; the command line is not complete, so its settings are read here.

    Raises:
        ValueError: A setting is wrong, or no server is known.
    """
    from bpa.config import load  # noqa: PLC0415 - a completion of commands alone needs none
    from bpa.errors import BpaError  # noqa: PLC0415 - as above
    from bpa.roles.addresses import read_addresses  # noqa: PLC0415 - as above

    given = context.find_root().params
    try:
        settings = load(os.environ, given.get("config_file"), dict(_pairs(given))).settings
        found = read_addresses(Path(settings.data_dir))
    except BpaError as error:
        raise ValueError(str(error)) from error
    url = settings.control.url or (found.http if found else "")
    if not url:
        raise ValueError("no server is known")
    return url


def _pairs(given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for flag in given.get("flags") or ():
        key, separator, value = flag.partition("=")
        if separator:
            yield key, value

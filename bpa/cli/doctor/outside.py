"""What is reached over the network: control, the model, the target, a collector."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import aiohttp
import msgspec

from bpa.cli.doctor.deployed import models, url_of
from bpa.cli.doctor.findings import Finding, Subject, failed, ok, unset, warning
from bpa.control.rest.schemas import Health

_ANSWER_S = 8.0
_PROVIDER = "https://api.anthropic.com"
_REFUSED = (401, 403)


async def server(subject: Subject) -> list[Finding]:
    """Ask control whether it is ready."""
    url = url_of(subject)
    if not url:
        return [ok("server", "none runs with this data directory")]
    try:
        status, body = await _request("GET", f"{url.rstrip('/')}/readyz")
    except _UNREACHED as error:
        if not subject.settings.control.url:
            to_do = "it was killed: the next `bpa serve` with this data_dir takes over"
            return [warning("server", f"no answer at {url} ({_why(error)})", to_do)]
        to_do = "see that control runs there, or set control.url"
        return [failed("server", f"no answer at {url} ({_why(error)})", to_do)]
    try:
        health = msgspec.json.decode(body, type=Health)
    except msgspec.MsgspecError:
        return [failed("server", f"what answers at {url} is not control", "set control.url")]
    troubles = [*health.reasons, *health.degraded]
    if status == 200 and not troubles:
        return [ok("server", f"ready at {url}")]
    make = warning if status == 200 else failed
    return [make("server", f"{health.status} at {url}", line) for line in troubles]


async def link(subject: Subject) -> list[Finding]:
    """Connect to control's node link, as a node of its own does."""
    if subject.role != "node":
        return []
    address = subject.settings.node.control
    if not address:
        return [unset("node link", subject, "node.control", "host:port of control's node link")]
    host, _, port = address.rpartition(":")
    opening = (
        asyncio.open_unix_connection(address)
        if address.startswith("/")
        else asyncio.open_connection(host.strip("[]"), int(port))
    )
    try:
        _, writer = await asyncio.wait_for(opening, _ANSWER_S)
    except (OSError, TimeoutError) as error:
        to_do = "see that control runs there, and that nothing between refuses the connection"
        return [failed("node link", f"no answer at {address} ({_why(error)})", to_do)]
    writer.close()
    return [ok("node link", f"something listens at {address}")]


async def model(subject: Subject) -> list[Finding]:
    """Have the provider count tokens for each model of an agent: that costs nothing."""
    given = subject.settings.anthropic
    if not subject.is_node:
        return []
    if not given.api_key:
        return [unset("model", subject, "anthropic.api_key", "the key for the model provider")]
    url = f"{(given.base_url or _PROVIDER).rstrip('/')}/v1/messages/count_tokens"
    headers = {"x-api-key": given.api_key, "anthropic-version": "2023-06-01"}
    found = []
    for name in await models(subject):
        body = {"model": name, "messages": [{"role": "user", "content": "ok"}]}
        try:
            status, _ = await _request("POST", url, json=body, headers=headers)
        except _UNREACHED as error:
            to_do = "see the network, a proxy, and anthropic.base_url"
            return [failed("model", f"no answer at {_host(url)} ({_why(error)})", to_do)]
        found.append(_of_model(name, status, _host(url)))
    return found


def _of_model(name: str, status: int, host: str) -> Finding:
    check = f"model {name}"
    if status == 200:
        return ok(check, f"{host} takes the key and knows the model")
    if status in _REFUSED:
        to_do = "put a valid key into BPA_ANTHROPIC__API_KEY"
        return failed(check, f"{host} refuses the key (HTTP {status})", to_do)
    if status == 404:
        return failed(check, f"{host} does not know it", "name another model in the agent")
    return warning(check, f"{host} answers with HTTP {status}", "try again; see its status page")


async def target(subject: Subject) -> list[Finding]:
    """Ask the target what it takes, with a method that changes nothing."""
    url = subject.settings.http_out.base_url
    if not subject.is_node:
        return []
    if not url:
        return [unset("target", subject, "http_out.base_url", "full URL of the target API")]
    try:
        status, _ = await _request("OPTIONS", url)
    except _UNREACHED as error:
        to_do = "see that it runs, its certificate, and http_out.base_url"
        return [failed("target", f"no answer at {_host(url)} ({_why(error)})", to_do)]
    if status >= 500 and status != 501:
        return [warning("target", f"{_host(url)} answers with HTTP {status}", "see its own log")]
    return [ok("target", f"{_host(url)} answers (HTTP {status}; nothing was posted)")]


async def telemetry(subject: Subject) -> list[Finding]:
    """Hand the collector an empty batch."""
    given = subject.settings.telemetry
    endpoint = given.otlp_endpoint
    if not endpoint:
        return [ok("telemetry", "telemetry.otlp_endpoint is not set: nothing is exported")]
    to_do = "see that the collector runs, and telemetry.otlp_endpoint and otlp_protocol"
    try:
        if given.otlp_protocol == "grpc":
            parts = urlsplit(endpoint)
            opening = asyncio.open_connection(parts.hostname, parts.port or 4317)
            _, writer = await asyncio.wait_for(opening, _ANSWER_S)
            writer.close()
            return [ok("telemetry", f"something listens at {_host(endpoint)}")]
        status, _ = await _request(
            "POST",
            f"{endpoint.rstrip('/')}/v1/traces",
            data=b"",
            headers={"Content-Type": "application/x-protobuf"},
        )
    except _UNREACHED as error:
        found = f"no answer at {_host(endpoint)} ({_why(error)})"
        return [warning("telemetry", found, to_do)]
    if status >= 400:
        return [warning("telemetry", f"{_host(endpoint)} answers with HTTP {status}", to_do)]
    return [ok("telemetry", f"{_host(endpoint)} takes traces")]


_UNREACHED = (aiohttp.ClientError, OSError, TimeoutError)


async def _request(method: str, url: str, **options: object) -> tuple[int, bytes]:
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, url, allow_redirects=False, **options) as response,  # type: ignore[arg-type]
    ):
        return response.status, await response.content.read(65_536)


def _host(url: str) -> str:
    """Return an address without what may be a secret in it."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"within {_ANSWER_S:g} s"
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return str(getattr(inner, "strerror", None) or type(inner).__name__)

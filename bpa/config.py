"""Settings from a file and the environment, validated once at start.

Later wins: defaults below, then the TOML file, then ``BPA_*`` variables (``__`` nests:
``BPA_SERVICE_BUS__CONNECTION_STRING``), then flags. Every wrong key is reported at once.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import msgspec

from bpa.clocks import SHORTEST_LOCK_S, SKEW_MAX_S
from bpa.errors import SettingsError

PREFIX = "BPA_"
_FLAG = "flag"
SECRETS = frozenset(
    {
        "postgres.dsn",
        "redis.url",
        "service_bus.connection_string",
        "service_bus.administration",
        "anthropic.api_key",
    }
)

_URLS = frozenset(
    {"anthropic.base_url", "http_out.base_url", "control.url", "telemetry.otlp_endpoint"}
)
_TEMPLATES = {
    "telemetry.trace_url": ("{trace_id}",),
    "telemetry.logs_url": ("{run_id}", "{trace_id}"),
}
"""Addresses that pages link to, and what each has to hold one of."""
_URL = re.compile(r"https?://[^\s/]")
_CREDENTIALS = re.compile(r"(?<=://)[^/?#@\s]*@")
_ADDRESS = re.compile(r"/.+|.+:[0-9]{1,5}")
"""``host:port``, or the path of a Unix socket."""
_COUNTS = frozenset({"node.slots", "postgres.pool_size"})
_MAY_BE_0 = frozenset({"node.drain_deadline_s", "embedded.model_latency_ms"})


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of settings."""


class Log(Section, frozen=True):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    """``auto``: readable lines on a terminal, JSON elsewhere."""


class Postgres(Section, frozen=True):
    """Where runs are kept."""

    dsn: str = ""
    """Connection string; empty starts the embedded server (role ``all``)."""
    pool_size: int = 6


class Redis(Section, frozen=True):
    """Where slot holds are kept."""

    url: str = ""
    """``redis://`` or ``unix://``; empty starts the embedded Valkey (role ``all``)."""


class ServiceBus(Section, frozen=True):
    """The queue that runs come from."""

    connection_string: str = ""
    """Of the namespace; empty starts the embedded emulator (role ``all``)."""
    namespace: str = ""
    """The namespace's name as run ids use it; empty takes it from the connection string."""
    administration: str = ""
    """Connection string with the Manage right, to count what waits; empty is that for messages.
    Without the right the counts are estimated, and say so."""
    administration_ca: str = ""
    """File with the certificates to trust the administration by; empty: those of the system."""


class Anthropic(Section, frozen=True):
    """The model provider."""

    api_key: str = ""
    """Empty starts the embedded model stub (role ``all``)."""
    base_url: str = ""
    """Empty is the provider's own address, once a key is set."""
    timeout_s: float = 30.0


class HttpOut(Section, frozen=True):
    """The target API."""

    base_url: str = ""
    """For deployments that name none; empty starts the embedded target (role ``all``)."""
    timeout_s: float = 10.0


class Control(Section, frozen=True):
    """The control plane."""

    host: str = "127.0.0.1"
    http_port: int = 8080
    """REST, health, metrics; 0 takes any free port."""
    grpc_port: int = 8081
    """The node link; 0 takes any free port."""
    url: str = ""
    """Where the command line finds REST; empty takes it from the data directory."""
    replica_id: str = ""
    """Empty: host name and process id."""
    lease_ttl_s: float = 15.0
    """A node that is not heard of for so long loses its runs to others."""
    heartbeat_every_s: float = 5.0
    """What nodes keep to; one that missed two gets nothing new and may be replaced."""
    reap_every_s: float = 0.5
    """How often lapsed leases are looked for: what a lost run waits on top of the TTL."""
    sweep_every_s: float = 30.0
    """How often the dead letters are gone through for what the broker put there by itself."""
    measure_queues_every_s: float = 20.0
    """How often one of the replicas asks how much waits in each queue."""
    cancel_grace_s: float = 20.0
    """What a node has to end a cancelled run: two heartbeats and ten seconds by default."""
    clock_skew_max_s: float = SKEW_MAX_S
    """A process whose clock is further than this from Postgres's, the broker's or (a node)
    control's is not ready and takes no work; 5 at most, as long as the shortest lock."""


class Node(Section, frozen=True):
    """The worker that executes runs."""

    id: str = ""
    """Empty: the host's name."""
    control: str = ""
    """``host:port`` of control's node link; role ``all`` knows it by itself."""
    slots: int = 8
    labels: dict[str, str] = {}
    memory: str = "512Mi"
    """Memory limit of one sandbox."""
    health_port: int = 8082
    """Health and metrics of role ``node``; 0 takes any free port."""
    drain_deadline_s: float = 20.0
    """Seconds in which running work may end after SIGTERM; the rest is handed back then. An effect
    on its way to the target is waited for beyond that, for the time of one try."""


class Telemetry(Section, frozen=True):
    """Where traces, metrics and log records go, besides ``/metrics`` and standard error."""

    otlp_endpoint: str = ""
    """``http://host:4318``, ``https://host:4317`` for ``grpc``; empty exports nothing."""
    otlp_protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    """What the collector speaks there."""
    trace_url: str = ""
    """Where people look at a trace, with ``{trace_id}`` in it, as
    ``https://grafana.example.com/explore?...{trace_id}...``; runs link there."""
    logs_url: str = ""
    """Where people look at log lines, with ``{run_id}`` or ``{trace_id}`` in it."""


class Contents(Section, frozen=True):
    """What is shown of what runs work on: documents, prompts, answers and payloads."""

    show: Literal["hidden", "masked", "whole"] = "hidden"
    """They may be personal data. ``masked`` shows fields, less those named in ``masked``, and of
    prose its length; ``whole`` all but secrets. Whoever looks is noted in the audit."""
    masked: str = "buyer, description, note, reason"
    """Names of fields, at any depth, that ``masked`` withholds; commas part them."""


class Embedded(Section, frozen=True):
    """Ports of the local default's servers; 0 takes any free port."""

    host: str = "127.0.0.1"
    service_bus_port: int = 5672
    service_bus_admin_port: int = 5300
    anthropic_port: int = 8083
    target_port: int = 8084
    model_latency_ms: float = 0.0
    """How long the model stub takes for an answer."""


class Settings(Section, frozen=True):
    """Everything that can be set."""

    environment: str = "dev"
    """Deployments of this environment alone are served."""
    data_dir: str = ".bpa"
    """Where the embedded servers keep their data."""
    config_dir: str = ""
    """Prices and schemas; empty is the ``config`` folder that comes with the package."""
    log: Log = Log()
    postgres: Postgres = Postgres()
    redis: Redis = Redis()
    service_bus: ServiceBus = ServiceBus()
    anthropic: Anthropic = Anthropic()
    http_out: HttpOut = HttpOut()
    control: Control = Control()
    node: Node = Node()
    telemetry: Telemetry = Telemetry()
    contents: Contents = Contents()
    embedded: Embedded = Embedded()


class Loaded(msgspec.Struct, frozen=True):
    """Validated settings, and where each value came from."""

    settings: Settings
    origins: dict[str, str]
    """``control.http_port`` -> ``default``, ``flag``, a variable's name or a file's path."""


def load(
    environ: Mapping[str, str],
    file: Path | None = None,
    flags: Mapping[str, str] | None = None,
) -> Loaded:
    """Merge, validate and return the settings.

    Args:
        environ: The process environment.
        file: A TOML file; None looks for ``bpa.toml`` in the working directory.
        flags: Dotted keys and texts from the command line; they win.

    Raises:
        SettingsError: With a line for every wrong key and value.
    """
    problems: list[str] = []
    values: dict[str, tuple[object, str]] = {}
    for key, value, origin in [
        *_from_file(file, problems),
        *_from_environ(environ),
        *((key, value, _FLAG) for key, value in (flags or {}).items()),
    ]:
        values[key] = (value, origin)
    types = dict(_leaves(Settings))
    tree: dict[str, Any] = {}
    wrong: set[str] = set()
    for key, (value, origin) in values.items():
        kind = str if key.startswith("node.labels.") else types.get(key)
        if kind is None:
            problems.append(f"{origin}: there is no setting {key!r}{_suggestion(key, types)}")
            continue
        if key in SECRETS and origin == _FLAG:
            problems.append(f"{key} is a secret, and flags show in process lists: {_variable(key)}")
            continue
        try:
            _insert(tree, key, msgspec.convert(value, kind, strict=False))
        except msgspec.ValidationError as error:
            shown = "" if key in SECRETS else f" {value!r}"
            problems.append(f"{origin}: {key} ={shown}: {error}")
            wrong.add(key)
    settings = msgspec.convert(tree, Settings)
    problems += _out_of_range(settings, wrong)
    if problems:
        raise SettingsError(problems)
    return Loaded(settings, _origins(types, {key: origin for key, (_, origin) in values.items()}))


def secrets_of(settings: Settings) -> list[str]:
    """Return the values of those secrets that are set."""
    sections = [key.split(".") for key in sorted(SECRETS)]
    return [
        value for section, name in sections if (value := getattr(getattr(settings, section), name))
    ]


def flatten(settings: Settings) -> dict[str, object]:
    """Return every setting under its dotted key, secrets masked."""
    flat: dict[str, object] = {}
    for key in dict(_leaves(Settings)):
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part)
        if isinstance(value, str):
            value = "***" if key in SECRETS and value else _CREDENTIALS.sub("***@", value)
        flat[key] = value
    return flat


def _origins(types: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return where each setting comes from; one whose parts come from several places names all."""
    origins = dict.fromkeys(types, "default")
    for key in types:
        parts = [origin for name, origin in given.items() if f"{name}.".startswith(f"{key}.")]
        if parts:
            origins[key] = ", ".join(dict.fromkeys(parts))
    return origins


def _from_file(file: Path | None, problems: list[str]) -> Iterator[tuple[str, object, str]]:
    path = file or Path("bpa.toml")
    if file is None and not path.exists():
        return
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return
    for key, value in _flat(tree):
        yield key, value, str(path)


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    for name in sorted(environ):
        if name.startswith(PREFIX) and name != "BPA_CONFIG":
            yield name.removeprefix(PREFIX).lower().replace("__", "."), environ[name], name


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{name}" != "node.labels":
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _leaves(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, kind in get_type_hints(section).items():
        if name.startswith("__"):
            continue
        if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, Section):
            yield from _leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def _insert(tree: dict[str, Any], key: str, value: object) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
    tree[last] = value


def _variable(key: str) -> str:
    return f"set {PREFIX}{key.upper().replace('.', '__')}"


def _suggestion(key: str, types: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, types, 1)
    return f"; did you mean {near[0]!r}?" if near else "; `bpa config show` lists them all"


def _out_of_range(settings: Settings, wrong: Collection[str]) -> Iterator[str]:
    """Say what is wrong with settings of the right type; ``wrong`` ones stand at their default."""
    for key, value in flatten(settings).items():
        if what := _wrong(key, value):
            yield f"{key} = {value!r}: {what}"
    control = settings.control
    if control.lease_ttl_s < 3 * control.heartbeat_every_s and not (
        {"control.lease_ttl_s", "control.heartbeat_every_s"} & {*wrong}
    ):
        yield "control.lease_ttl_s: must be three heartbeats or more, or leases flap"
    if control.clock_skew_max_s > SHORTEST_LOCK_S:
        yield (
            f"control.clock_skew_max_s: at most {SHORTEST_LOCK_S:g}, or a lock may seem to be over "
            "that has just begun"
        )


def _wrong(key: str, value: object) -> str:
    """Say what a value of the right type must be; empty when it is."""
    if isinstance(value, str):
        if value and key in _URLS and not _URL.match(value):
            return "write http://host:port or https://host"
        if value and key in _TEMPLATES:
            return _wrong_template(value, _TEMPLATES[key])
        if value and key == "node.control" and not _ADDRESS.fullmatch(value):
            return "write host:port, as control prints it when it is ready"
    elif isinstance(value, (int, float)):
        if key.endswith("_port") and not 0 <= value <= 65535:
            return "a port is a number from 0 (any free one) to 65535"
        if key in _COUNTS and value < 1:
            return "at least one is needed"
        if key.endswith(("_s", "_ms")) and not (0 if key in _MAY_BE_0 else 0.001) <= value < inf:
            return "a time is a number of " + ("ms" if key.endswith("_ms") else "s") + " above 0"
    return ""


def _wrong_template(value: str, names: Collection[str]) -> str:
    if not _URL.match(value) or not value.isprintable() or " " in value:
        return "write http://host/... or https://host/..., without a space"
    if _CREDENTIALS.search(value):
        return "every page shows it: it must not hold a user or password"
    if not any(name in value for name in names):
        return f"write {' or '.join(names)} where it stands in the address"
    return ""

"""What the administration API answers: Atom entries and feeds, and errors. Pure.

Names, namespaces and the order of the elements are the service's, as its SDKs read and write them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from .config import QueueConfig, render_duration
from .entities import Entity
from .tiers import Tier

ATOM = "http://www.w3.org/2005/Atom"
CONNECT = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
_COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'
_NEVER = "0001-01-01T00:00:00Z"
_UNUSED_DUPLICATE_WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a queue holds at the moment."""

    active: int
    """As the service counts: free, locked and deferred."""
    dead_lettered: int
    scheduled: int
    size_bytes: int
    accessed_ms: int | None
    max_message_kb: int | None
    """The largest message; None in a tier where that is not the queue's to say."""


@dataclass(frozen=True, slots=True)
class Place:
    """Under which address the answer is given."""

    base: str
    """``http://host:port``, without a slash at the end."""
    query: str
    """``api-version=...``, or nothing."""

    def of(self, path: str, *more: str) -> str:
        """Return the address of a path."""
        query = "&".join(part for part in (*more, self.query) if part)
        return f"{self.base}/{path}" + (f"?{query}" if query else "")


def queue_entry(entity: Entity, runtime: Runtime, place: Place) -> str:
    """Describe a queue."""
    return _DECLARATION + _queue_entry(entity, runtime, place, f' xmlns="{ATOM}"')


def queue_feed(
    found: Iterable[tuple[Entity, Runtime]], place: Place, here: str, following: str | None
) -> str:
    """Describe a page of queues.

    Args:
        found: They and what they hold.
        place: Where the API is.
        here: The page's own address.
        following: The next page's; None on the last.
    """
    entries = "".join(_queue_entry(entity, runtime, place, "") for entity, runtime in found)
    return _feed("Queues", here, following, entries)


def empty_feed(title: str, here: str) -> str:
    """Say that there is nothing; also the service's answer about a missing entity."""
    return _feed(title, here, None, "")


def namespace_entry(name: str, tier: Tier, since_ms: int, place: Place) -> str:
    """Describe the namespace."""
    moment = _time(since_ms)
    content = (
        f'<NamespaceInfo xmlns="{CONNECT}" xmlns:i="{_INSTANCE}">'
        + _element("CreatedTime", moment)
        + _element("MessagingSKU", tier.name)
        + _element("ModifiedTime", moment)
        + _element("Name", name)
        + _element("NamespaceType", "Messaging")
        + "</NamespaceInfo>"
    )
    head = _head(place.of("$namespaceinfo"), name, since_ms, since_ms, "self")
    return f'{_DECLARATION}<entry xmlns="{ATOM}">{head}{_content(content)}</entry>'


def error(code: int, detail: str) -> str:
    """Say what is wrong."""
    return f"<Error>{_element('Code', str(code))}{_element('Detail', detail)}</Error>"


def _queue_entry(entity: Entity, runtime: Runtime, place: Place, attributes: str) -> str:
    name = entity.config.name
    head = _head(place.of(name), name, entity.created_ms, entity.updated_ms, "self")
    described = _content(_queue_description(entity, runtime))
    return f"<entry{attributes}>{head}{described}</entry>"


def _queue_description(entity: Entity, runtime: Runtime) -> str:
    config = entity.config
    largest_kb = runtime.max_message_kb
    accessed = _NEVER if runtime.accessed_ms is None else _time(runtime.accessed_ms)
    total = runtime.active + runtime.scheduled + runtime.dead_lettered
    fields = [
        *_fixed_properties(config),
        ("SizeInBytes", str(runtime.size_bytes)),
        ("MessageCount", str(total)),
        ("IsAnonymousAccessible", "false"),
        ("AuthorizationRules", ""),
        ("Status", config.status.value),
        ("UserMetadata", config.user_metadata),
        ("CreatedAt", _time(entity.created_ms)),
        ("UpdatedAt", _time(entity.updated_ms)),
        ("AccessedAt", accessed),
        ("SupportOrdering", "true"),
    ]
    last = [
        ("AutoDeleteOnIdle", render_duration(config.auto_delete_s)),
        ("EnablePartitioning", "false"),
        ("EntityAvailabilityStatus", "Available"),
        ("EnableExpress", "false"),
        ("MaxMessageSizeInKilobytes", None if largest_kb is None else str(largest_kb)),
    ]
    return (
        f'<QueueDescription xmlns="{CONNECT}" xmlns:i="{_INSTANCE}">'
        + _elements(fields)
        + _count_details(runtime)
        + _elements(last)
        + "</QueueDescription>"
    )


def _fixed_properties(config: QueueConfig) -> list[tuple[str, str | None]]:
    window_s = config.duplicate_window_s or _UNUSED_DUPLICATE_WINDOW_S
    return [
        ("LockDuration", render_duration(config.lock_duration_s)),
        ("MaxSizeInMegabytes", str(config.max_size_mb)),
        ("RequiresDuplicateDetection", _flag(config.duplicate_window_s is not None)),
        ("RequiresSession", "false"),
        ("DefaultMessageTimeToLive", render_duration(config.default_ttl_s)),
        ("DeadLetteringOnMessageExpiration", _flag(config.dead_letter_on_expiration)),
        ("DuplicateDetectionHistoryTimeWindow", render_duration(window_s)),
        ("MaxDeliveryCount", str(config.max_delivery_count)),
        ("EnableBatchedOperations", _flag(config.enable_batched_operations)),
    ]


def _count_details(runtime: Runtime) -> str:
    counts = (
        ("ActiveMessageCount", runtime.active),
        ("DeadLetterMessageCount", runtime.dead_lettered),
        ("ScheduledMessageCount", runtime.scheduled),
        ("TransferMessageCount", 0),
        ("TransferDeadLetterMessageCount", 0),
    )
    inner = "".join(f"<d2p1:{name}>{count}</d2p1:{name}>" for name, count in counts)
    return f'<CountDetails xmlns:d2p1="{_COUNTS}">{inner}</CountDetails>'


def _feed(title: str, here: str, following: str | None, entries: str) -> str:
    links = _link("self", here) + ("" if following is None else _link("next", following))
    return (
        f'{_DECLARATION}<feed xmlns="{ATOM}"><title type="text">{escape(title)}</title>'
        f"<id>{escape(here)}</id><updated>{_time(0)}</updated>{links}{entries}</feed>"
    )


def _head(address: str, title: str, published_ms: int, updated_ms: int, relation: str) -> str:
    return (
        f'<id>{escape(address)}</id><title type="text">{escape(title)}</title>'
        f"<published>{_time(published_ms)}</published><updated>{_time(updated_ms)}</updated>"
        f"<author><name>sbemulatorns</name></author>{_link(relation, address)}"
    )


def _link(relation: str, address: str) -> str:
    return f'<link rel="{relation}" href="{escape(address)}"/>'


def _content(inner: str) -> str:
    return f'<content type="application/xml">{inner}</content>'


def _elements(fields: Iterable[tuple[str, str | None]]) -> str:
    return "".join(_element(name, text) for name, text in fields if text is not None)


def _element(name: str, text: str) -> str:
    return f"<{name}>{escape(text, quote=False)}</{name}>" if text else f"<{name}/>"


def _flag(value: bool) -> str:  # noqa: FBT001 - it is the value
    return "true" if value else "false"


def _time(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "0Z")

"""Read the description of a queue that a client of the administration API sends. Pure.

Everything that is wrong with it is said at once; what this emulator does not serve yet is refused
by name instead of being ignored.
"""

from __future__ import annotations

from dataclasses import replace
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from .atom import ATOM, CONNECT
from .config import QUEUE_NAME, UNENDING_S, QueueConfig, Status, parse_duration_s
from .refusals import BadRequest, NotServed, quotable
from .tiers import SMALLEST_SETTABLE_KB, Tier

_LONGEST_NAME = 260
_LONGEST_METADATA = 1024
_LONGEST_LOCK_S = 300.0
_SHORTEST_IDLE_S = 300.0
_LONGEST_WINDOW_S = 7 * 86_400.0
_WINDOW_S = 600.0
_MOST_PROBLEMS = 50
_FLAGS = {"true": True, "false": False, "1": True, "0": False}
_TOLD_ONLY = frozenset(
    {
        "SizeInBytes",
        "MessageCount",
        "IsAnonymousAccessible",
        "CreatedAt",
        "UpdatedAt",
        "AccessedAt",
        "SupportOrdering",
        "CountDetails",
        "EntityAvailabilityStatus",
    }
)
_OTHER_ENTITIES = {
    "TopicDescription": "Topics",
    "SubscriptionDescription": "Subscriptions",
    "RuleDescription": "Rules",
}


def read_queue(body: bytes, known: QueueConfig, tier: Tier, *, exists: bool) -> QueueConfig:
    """Return the properties that a client wants a queue to have.

    Args:
        body: An Atom entry that holds a QueueDescription.
        known: The queue's name, and the properties that the entry leaves out.
        tier: How large things may be.
        exists: Whether the queue is there already, so that some may not change.

    Raises:
        BadRequest: It is no such entry, or has wrong values.
        NotServed: It asks for what there is not.
    """
    if not QUEUE_NAME.match(known.name) or len(known.name) > _LONGEST_NAME:
        raise BadRequest(
            f"The name must be letters, digits and inner - . / _, at most {_LONGEST_NAME}."
        )
    reader = _Reader(_description(body), tier)
    config = reader.config(known)
    if exists and (config.duplicate_window_s is None) != (known.duplicate_window_s is None):
        reader.problems.append("RequiresDuplicateDetection of an existing queue cannot be changed.")
    if reader.problems:
        raise BadRequest(" ".join(reader.problems[:_MOST_PROBLEMS]))
    if reader.not_served:
        raise NotServed(f"Not served yet: {', '.join(reader.not_served)}.")
    return config


def _description(body: bytes) -> Element:
    try:
        root: Element = fromstring(body, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise BadRequest(f"The body is not XML: {quotable(str(error))}") from error
    content = root.find(f"{{{ATOM}}}content")
    if root.tag != f"{{{ATOM}}}entry" or content is None or len(content) != 1:
        raise BadRequest("The body must be an Atom entry whose content is a QueueDescription.")
    described = content[0]
    name = described.tag.removeprefix(f"{{{CONNECT}}}")
    if name in _OTHER_ENTITIES:
        raise NotServed(f"{_OTHER_ENTITIES[name]} are not served yet.")
    if name != "QueueDescription":
        raise BadRequest(f"The content must be a QueueDescription, not {quotable(name)!r}.")
    return described


class _Reader:
    """Takes the elements of one description, and collects what is wrong with them."""

    def __init__(self, described: Element, tier: Tier) -> None:
        self._tier = tier
        self.problems: list[str] = []
        self.not_served: list[str] = []
        self._texts: dict[str, str] = {}
        for element in described:
            name = element.tag.removeprefix(f"{{{CONNECT}}}")
            if name == "AuthorizationRules" and len(element):
                self.not_served.append(name)
            self._texts[name] = (element.text or "").strip()
        self._texts.pop("AuthorizationRules", None)

    def config(self, known: QueueConfig) -> QueueConfig:
        """Return the wanted properties."""
        changed = replace(
            known,
            lock_duration_s=self._lock_s(known.lock_duration_s),
            max_message_kb=self._message_kb(known.max_message_kb),
            max_size_mb=self._whole(
                "MaxSizeInMegabytes", known.max_size_mb, self._tier.largest_queue_mb
            ),
            default_ttl_s=self._span("DefaultMessageTimeToLive", known.default_ttl_s),
            dead_letter_on_expiration=self._flag(
                "DeadLetteringOnMessageExpiration", known.dead_letter_on_expiration
            ),
            max_delivery_count=self._whole("MaxDeliveryCount", known.max_delivery_count, 2000),
            enable_batched_operations=self._flag(
                "EnableBatchedOperations", known.enable_batched_operations
            ),
            auto_delete_s=self._idle_s(known.auto_delete_s),
            duplicate_window_s=self._window_s(known.duplicate_window_s),
            status=self._status(known.status),
            user_metadata=self._metadata(known.user_metadata),
        )
        self._look_for_what_is_not_served()
        self.problems.extend(
            f"{quotable(name)} is not a property of a queue."
            for name in self._texts
            if name not in _TOLD_ONLY
        )
        return changed

    def _look_for_what_is_not_served(self) -> None:
        for name in ("RequiresSession", "EnablePartitioning", "EnableExpress"):
            if self._flag(name, known=False):
                self.not_served.append(name)
        for name in ("ForwardTo", "ForwardDeadLetteredMessagesTo"):
            if self._texts.pop(name, ""):
                self.not_served.append(name)

    def _lock_s(self, known: float) -> float:
        seconds = self._span("LockDuration", known)
        if seconds is None or seconds > _LONGEST_LOCK_S:
            self.problems.append("LockDuration must be at most PT5M.")
            return known
        return seconds

    def _idle_s(self, known: float | None) -> float | None:
        if "AutoDeleteOnIdle" not in self._texts:
            return known
        seconds = self._span("AutoDeleteOnIdle", known)
        if seconds is not None and seconds < _SHORTEST_IDLE_S:
            self.problems.append("AutoDeleteOnIdle must be at least PT5M.")
        return seconds

    def _window_s(self, known: float | None) -> float | None:
        wanted = self._flag("RequiresDuplicateDetection", known is not None)
        seconds = self._span("DuplicateDetectionHistoryTimeWindow", known or _WINDOW_S)
        if seconds is None or seconds > _LONGEST_WINDOW_S:
            self.problems.append("DuplicateDetectionHistoryTimeWindow must be at most P7D.")
        return seconds if wanted else None

    def _span(self, name: str, known: float | None) -> float | None:
        text = self._texts.pop(name, None)
        if text is None:
            return known
        seconds = parse_duration_s(text)
        if not seconds:
            self.problems.append(f"{name} must be an ISO 8601 duration above zero, as PT1M.")
            return known
        return None if seconds >= UNENDING_S else seconds

    def _message_kb(self, known: int | None) -> int | None:
        name, tier = "MaxMessageSizeInKilobytes", self._tier
        if not tier.settable:
            if self._texts.pop(name, "") not in ("", str(tier.message_kb)):
                self.problems.append(
                    f"{name} is {tier.message_kb} in the {tier.name} tier; Premium lets it be set."
                )
            return known
        if name not in self._texts:
            return known
        most = tier.largest_message_kb
        return self._whole(name, known or tier.message_kb, most, least=SMALLEST_SETTABLE_KB)

    def _whole(self, name: str, known: int, most: int, least: int = 1) -> int:
        text = self._texts.pop(name, None)
        if text is None:
            return known
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        if least <= number <= most:
            return number
        self.problems.append(f"{name} must be a whole number from {least} to {most}.")
        return known

    def _flag(self, name: str, known: bool) -> bool:  # noqa: FBT001 - it is the value
        text = self._texts.pop(name, None)
        if text is None:
            return known
        if text.lower() not in _FLAGS:
            self.problems.append(f"{name} must be true or false.")
        return _FLAGS.get(text.lower(), known)

    def _status(self, known: Status) -> Status:
        text = self._texts.pop("Status", None)
        if text is None:
            return known
        choices: dict[str, Status] = {status.value: status for status in Status}
        if text not in choices:
            self.problems.append(f"Status must be one of {', '.join(choices)}.")
        return choices.get(text, known)

    def _metadata(self, known: str | None) -> str | None:
        text = self._texts.pop("UserMetadata", known)
        if text is not None and len(text) > _LONGEST_METADATA:
            self.problems.append(f"UserMetadata must be at most {_LONGEST_METADATA} characters.")
        return text

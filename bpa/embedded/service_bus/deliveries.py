"""Deliveries of the AMQP engine: sending, reading and settling them, on their C pointers."""

from __future__ import annotations

from typing import Any

import cproton
import proton
from cproton import ffi, lib

ACCEPTED: int = cproton.PN_ACCEPTED
REJECTED: int = cproton.PN_REJECTED
RELEASED: int = cproton.PN_RELEASED
MODIFIED: int = cproton.PN_MODIFIED


def _describe_delivery(delivery: Any) -> Any:
    return proton.Delivery.wrap(delivery)  # type: ignore[no-untyped-call]


def send(link: Any, tag: bytes, data: bytes, *, settled: bool) -> Any:
    """Send one message and return its delivery."""
    delivery = lib.pn_delivery(link, (len(tag), ffi.from_buffer(tag)))
    lib.pn_link_send(link, ffi.from_buffer(data), len(data))
    if settled:
        lib.pn_delivery_settle(delivery)
    else:
        lib.pn_link_advance(link)
    return delivery


def readable(delivery: Any) -> bool:
    """Whether bytes of the delivery, or its end, have come and it is the link's current one."""
    return bool(lib.pn_delivery_readable(delivery))


def partial(delivery: Any) -> bool:
    """Whether more transfers of the delivery follow."""
    return bool(lib.pn_delivery_partial(delivery))


def aborted(delivery: Any) -> bool:
    """Whether the sender has taken the delivery back."""
    return bool(lib.pn_delivery_aborted(delivery))


def read(link: Any, delivery: Any) -> bytes:
    """Take the bytes of the link's current delivery that have come."""
    pending = lib.pn_delivery_pending(delivery)
    if not pending:
        return b""
    room = ffi.new("char[]", pending)
    size = lib.pn_link_recv(link, room, pending)
    return bytes(ffi.buffer(room, size)) if size > 0 else b""


def advance(link: Any) -> None:
    """Leave the link's current delivery for the next."""
    lib.pn_link_advance(link)


def remote_outcome(delivery: Any) -> int:
    """Return the state the peer put the delivery in, 0 for none."""
    return int(lib.pn_delivery_remote_state(delivery))


def remote_settled(delivery: Any) -> bool:
    """Whether the peer has forgotten the delivery."""
    return bool(lib.pn_delivery_settled(delivery))


def settle(delivery: Any, outcome: int) -> None:
    """Put the delivery in its final state and forget it."""
    if outcome:
        lib.pn_delivery_update(delivery, outcome)
    lib.pn_delivery_settle(delivery)


def forget(delivery: Any) -> None:
    """Settle without a state."""
    lib.pn_delivery_settle(delivery)


def reject(delivery: Any, condition: str, description: str) -> None:
    """Settle as rejected, with an error whose three fields are all there.

    The Python SDK takes the third for granted: without it, its callback dies and the send hangs.
    """
    wrapper = _describe_delivery(delivery)
    wrapper.local.condition = proton.Condition(
        condition, description, {proton.symbol("com.microsoft:description"): description}
    )
    wrapper.update(REJECTED)
    wrapper.settle()


def rejection_info(delivery: Any) -> dict[str, Any]:
    """Return the info of the error with which the peer rejected a delivery."""
    condition = _describe_delivery(delivery).remote.condition
    info = None if condition is None else condition.info
    return _by_name(info)


def modified_annotations(delivery: Any) -> dict[str, Any]:
    """Return the message annotations of a modified outcome."""
    return _by_name(_describe_delivery(delivery).remote.annotations)


def _by_name(found: Any) -> dict[str, Any]:
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def encode(value: Any) -> bytes:
    """Encode a value that the library has decoded, as the type it came as."""
    data = proton.Data()
    data.put_object(value)
    return bytes(data.encode())


def is_deferral(delivery: Any) -> bool:
    """Whether a modified outcome says undeliverable-here."""
    return bool(lib.pn_disposition_is_undeliverable(lib.pn_delivery_remote(delivery)))

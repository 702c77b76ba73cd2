"""Settling with changed properties: abandon, defer and dead-letter set application properties."""

import pytest

from tests.integration.embedded.conformance.sdk import DEAD, next_message, running

CHANGES = {"attempt": 2, "note": "again"}


async def settled_by_management(receiver, message, status, changes, details=None):
    """Settle through update-disposition, the way the SDK does for deferred messages."""
    await receiver._settle_message_via_mgmt_link(
        status,
        [message.lock_token],
        dead_letter_details={**(details or {}), "properties-to-modify": changes},
    )


@pytest.mark.parametrize("status", ["abandoned", "defered", "suspended"])
async def test_a_settlement_sets_the_properties_it_names_and_keeps_the_others(kind, status):
    async with running(kind) as bus:
        receiver = await bus.receiver()
        await bus.send("x", application_properties={"kept": True, "note": "first"})
        message = await next_message(receiver)
        await settled_by_management(receiver, message, status, CHANGES)
        if status == "defered":
            (again,) = await receiver.receive_deferred_messages(message.sequence_number)
        else:
            sub_queue = DEAD if status == "suspended" else None
            again = await next_message(await bus.receiver(sub_queue=sub_queue))
        assert again.application_properties == {b"kept": True, b"note": b"again", b"attempt": 2}


async def test_changed_properties_survive_a_restart(kind, tmp_path):
    async with running(kind, data_dir=tmp_path) as bus:
        receiver = await bus.receiver()
        await bus.send("a")
        message = await next_message(receiver)
        await settled_by_management(receiver, message, "abandoned", {"n": 1})
        message = await next_message(receiver)
        await settled_by_management(receiver, message, "defered", {"m": 2})
    async with running(kind, data_dir=tmp_path) as bus:
        receiver = await bus.receiver()
        (again,) = await receiver.receive_deferred_messages(message.sequence_number)
        assert again.application_properties == {b"n": 1, b"m": 2}
        assert again.delivery_count == 2

"""What is kept of a message beside its body."""

from datetime import UTC, datetime

from bpa.connectors import Message
from bpa.control.message_properties import kept_of
from tests.unit.ui.hostile import HOSTILE


def message(**fields) -> Message:
    return Message(
        body=b"", sequence_number=1, enqueued_ms=1, locked_until=datetime.now(UTC), **fields
    )


def test_what_a_message_says_is_kept_as_text():
    properties = {"tenant": "acme", "urgent": True, "tries": 3}
    kept = kept_of(message(content_type="text/plain", correlation_id="c-1", properties=properties))
    assert kept == {
        "content_type": "text/plain",
        "correlation_id": "c-1",
        "properties": {"tenant": "acme", "urgent": "True", "tries": "3"},
        "properties_left_out": 0,
    }
    assert kept_of(message())["content_type"] is None


def test_no_secret_is_kept():
    secret = "hunter2-hunter2"
    names = ("Authorization", "x-api-key", "SAS-Signature", "cookie", "db_password")
    forms = {"url": f"amqp://u:{secret}@h/", "header": f"Bearer {secret}"}
    kept = kept_of(message(properties={**dict.fromkeys(names, secret), **forms}))
    assert secret not in str(kept)
    assert kept["properties"]["cookie"] == "(withheld)"


def test_however_much_a_message_says_little_is_kept():
    properties = {f"{n}{'n' * 5_000}": "v" * 5_000 for n in range(500)}
    kept = kept_of(message(correlation_id="c" * 5_000, properties=properties))
    assert len(str(kept)) < 14_000
    assert kept["properties_left_out"] == 468


def test_nothing_that_a_stranger_hides_is_kept():
    kept = str(kept_of(message(correlation_id=HOSTILE, properties={HOSTILE: HOSTILE})))
    assert not {"\0", "\x1b", "\u202e", "\u2066", "\u200b"} & {*kept}

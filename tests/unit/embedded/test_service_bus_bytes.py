"""The emulator's reading and writing of AMQP bytes, records and frames."""

import proton
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bpa import amqp
from bpa.amqp import MalformedMessage
from bpa.embedded.service_bus import records
from bpa.embedded.service_bus.config import parse_duration_s
from bpa.embedded.service_bus.content import (
    read_batch,
    read_content,
    render,
    with_dead_letter_reason,
)
from bpa.embedded.service_bus.framing import FrameSplitter
from bpa.embedded.service_bus.message import Message, State

NOW_MS = 1_800_000_000_000
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=300)
bodies = st.one_of(
    st.binary(max_size=2000),
    texts,
    st.lists(st.integers(-(2**31), 2**31), max_size=5),
    st.dictionaries(texts, texts, max_size=3),
)


def decoded(encoded):
    message = proton.Message()
    message.decode(encoded)
    return message


@given(body=bodies, properties=st.dictionaries(texts, texts, max_size=5), ttl=st.integers(0, 900))
def test_a_rendered_message_is_the_one_that_was_read(body, properties, ttl):
    sent = proton.Message(body=body, properties=properties, id="i", ttl=ttl, durable=True)
    sent.annotations = {proton.symbol("x-mine"): "kept", proton.symbol("x-opt-locked-until"): 1}
    content = read_content(bytes(sent.encode()))
    got = decoded(render(content, 7, 1000, 300, 2000))
    assert (got.body, got.properties or {}, got.id) == (sent.body, properties, "i")
    assert (got.durable, got.delivery_count) == (True, 300)
    assert content.ttl_ms == (ttl * 1000 or None)
    assert {str(key): value for key, value in got.annotations.items()} == {
        "x-mine": "kept",
        "x-opt-sequence-number": 7,
        "x-opt-enqueued-time": 1000,
        "x-opt-enqueue-sequence-number": 7,
        "x-opt-message-state": 0,
        "x-opt-locked-until": 2000,
    }


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    try:
        content = read_content(data)
    except MalformedMessage:
        return
    render(content, 1, 1, 0, None)


@given(st.data())
def test_a_damaged_message_is_read_or_refused(data):
    sent = bytearray(proton.Message(body=b"x" * 20, properties={"k": "v"}, id="i").encode())
    index = data.draw(st.integers(0, len(sent) - 1))
    sent[index] = data.draw(st.integers(0, 255))
    for read in (read_content, read_batch):
        try:
            read(bytes(sent))
        except MalformedMessage:
            continue


def test_a_message_truncated_within_a_section_is_refused():
    whole = bytes(proton.Message(body=b"x" * 300, id="i").encode())
    ends = {end for *_, end in amqp.sections(whole)}
    for size in set(range(len(whole))) - ends:
        with pytest.raises(MalformedMessage):
            read_content(whole[:size])
    assert len(ends) > 1
    for size in ends:
        read_content(whole[:size])


def test_a_message_without_an_id_gets_one_and_keeps_the_rest():
    for sent in (
        proton.Message(body=b"x"),
        proton.Message(body=b"x", subject="s", correlation_id="c", properties={"a": 1}),
    ):
        got = decoded(render(read_content(bytes(sent.encode())), 1, 1, 0, None))
        assert len(got.id) == 32
        assert (got.subject, got.correlation_id) == (sent.subject, sent.correlation_id)
        assert got.properties == sent.properties


@given(reason=texts, description=texts, properties=st.dictionaries(texts, texts, max_size=3))
def test_a_dead_letter_carries_its_reason_once(reason, description, properties):
    before = {**properties, "DeadLetterReason": "old", "DeadLetterErrorDescription": "old"}
    sent = proton.Message(body=b"x", id="i", properties=before)
    content = read_content(bytes(sent.encode()))
    dead = with_dead_letter_reason(content, reason, description, {"extra": amqp.encode_string("e")})
    got = decoded(render(dead, 1, 1, 0, None))
    assert got.properties == {
        **properties,
        "extra": "e",
        "DeadLetterReason": reason,
        "DeadLetterErrorDescription": description,
    }
    assert (got.body, got.id) == (sent.body, "i")


def test_a_life_beyond_the_header_s_range_is_read_from_creation_to_expiry():
    sent = proton.Message(body=b"x", id="i", ttl=1.0, subject="s")
    sent.creation_time, sent.expiry_time = 1_000, 1_000 + 90 * 86_400
    content = read_content(bytes(sent.encode()))
    assert content.ttl_ms == 90 * 86_400_000
    got = decoded(render(content, 1, 5_000, 0, None, expires_ms=5_000 + content.ttl_ms))
    assert (got.creation_time, got.expiry_time) == (5.0, 5.0 + 90 * 86_400)
    assert (got.id, got.subject, got.ttl) == ("i", "s", (2**32 - 1) / 1000)


EXTREMES = [
    b"\x81" + (2**63 - 1).to_bytes(8, "big"),
    b"\x81" + (-(2**63)).to_bytes(8, "big", signed=True),
    b"\x80" + (2**64 - 1).to_bytes(8, "big"),
    b"\x83" + (2**63 - 1).to_bytes(8, "big"),
]


@given(
    ttl=st.sampled_from(EXTREMES),
    times=st.tuples(st.sampled_from(EXTREMES), st.sampled_from(EXTREMES)) | st.none(),
    due=st.sampled_from(EXTREMES),
)
def test_times_at_the_ends_of_their_range_can_be_kept(ttl, times, due):
    name = amqp.encode_symbol("x-opt-scheduled-enqueue-time")
    fields = [amqp.encode_string("i"), *[amqp.NULL] * 7, *(times or ())]
    sent = b"".join(
        (
            amqp.encode_section(amqp.HEADER, amqp.encode_list([amqp.NULL, amqp.NULL, ttl])),
            amqp.encode_section(amqp.MESSAGE_ANNOTATIONS, amqp.encode_map(name + due, 1)),
            amqp.encode_section(amqp.PROPERTIES, amqp.encode_list(fields)),
        )
    )
    content = read_content(sent)
    message = Message(1, NOW_MS, content, NOW_MS + content.ttl_ms)
    replay = records.Replay()
    for body, _ in records.bodies(records.enqueued("q", message)):
        replay.apply(body)
    kept = replay.queues["q"].messages[1]
    assert (kept.content, kept.expires_ms) == (content, message.expires_ms)
    kept.encoded()


def test_a_dead_letter_without_a_reason_is_unchanged():
    content = read_content(bytes(proton.Message(body=b"x", id="i").encode()))
    assert with_dead_letter_reason(content, None, None, {}) is content


def test_a_batch_is_its_data_sections():
    inner = [bytes(proton.Message(body=b"%d" % n, id=str(n)).encode()) for n in range(3)]
    outer = b"".join(
        amqp.encode_section(amqp.DATA, b"\xb0" + len(one).to_bytes(4, "big") + one) for one in inner
    )
    found = [decoded(render(content, 1, 1, 0, None)).id for content in read_batch(outer)]
    assert found == ["0", "1", "2"]
    with pytest.raises(MalformedMessage):
        read_batch(inner[0])


def transfer(message_format, payload=b"payload"):
    performative = b"\x00\x53\x14" + amqp.encode_list(
        [b"\x43", b"\x43", b"\xa0\x01t", b"\x70" + message_format.to_bytes(4, "big")]
    )
    body = b"\x02\x00\x00\x00" + performative + payload
    return (len(body) + 4).to_bytes(4, "big") + body


@given(st.lists(st.booleans(), max_size=6), st.data())
def test_frames_arrive_whole_and_batches_alone_however_the_bytes_are_cut(kinds, data):
    frames = [transfer(0x80013700 if batch else 0, b"\x80\x01\x37\x00" * 3) for batch in kinds]
    stream = b"AMQP\x00\x01\x00\x00" + b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    splitter = FrameSplitter(1000)
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        pieces += splitter.feed(stream[start:end])
    assert b"".join(piece for piece, _ in pieces) == stream
    expected = [frame for frame, batch in zip(frames, kinds, strict=True) if batch]
    assert [piece for piece, batch in pieces if batch] == expected


def frame_of(code, channel):
    return (12).to_bytes(4, "big") + bytes((2, 0, 0, channel, 0, 0x53, code, 0x45))


@given(data=st.data())
def test_what_comes_for_a_session_behind_its_end_is_dropped(data):
    begin, flow, detach, end, close = 0x11, 0x13, 0x16, 0x17, 0x18
    heartbeat = (8).to_bytes(4, "big") + bytes((2, 0, 0, 1))
    passed = [frame_of(begin, 1), frame_of(begin, 2), frame_of(flow, 1), frame_of(end, 1)]
    dropped = [frame_of(detach, 1), frame_of(flow, 1), frame_of(end, 1)]
    later = [frame_of(detach, 2), heartbeat, frame_of(begin, 1), frame_of(flow, 1)]
    last = [frame_of(end, 1), frame_of(close, 1)]
    stream = b"".join([*passed, *dropped, *later, *last])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    splitter = FrameSplitter(1000)
    pieces = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        pieces += splitter.feed(stream[start:stop])
    assert b"".join(piece for piece, _ in pieces) == b"".join([*passed, *later, *last])


def test_what_is_no_frame_goes_to_the_engine_as_it_is():
    splitter = FrameSplitter(1000)
    assert list(splitter.feed(b"GET / HTTP/1.1")) == [(b"GET / HTTP/1.1", False)]
    assert list(splitter.feed(b"more")) == [(b"more", False)]


def message(sequence, body=b"x", **fields):
    encoded = bytes(proton.Message(body=body, id="i", ttl=5.0).encode())
    return Message(sequence, 123, read_content(encoded), **fields)


def replayed(data):
    replay = records.Replay()
    end = 0
    for body, position in records.bodies(data):
        replay.apply(body)
        end = position
    return replay.queues, end


def test_records_bring_back_what_they_say():
    one, two = message(1, expires_ms=99, delivery_count=2), message(2)
    data = b"".join(
        [
            records.enqueued("q", one),
            records.enqueued("q", two),
            records.locked("q", 1),
            records.locked("q", 2),
            records.unlocked("q", message(2, delivery_count=1)),
            records.enqueued("q", message(3)),
            records.removed("q", 3),
            records.next_sequence("empty", 12),
        ]
    )
    queues, end = replayed(data)
    kept = queues["q"]
    assert end == len(data)
    assert (sorted(kept.messages), kept.locked, kept.next_sequence) == ([1, 2], {1}, 4)
    first = kept.messages[1]
    assert (first.content, first.expires_ms, first.delivery_count) == (one.content, 99, 2)
    assert kept.messages[2].delivery_count == 1
    assert queues["empty"].next_sequence == 12


def test_records_bring_back_where_a_message_stands():
    due = replace(message(1).content, scheduled_ms=500)
    scheduled = Message(1, 100, due, home=State.SCHEDULED)
    activated = Message(4, 500, due, 900)
    aside = message(2, delivery_count=1, home=State.DEFERRED)
    data = b"".join(
        [
            records.enqueued("q", scheduled),
            records.enqueued("q", message(2)),
            records.locked("q", 2),
            records.unlocked("q", aside),
            records.enqueued("q", message(3, home=State.DEFERRED)),
            records.activated("q", 1, activated),
        ]
    )
    first = replayed(data[: len(records.enqueued("q", scheduled))])[0]["q"].messages[1]
    assert (first.home, first.content) == (State.SCHEDULED, due)
    kept = replayed(data)[0]["q"]
    homes = {number: one.home for number, one in kept.messages.items()}
    assert homes == {2: State.DEFERRED, 3: State.DEFERRED, 4: State.ACTIVE}
    one = kept.messages[4]
    assert (one.sequence, one.enqueued_ms, one.expires_ms, one.content) == (4, 500, 900, due)
    assert (kept.next_sequence, kept.locked, kept.messages[2].delivery_count) == (5, set(), 1)


def test_a_torn_or_damaged_end_is_left_out():
    whole = records.enqueued("q", message(1))
    second = records.enqueued("q", message(2))
    for size in range(len(second)):
        queues, end = replayed(whole + second[:size])
        assert (list(queues["q"].messages), end) == ([1], len(whole))
    damaged = bytearray(second)
    damaged[-1] ^= 1
    assert replayed(whole + bytes(damaged))[1] == len(whole)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT1M", 60), ("PT0.5S", 0.5), ("P1DT1H", 90_000), ("PT", None), ("1M", None), ("", None)],
)
def test_durations_are_iso_8601(text, seconds):
    assert parse_duration_s(text) == seconds

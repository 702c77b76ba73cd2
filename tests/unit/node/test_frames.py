"""The frames hold against whatever a hostile child may write."""

import contextlib
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.node.frames import (
    AgentSpec,
    Answer,
    Call,
    Cancel,
    Decoder,
    Done,
    Failed,
    Fault,
    Frame,
    FrameLimits,
    FrameRate,
    Log,
    Ready,
    SandboxProtocolError,
    Sender,
    Task,
    ToolSpec,
    encode,
    scan,
)

LIMITS = FrameLimits(frame_bytes_max=4096, frames_max=50, depth_max=8, values_max=200)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | text
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)
maps = st.dictionaries(text, values, max_size=3)

from_child = st.one_of(
    st.builds(Ready),
    st.builds(Call, st.integers(0, 2**32), st.sampled_from(["model", "tool"]), maps),
    st.builds(Log, st.sampled_from(["debug", "info", "warning", "error"]), text, maps),
    st.builds(Done, text),
    st.builds(Failed, text),
)
ids = st.integers(0, 2**32)
faults = st.builds(Fault, text, text)
from_parent = st.one_of(
    st.builds(Cancel),
    st.builds(Answer, ids, st.just(True), values),
    st.builds(Answer, ids, st.just(False), st.none(), faults),
    st.builds(
        Task,
        text,
        st.builds(AgentSpec, text, text, text, st.integers(1, 10**6)),
        text,
        st.lists(st.builds(ToolSpec, text, text, maps), max_size=2),
    ),
)


def frame_of(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def raw(value: Any) -> bytes:
    return frame_of(msgspec.msgpack.encode(value))


def refusal(data: bytes, limits: FrameLimits = LIMITS) -> str:
    with pytest.raises(SandboxProtocolError) as caught:
        Decoder(limits).feed(data)
    return str(caught.value)


def same(left: Frame, right: Frame) -> bool:
    """Compare by bytes: a NaN is not equal to itself."""
    return encode(left) == encode(right)


@given(st.lists(from_child, max_size=5), st.integers(1, 40))
def test_frames_of_a_child_arrive_as_sent_however_the_stream_is_cut(
    frames: list[Frame], size: int
) -> None:
    stream = b"".join(encode(frame) for frame in frames)
    decoder = Decoder(FrameLimits())
    received: list[Frame] = []
    for start in range(0, len(stream), size):
        received += decoder.feed(stream[start : start + size])
    decoder.close()
    assert len(received) == len(frames)
    assert all(map(same, received, frames))


@given(from_parent)
def test_frames_of_the_parent_arrive_as_sent(frame: Frame) -> None:
    (received,) = Decoder(FrameLimits(), Sender.PARENT).feed(encode(frame))
    assert same(received, frame)


@given(from_parent)
def test_a_child_cannot_speak_as_the_parent(frame: Frame) -> None:
    with pytest.raises(SandboxProtocolError):
        Decoder(FrameLimits()).feed(encode(frame))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_the_protocol_error(data: bytes) -> None:
    for stream in (data, frame_of(data)):
        decoder = Decoder(LIMITS)
        try:
            decoder.feed(stream)
            decoder.close()
        except SandboxProtocolError:
            pass


@given(from_child, st.data())
def test_a_damaged_frame_raises_nothing_but_the_protocol_error(
    frame: Frame, data: st.DataObject
) -> None:
    stream = bytearray(encode(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SandboxProtocolError):
        Decoder(LIMITS).feed(bytes(stream))


@given(values)
def test_every_json_like_value_within_the_limits_passes_the_scan(value: Any) -> None:
    scan(msgspec.msgpack.encode(value), depth_max=32, values_max=1000)


@given(st.binary(max_size=100))
def test_what_the_scan_lets_pass_decodes_without_a_surprise(data: bytes) -> None:
    try:
        scan(data, depth_max=32, values_max=1000)
    except SandboxProtocolError:
        return
    with contextlib.suppress(UnicodeDecodeError):  # the one thing that the scan leaves
        msgspec.msgpack.decode(data)


def test_a_frame_longer_than_the_limit_is_refused_by_its_header_alone() -> None:
    assert "exceeds the limit" in refusal(struct.pack(">I", LIMITS.frame_bytes_max + 1))


def test_a_frame_of_exactly_the_limit_passes() -> None:
    empty = len(encode(Done(""))) - 4 + 2  # a text of this length has a longer head
    frame = Done("x" * (LIMITS.frame_bytes_max - empty))
    stream = encode(frame, LIMITS)
    assert len(stream) - 4 == LIMITS.frame_bytes_max
    assert Decoder(LIMITS).feed(stream) == [frame]


def test_a_frame_deeper_than_the_limit_is_refused() -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return {"t": "call", "id": 1, "kind": "tool", "request": {"deep": value}}

    assert Decoder(LIMITS).feed(raw(nested(LIMITS.depth_max - 2)))
    assert "deeper" in refusal(raw(nested(LIMITS.depth_max - 1)))


def test_a_bomb_of_nested_arrays_is_refused_before_anything_is_built() -> None:
    assert "deeper" in refusal(frame_of(b"\x91" * 4000 + b"\xc0"))


def test_a_frame_of_too_many_values_is_refused_by_its_head() -> None:
    assert "values" in refusal(frame_of(b"\xdd\xff\xff\xff\xff"))
    assert "values" in refusal(raw({"t": "log", "fields": list(range(LIMITS.values_max))}))


@pytest.mark.parametrize(
    "value",
    [
        {"t": "done", "text": b"bytes"},
        {"t": "done", 1: "number as a key"},
        {"t": "done", "text": msgspec.msgpack.Ext(1, b"x")},
    ],
)
def test_what_json_does_not_know_is_refused(value: Any) -> None:
    refusal(raw(value))


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        None,
        {"t": "unknown"},
        {"t": "done"},
        {"t": "done", "text": 7},
        {"t": "call", "id": "1", "kind": "tool", "request": {}},
        {"t": "call", "id": 1, "kind": "shell", "request": {}},
        {"t": "call", "id": 1, "kind": "tool", "request": []},
    ],
)
def test_what_is_not_a_known_frame_is_refused(value: Any) -> None:
    assert "not a known frame" in refusal(raw(value))


def test_text_that_is_not_utf_8_is_refused() -> None:
    assert "not a known frame" in refusal(frame_of(b"\x82\xa1t\xa4done\xa4text\xa2\xff\xfe"))


def test_bytes_after_the_value_are_refused() -> None:
    assert "after" in refusal(frame_of(msgspec.msgpack.encode({"t": "ready"}) + b"\xc0"))


def test_more_frames_than_the_limit_are_refused() -> None:
    decoder = Decoder(LIMITS)
    assert len(decoder.feed(encode(Ready()) * LIMITS.frames_max)) == LIMITS.frames_max
    with pytest.raises(SandboxProtocolError, match="more than 50 frames"):
        decoder.feed(encode(Ready()))


def test_a_decoder_that_refused_once_refuses_for_ever() -> None:
    decoder = Decoder(LIMITS)
    with pytest.raises(SandboxProtocolError):
        decoder.feed(frame_of(b"\xc1"))
    with pytest.raises(SandboxProtocolError):
        decoder.feed(encode(Ready()))


def test_a_stream_that_ends_inside_a_frame_is_refused() -> None:
    decoder = Decoder(LIMITS)
    assert decoder.feed(encode(Done("text"))[:-1]) == []
    with pytest.raises(SandboxProtocolError, match="inside a frame"):
        decoder.close()


def test_a_frame_that_is_too_large_or_not_encodable_is_not_sent() -> None:
    for frame in (Done("x" * 5000), Done("\ud800"), Call(1, "tool", {"big": 2**70})):
        with pytest.raises(SandboxProtocolError):
            encode(frame, LIMITS)


def test_the_rate_allows_a_burst_and_then_what_time_gives_back() -> None:
    rate = FrameRate(10.0, now_s=0.0)
    for _ in range(10):
        rate.admit(0.0)
    with pytest.raises(SandboxProtocolError, match="frames a second"):
        rate.admit(0.05)
    rate.admit(0.15)


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200))
def test_the_rate_never_admits_more_than_a_burst_and_the_time_passed(gaps: list[float]) -> None:
    rate, now_s, admitted = FrameRate(20.0, now_s=0.0), 0.0, 0
    for gap_s in gaps:
        now_s += gap_s
        try:
            rate.admit(now_s)
            admitted += 1
        except SandboxProtocolError:
            pass
    assert admitted <= 20.0 + 20.0 * now_s + 1e-6

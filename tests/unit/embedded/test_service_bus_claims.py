"""Tokens, what they cover, and the security layer in front of a connection."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpa.embedded.service_bus.claims import Claims, Token, read_token
from bpa.embedded.service_bus.refusals import Unauthorized
from bpa.embedded.service_bus.sasl import SaslFailed, SaslServer

SASL_HEADER = b"AMQP\x03\x01\x00\x00"
BEHIND = b"AMQP\x00\x01\x00\x00and so on"


def web_token(claims):
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({}, claims)]
    return b".".join([*(part.rstrip(b"=") for part in parts), b"signature"]).decode()


@pytest.mark.parametrize(
    ("token", "resource"),
    [
        ("SharedAccessSignature sr=sb%3A%2F%2Fh%3A1%2FA&sig=b%2B&se=200&skn=any", "a"),
        (b"SharedAccessSignature sr=a&sig=b&se=200", "a"),
        (web_token({"exp": 200}), None),
    ],
)
def test_a_token_is_a_signature_or_a_web_token_of_any_key(token, resource):
    assert read_token(token, 100.0) == Token(resource, 200.0)


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("SharedAccessSignature sr=a&sig=b&se=100", "has expired"),
        ("SharedAccessSignature sr=a&sig=b&se=soon", "not a number"),
        ("SharedAccessSignature sr=a&se=200", "lacks one of"),
        (web_token({"exp": 100}), "has expired"),
        (web_token({}), "neither"),
        ("eyJ0eXAi", "neither"),
        ("a.b.c", "neither"),
        (b"\xff\xfe", "neither"),
        (None, "no text"),
        (7, "no text"),
    ],
)
def test_a_token_that_is_malformed_or_expired_is_refused(token, problem):
    with pytest.raises(Unauthorized, match=problem):
        read_token(token, 100.0)


@pytest.mark.parametrize(
    ("audience", "node", "covered"),
    [
        ("sb://h/q", "q", True),
        ("amqps://h:1/Q/", "q/$deadletterqueue", True),
        ("sb://h/q/$management", "q/$management", True),
        ("sb://h/q/$management", "q", False),
        ("sb://h/q", "queue", False),
        ("sb://h/", "anything", True),
        ("sb://h", "anything", True),
    ],
)
def test_a_token_covers_its_audience_and_what_is_part_of_it(audience, node, covered):
    claims = Claims(lambda: None)
    claims.put(audience, Token(None, 200.0))
    assert claims.cover(node, 100.0) is covered
    assert not claims.cover(node, 200.0)
    assert claims.next_expiry_s(100.0) == 200.0
    assert claims.next_expiry_s(200.0) is None


def test_a_token_for_something_else_is_refused():
    with pytest.raises(Unauthorized, match="is for 'a', not for 'b'"):
        Claims(lambda: None).put("sb://h/b", Token("a", 200.0))


def test_a_renewed_token_takes_the_place_of_the_old_one():
    changes = []
    claims = Claims(lambda: changes.append(1))
    claims.put("sb://h/q", Token(None, 200.0))
    claims.put("sb://h/q", Token(None, 300.0))
    assert claims.cover("q", 250.0)
    assert (claims.next_expiry_s(100.0), len(changes)) == (300.0, 2)


def init(mechanism, response=None):
    fields = b"\xa3" + bytes([len(mechanism)]) + mechanism
    fields += b"\x40" if response is None else b"\xa0" + bytes([len(response)]) + response
    body = b"\x00\x53\x41\xc0" + bytes([len(fields) + 1, 2]) + fields
    return (len(body) + 8).to_bytes(4, "big") + b"\x02\x01\x00\x00" + body


@given(
    st.sampled_from([(b"ANONYMOUS", None), (b"MSSBCBS", b""), (b"PLAIN", b"\x00name\x00key")]),
    st.lists(st.integers(0, 70), max_size=5).map(sorted),
)
def test_the_security_layer_is_answered_however_the_bytes_are_cut(mechanism, cuts):
    stream = SASL_HEADER + init(*mechanism) + BEHIND
    server, answer, passed = SaslServer(), b"", b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        if server.finished:
            passed += stream[start:end]
        elif stream[start:end]:
            some, rest = server.feed(stream[start:end])
            answer, passed = answer + some, passed + rest
    assert passed == BEHIND
    assert server.trusted is (mechanism[0] == b"PLAIN")
    assert answer.startswith(SASL_HEADER)
    assert answer.endswith(b"\x50\x00")
    for name in (b"MSSBCBS", b"PLAIN", b"ANONYMOUS"):
        assert name in answer


@pytest.mark.parametrize(
    ("data", "answered"),
    [
        (init(b"EXTERNAL"), True),
        (init(b"PLAIN", b"\x00name\x00"), True),
        (init(b"PLAIN"), True),
        (b"\xff" * 64, False),
        (b"\x00\x00\x00\x10\x02\x01\x00\x00\x00\x53\x44\xc0\x03\x01\x50\x00", False),
        (b"\x00\x00\x00\x0b\x02\x01\x00\x00\x00\x53\x41", False),
    ],
)
def test_what_is_no_known_mechanism_ends_the_connection(data, answered):
    with pytest.raises(SaslFailed) as caught:
        SaslServer().feed(SASL_HEADER + data)
    assert caught.value.answer.endswith(b"\x50\x01") is answered


@pytest.mark.parametrize("data", [BEHIND, b"GET / HTTP/1.1", b"\x00" * 20])
def test_without_a_security_layer_everything_is_passed_on(data):
    server = SaslServer()
    assert server.feed(data) == (b"", data)
    assert server.finished
    assert not server.trusted

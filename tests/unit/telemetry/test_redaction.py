"""What is taken out of a text before anybody reads it, and what is left in it."""

from __future__ import annotations

import json

import pytest

from bpa.telemetry.redaction import redactor

SETTINGS = [
    "postgresql://bpa:Tr0ub4dor%26@db:5432/bpa",
    "rediss://default:correct-horse@redis:6379/0",
    "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=bWFya2Vk/k+ey=;",
    'an api "key" of its own',
]


@pytest.mark.parametrize(
    "text",
    [
        "login as bpa:Tr0ub4dor& refused",
        "auth correct-horse",
        "the key bWFya2Vk/k+ey= is wrong",
        "sas bWFya2Vk%2Fk%2Bey%3D",
        json.dumps({"header": 'an api "key" of its own'}),
    ],
)
def test_the_secrets_of_the_settings_are_taken_out_however_they_are_spelt(text: str) -> None:
    shown = redactor(SETTINGS)(text)
    assert "***" in shown
    for secret in ("Tr0ub4dor", "correct-horse", "bWFya2Vk", "of its own"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:s3cret@host/path", "https://user:***@host/path"),
        ("SharedAccessKey=abc=;EntityPath=q", "SharedAccessKey=***;EntityPath=q"),
        ("Authorization: Bearer abcdef.ghijkl", "Authorization: Bearer ***"),
        ("SharedAccessSignature sr=x&sig=AbC%2f&se=1", "SharedAccessSignature sr=x&sig=***&se=1"),
        ("host=db password=hunter22 user=bpa", "host=db password=*** user=bpa"),
        ('{"x-api-key": "0123456789"}', '{"x-api-key": "***"}'),
        (r'{"error": "{\"password\": \"hunter22\"}"}', r'{"error": "{\"password\": \"***\"}"}'),
        ("key sk-ant-api03-abcdef", "key sk-***"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, shown: str) -> None:
    assert redactor([])(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        '{"event":"message_settled","run_id":"01a2","disposition":"complete","node_id":"n@1"}',
        "the target http://127.0.0.1:8080/invoices answered HTTP 503 on try 1",
        "Endpoint=sb://localhost;SharedAccessKeyName=RootManageSharedAccessKey",
        "the basic rule: a task-force of risk-takers, keyed by sequence number",
        "password authentication failed for user bpa",
    ],
)
def test_everything_else_stands(text: str) -> None:
    assert redactor([*SETTINGS, "", "x"])(text) == text

"""Take secrets out of text before anybody reads it. Pure.

Nothing logs a secret on purpose. This is for the exception of a library that quotes what it was
given: a connection string, a header, an address with a password in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

SHOWN = "***"
_SHORTEST = 6
"""Shorter values are not searched for: they would take innocent words with them."""
_FORMS = tuple(
    (hint, re.compile(form, re.IGNORECASE))
    for hint, form in (
        ("sharedaccess", r"""(SharedAccess(?:Key|Signature)=)[^;&\s"']+"""),
        ("accountkey", r"""(AccountKey=)[^;&\s"']+"""),
        ("sig=", r"""(\bsig=)[^;&\s"']+"""),
        ("@", r"""(\b[a-z][a-z0-9+.-]*://[^\s/:@"']*:)[^\s/@"']+(?=@)"""),
        ("bearer", r"(\bBearer\s+)[A-Za-z0-9._~+/=-]{8,}"),
        ("basic", r"(\bBasic\s+)[A-Za-z0-9._~+/=-]{8,}"),
        ("password", r"""(\bpassword\\?["']?\s*[=:]\s*\\?["']?)[^\s"'\\,;&)}]+"""),
        ("key", r"""(\b(?:x-)?api[-_]?key\\?["']?\s*[=:]\s*\\?["']?)[^\s"'\\,;&)}]+"""),
        ("sk-", r"(\bsk-)[A-Za-z0-9_-]{8,}"),
    )
)
"""What a secret looks like where none is known, each with a word by which it is worth a look."""
_KEYS_OF_CONNECTION_STRINGS = frozenset({"SharedAccessKey", "SharedAccessSignature"})


def redactor(settings: Iterable[str]) -> Callable[[str], str]:
    """Return what replaces secrets in a text: the given ones, and whatever looks like one.

    Args:
        settings: Values of secret settings: a key, a connection string, an address with a
            password. Of the latter two, the secret part is searched for.
    """
    secrets = {part for value in settings for part in _secret_parts(value)}
    spellings = {form for one in secrets for form in (one, quote(one, ""), json.dumps(one)[1:-1])}
    longest_first = sorted(spellings, key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in longest_first:
            if secret in text:
                text = text.replace(secret, SHOWN)
        lower = text.lower()
        for hint, form in _FORMS:
            if hint in lower:
                text = form.sub(rf"\1{SHOWN}", text)
        return text

    return redact


def _secret_parts(value: str) -> list[str]:
    if "SharedAccess" in value:
        parts = dict(part.partition("=")[::2] for part in value.split(";"))
        found = [parts.get(name, "") for name in _KEYS_OF_CONNECTION_STRINGS]
    elif "://" in value:
        address = urlsplit(value)
        password = address.password or ""
        found = [password, unquote(password), dict(parse_qsl(address.query)).get("password", "")]
    elif re.search(r"\bpassword\s*=", value):  # libpq's key=value form
        found = re.findall(r"\bpassword\s*=\s*'?([^'\s]+)", value)
    elif "=" in value and " " in value:
        found = []
    else:
        found = [value]
    return [one for one in found if len(one) >= _SHORTEST]

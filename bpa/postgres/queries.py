"""Named queries: SQL lives in a ``.sql`` file beside the module that uses it, never in strings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import LiteralString


class Queries:
    """The statements of one ``.sql`` file, each an attribute under its name."""

    def __init__(self, source: str, statements: dict[str, str]) -> None:
        self._source = source
        self._statements = statements

    def __getattr__(self, name: str) -> LiteralString:
        statement = self.__dict__["_statements"].get(name)
        if statement is None:
            raise AttributeError(f"{self._source} has no query named {name!r}")
        # It comes from a file of this package, never from input: literal in every sense that counts
        return statement  # type: ignore[no-any-return]

    def __dir__(self) -> list[str]:
        return sorted(self._statements)


_NAME = re.compile(r"^--[ \t]*name:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_COMMENT_LINE = re.compile(r"^\s*--(?P<text>.*)$")
_INDENTATION = re.compile(r"\n[ \t]+")
# What may hold a semicolon that ends nothing: strings, quoted names, dollar quotes, comments.
_QUOTED = re.compile(
    r"'(?:[^']|'')*'|\"[^\"]*\"|(?P<tag>\$\w*\$).*?(?P=tag)|--[^\n]*|/\*.*?\*/", re.DOTALL
)


def load_queries(module_file: str | Path) -> Queries:
    """Read the ``.sql`` file beside ``module_file``; pass ``__file__``.

    Each query is a line ``-- name: identifier``, a comment with a sentence on it, and at most one
    statement or fragment of one. Lines that are only a comment are not sent to the server, nor is
    indentation: the driver remembers how to read a statement up to a certain length only.

    Raises:
        ValueError: A name is no identifier or stands twice, a query has no sentence, no SQL, or
            more than one statement.
        FileNotFoundError: There is no such file.
    """
    path = Path(module_file).with_suffix(".sql")
    pieces = _NAME.split(path.read_text(encoding="utf-8"))
    if _strip_comments(pieces[0]):
        raise ValueError(f"{path.name}: SQL before the first '-- name:' line")
    statements: dict[str, str] = {}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"{path.name}: {name!r} is no usable name for a query")
        if name in statements:
            raise ValueError(f"{path.name}: there are two queries named {name!r}")
        statements[name] = _statement(f"{path.name}: {name}", body)
    return Queries(path.name, statements)


def _statement(where: str, body: str) -> str:
    first_line = next((line for line in body.splitlines() if line.strip()), "")
    sentence = _COMMENT_LINE.match(first_line)
    if sentence is None or not sentence["text"].strip():
        raise ValueError(f"{where}: say in a comment under the name what the query is for")
    statement = _strip_comments(body).rstrip("; \n\t")
    if not statement:
        raise ValueError(f"{where}: there is no SQL")
    if ";" in _QUOTED.sub("", statement):
        raise ValueError(f"{where}: one statement per name, please")
    if any("\n" in quoted[0] for quoted in _QUOTED.finditer(statement)):
        return statement
    return _INDENTATION.sub("\n", statement)


def _strip_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not _COMMENT_LINE.match(line)).strip()

"""Files of named queries: what is read, and what is refused when it is read."""

import re
from pathlib import Path

import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH, MAX_CACHED_STATEMENT_PARAMS

import bpa
from bpa.control import costs, ledger
from bpa.control.ledger import Chosen
from bpa.postgres import load_queries


@pytest.fixture
def load(tmp_path: Path):
    def write_and_load(text: str):
        (tmp_path / "things.sql").write_text(text)
        return load_queries(tmp_path / "things.py")

    return write_and_load


def test_each_query_is_an_attribute_without_its_comments(load):
    queries = load(
        "-- Things and their ways.\n\n"
        "-- name: find_thing\n-- Find one by its id.\nSELECT *\n  -- the id is enough\n"
        "FROM things\nWHERE id = %(id)s;\n\n"
        "-- name: drop_things\n-- Forget them all.\nDELETE FROM things\n"
    )
    assert queries.find_thing == "SELECT *\nFROM things\nWHERE id = %(id)s"
    assert queries.drop_things == "DELETE FROM things"
    assert dir(queries) == ["drop_things", "find_thing"]


def test_indentation_is_left_out_but_never_inside_of_quotes(load):
    queries = load(
        "-- name: plain\n-- Select.\nSELECT\n    1,\n\t2\n"
        "-- name: quoted\n-- Select.\nSELECT\n    'a\n    b'\n"
    )
    assert queries.plain == "SELECT\n1,\n2"
    assert queries.quoted == "SELECT\n    'a\n    b'"


def test_a_name_that_is_not_there_is_an_attribute_error_that_names_the_file(load):
    queries = load("-- name: one\n-- The one.\nSELECT 1")
    with pytest.raises(AttributeError, match=r"things\.sql has no query named 'two'"):
        _ = queries.two


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-- name: a\n-- A.\nSELECT 1;\n-- name: a\n-- B.\nSELECT 2", "two queries named 'a'"),
        ("-- name: a\nSELECT 1", "say in a comment"),
        ("-- name: a\n--\nSELECT 1", "say in a comment"),
        ("-- name: a\n-- A.\n", "there is no SQL"),
        ("-- name: a b\n-- A.\nSELECT 1", "'a b' is no usable name"),
        ("-- name:\n-- A.\nSELECT 1", "'' is no usable name"),
        ("-- name: _a\n-- A.\nSELECT 1", "'_a' is no usable name"),
        ("-- name: a\n-- A.\nSELECT 1; SELECT 2", "one statement per name"),
        ("SELECT 0;\n-- name: a\n-- A.\nSELECT 1", "SQL before the first"),
    ],
)
def test_a_malformed_file_is_refused_when_it_is_read(load, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        load(text)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'a;b' || 'it''s;'",
        'SELECT 1 AS "a;b"',
        "DO $$ BEGIN PERFORM 1; END $$",
        "DO $tag$ BEGIN PERFORM 1; END $tag$",
        "SELECT 1 -- not; here",
        "SELECT /* nor; here */ 1",
    ],
)
def test_a_semicolon_that_ends_no_statement_is_no_second_statement(load, sql):
    assert load(f"-- name: a\n-- A.\n{sql};\n").a == sql


def test_a_missing_file_is_said_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_queries(tmp_path / "nothing.py")


PACKAGE = Path(bpa.__file__).parent
NAMED = {
    f"{path.relative_to(PACKAGE)}: {name}": getattr(queries, name)
    for path in sorted(PACKAGE.rglob("*.sql"))
    if path.with_suffix(".py").exists()
    for queries in [load_queries(path)]
    for name in dir(queries)
}
JOINED = {
    f"costs by {by}": costs._statement(by, Chosen(agent="a", deployment="d")) for by in ledger.By
}


def test_there_are_statements_to_look_at():
    assert "scheduler/commit.sql: grant" in NAMED
    assert len(NAMED) > 50


@pytest.mark.parametrize("name", [*NAMED, *JOINED])
def test_the_driver_remembers_how_to_read_every_statement(name):
    """A longer one, or one with more values, is parsed anew by psycopg at each call.

    For the grant that takes some 11 us of Python, in each pass of the scheduler. The limits are
    psycopg's own (psycopg/_queries.py, and discussion 628 of its repository).
    """
    statement = (NAMED | JOINED)[name]
    assert len(statement.encode()) <= MAX_CACHED_STATEMENT_LENGTH
    assert len(set(re.findall(r"%\((\w+)\)s", statement))) <= MAX_CACHED_STATEMENT_PARAMS

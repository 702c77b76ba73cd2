"""What is said of the API beside its handlers: examples, times, numbers."""

from datetime import UTC, datetime

import msgspec
import pytest

from bpa.control.rest.bodies import read_as
from bpa.control.rest.document import described
from bpa.control.rest.examples import EXAMPLES
from bpa.control.rest.headers import instant
from bpa.errors import InvalidRequest


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: type(one).__name__)
def test_each_example_may_be_sent_as_it_is(example: msgspec.Struct):
    assert read_as(type(example), msgspec.json.encode(example)) == example


def test_a_time_has_an_offset():
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    for written in ("2026-01-31T12:00:00Z", "2026-01-31t13:00+01:00", "2026-01-31 12:00:00.000z"):
        assert instant("since", written) == noon
    assert instant("since", None) is None


@pytest.mark.parametrize(
    "written",
    ["", "0.5", "1769860800", "2026-01-31", "2026-01-31T12:00:00", "2026-13-31T12:00:00Z", "null"],
)
def test_what_is_no_time_is_told_how_one_is_written(written: str):
    with pytest.raises(InvalidRequest, match=r"since: .* write 2026-01-31T00:00:00Z"):
        instant("since", written)


def operation(**fields: object) -> dict[str, object]:
    return {"description": "Do it.", "responses": {"200": {"description": "Done"}}, **fields}


def test_an_operation_brings_its_problems_and_headers_by_its_form():
    query = {"name": "cursor", "in": "query", "required": False, "schema": {"type": "string"}}
    tag = {"name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"}}
    said = {
        "paths": {
            "/things": {"get": operation(parameters=[query])},
            "/things/{id}": {"get": operation()},
            "/things/{id}/:stop": {"post": operation(parameters=[tag])},
        },
        "components": {"schemas": {}},
    }
    paths = described(said, {"Count": {"type": "integer"}})["paths"]
    listed = paths["/things"]["get"]["responses"]
    assert set(listed) == {"200", "400", "500", "503"}
    assert not listed["200"]["headers"]["Link"]["required"]
    assert paths["/things/{id}"]["get"]["responses"]["200"]["headers"]["ETag"]["required"]
    stopped = paths["/things/{id}:stop"]["post"]["responses"]
    assert {"409", "412"} <= set(stopped)
    assert stopped["200"]["headers"]["ETag"]["required"]

import json

import pytest

from bpa.demo.documents import read_expectations, shipped_demo
from bpa.errors import InvalidRequest, NotFound, Reason


def test_the_shipped_demonstration_has_a_hundred_documents_and_five_reasons():
    expected = read_expectations(shipped_demo())
    assert len(expected) == 100
    assert all((shipped_demo() / one.file).is_file() for one in expected)
    reasons = [one.reason for one in expected if one.outcome == "dead_lettered"]
    assert len(set(reasons)) == len(reasons) == 5
    assert set(reasons) <= set(Reason)


def test_a_folder_without_expectations_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="come with the checkout"):
        read_expectations(tmp_path)


LINE = {"file": "a/1.json", "content_type": "text/plain", "outcome": "completed"}


@pytest.mark.parametrize(
    "lines",
    [
        ["{"],
        [json.dumps({**LINE, "outcome": "lost"})],
        [json.dumps({**LINE, "amount": "1.00"})],
        [json.dumps(LINE), json.dumps({**LINE, "file": "b/1.json"})],
    ],
)
def test_expectations_that_make_no_sense_are_refused(tmp_path, lines):
    (tmp_path / "expected.jsonl").write_text("\n".join(lines))
    with pytest.raises(InvalidRequest, match=r"expected\.jsonl"):
        read_expectations(tmp_path)

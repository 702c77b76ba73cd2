"""Which requests come from a page of ours."""

import pytest

from bpa.ui.origin import is_same_origin


@pytest.mark.parametrize(
    ("fetch_site", "origin", "is_ours"),
    [
        ("same-origin", None, True),
        ("same-origin", "http://elsewhere", True),
        ("same-site", "http://localhost:8080", False),
        ("cross-site", None, False),
        ("none", None, False),
        (None, "http://localhost:8080", True),
        (None, "http://localhost:9090", False),
        (None, "null", False),
        (None, None, False),
    ],
)
def test_a_form_is_taken_from_a_page_of_ours_alone(fetch_site, origin, is_ours):
    assert is_same_origin("localhost:8080", fetch_site, origin) is is_ours

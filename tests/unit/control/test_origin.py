"""Which requests another site has sent, and which a page of ours."""

import pytest

from bpa.control.rest.origin import foreign, is_same_origin


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


@pytest.mark.parametrize(
    ("server", "host", "is_refused"),
    [
        ("127.0.0.1", "127.0.0.1:8080", False),
        ("127.0.0.1", "localhost:8080", False),
        ("127.0.0.1", "bpa.localhost", False),
        ("::1", "[::1]:8080", False),
        ("127.0.0.1", "", False),  # HTTP/1.0: no browser
        ("127.0.0.1", "evil.example:8080", True),
        ("127.0.0.1", "127.0.0.1.evil.example", True),
        ("::1", "evil.example", True),
        ("127.0.0.1", "[", True),
        ("10.1.2.3", "bpa.example", False),
        ("", "anything", False),
    ],
)
def test_loopback_answers_to_its_own_names_alone(server, host, is_refused):
    assert (foreign("GET", server, host, None, None) is not None) is is_refused


@pytest.mark.parametrize(
    ("method", "fetch_site", "origin", "is_refused"),
    [
        ("POST", None, None, False),  # a script
        ("POST", "same-origin", "http://localhost:8080", False),
        ("POST", None, "http://localhost:8080", False),
        ("POST", "none", None, False),
        ("POST", "cross-site", "http://evil.example", True),
        ("POST", "same-site", "http://localhost:9090", True),
        ("POST", None, "http://evil.example", True),
        ("POST", None, "null", True),
        ("DELETE", "cross-site", None, True),
        ("GET", "cross-site", None, False),  # a link that somebody followed
    ],
)
def test_what_another_sites_page_sends_changes_nothing(method, fetch_site, origin, is_refused):
    why = foreign(method, "127.0.0.1", "localhost:8080", fetch_site, origin)
    assert (why is not None) is is_refused

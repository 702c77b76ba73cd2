from types import SimpleNamespace

import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError

from bpa.connectors.service_bus.administration import _translated
from bpa.errors import NotFound, StartupError, Unavailable


def refused(status: int) -> HttpResponseError:
    return HttpResponseError(response=SimpleNamespace(status_code=status, reason="", headers={}))


@pytest.mark.parametrize(
    ("error", "ours", "said"),
    [
        (refused(401), StartupError, "its key needs the Manage right"),
        (refused(403), StartupError, "its key needs the Manage right"),
        (refused(404), NotFound, "queue 'q' does not exist"),
        (refused(410), NotFound, "queue 'q' does not exist"),
        (refused(429), Unavailable, "HTTP 429"),
        (refused(503), Unavailable, "HTTP 503"),
        (ServiceRequestError("no", error=ConnectionRefusedError()), Unavailable, "(ConnectionRef"),
        (TimeoutError(), Unavailable, "within 5 s"),
        (FileNotFoundError("ca.pem"), Unavailable, "certificates"),
        (AttributeError("'NoneType' object has no attribute 'text'"), Unavailable, "Attribute"),
    ],
)
def test_each_error_of_the_administration_has_one_of_ours(error, ours, said):
    cause = _translated(error, "q")
    assert type(cause) is ours
    assert said in str(cause)

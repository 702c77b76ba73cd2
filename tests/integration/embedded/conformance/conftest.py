"""Every case of the Python SDK is played over its blocking and its async client."""

import pytest


@pytest.fixture(params=["async", "sync"])
def kind(request):
    return request.param

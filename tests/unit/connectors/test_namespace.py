import pytest

from bpa.connectors.service_bus import namespace_of
from bpa.errors import StartupError

KEY = "SharedAccessKeyName=Root;SharedAccessKey=a=b="


@pytest.mark.parametrize(
    ("connection_string", "namespace"),
    [
        (f"Endpoint=sb://BPA-MVP.servicebus.windows.net/;{KEY}", "bpa-mvp"),
        (f"Endpoint=sb://bpa-mvp.servicebus.windows.net:5671/;{KEY}", "bpa-mvp"),
        (f"Endpoint=sb://localhost:9;{KEY};UseDevelopmentEmulator=true;", "sbemulatorns"),
    ],
)
def test_a_namespace_goes_by_its_name_whatever_the_address(connection_string, namespace):
    assert namespace_of(connection_string) == namespace


def test_a_string_without_endpoint_is_refused():
    with pytest.raises(StartupError, match="Endpoint"):
        namespace_of(KEY)

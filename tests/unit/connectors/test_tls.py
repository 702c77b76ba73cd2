"""TLS to Service Bus: certificates are read once, and looked at as the SDK does."""

import ssl

from bpa.connectors.service_bus.client import tls_to


def test_a_namespace_is_believed_only_with_a_certificate_of_its_name():
    context = tls_to(is_emulator=False)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.get_ca_certs()


def test_authorities_are_read_once_for_all_connections():
    assert tls_to(is_emulator=False) is tls_to(is_emulator=False)

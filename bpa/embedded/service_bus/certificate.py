"""A certificate of our own for this machine, for clients that speak HTTPS whatever they are told.

Made once for a data directory, as clients are told to trust the file, and again for another host.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bpa.errors import StartupError

CERTIFICATE = "admin-tls.pem"
_KEY = "admin-tls.key"
_VALID = timedelta(days=3650)
_SLOW_CLOCKS = timedelta(days=1)
_HOSTS = ("localhost", "127.0.0.1", "::1")
_OURS = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bpa Service Bus emulator")])


def server_context(directory: Path, host: str) -> ssl.SSLContext:
    """Return what serves TLS under the directory's certificate; make that if there is none.

    Raises:
        StartupError: The files cannot be used; one line.
    """
    certificate, key = directory / CERTIFICATE, directory / _KEY
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if not (certificate.exists() and key.exists()) or _lacks(certificate, host):
            _make(certificate, key, host)
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise StartupError(
            f"TLS for administration: {certificate} cannot be used ({error}); remove it and its "
            "key, or leave --admin-tls-port out"
        ) from error
    return context


def _lacks(certificate: Path, host: str) -> bool:
    """Whether it is one of ours, not one that was put there, and made for other hosts."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    if found.issuer != _OURS:
        return False
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return _named(host) not in names


def _make(certificate: Path, key: Path, host: str) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    signed = _signed(private, dict.fromkeys((*_HOSTS, host)))
    certificate.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=certificate.parent) as made:
        fresh, fresh_key = Path(made) / "certificate", Path(made) / "key"
        fresh_key.touch(mode=0o600)
        fresh_key.write_bytes(
            private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        fresh.write_bytes(signed.public_bytes(Encoding.PEM))
        fresh_key.replace(key)
        fresh.replace(certificate)


def _signed(private: ec.EllipticCurvePrivateKey, hosts: Iterable[str]) -> x509.Certificate:
    """Sign a certificate for the hosts with its own key: clients trust it as an authority."""
    public = private.public_key()
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=_OURS,
        subject_name=_OURS,
        public_key=public,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _SLOW_CLOCKS,
        not_valid_after=now + _VALID,
    )
    for critical, extension in (
        (True, x509.BasicConstraints(ca=True, path_length=0)),
        (False, x509.SubjectKeyIdentifier.from_public_key(public)),
        (False, x509.SubjectAlternativeName([_named(host) for host in hosts])),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(private, hashes.SHA256())


def _named(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)

"""A certificate of our own for this machine, for clients that speak HTTPS whatever they are told.

Made by the ``openssl`` program, once for a data directory: clients are told to trust the file.
"""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from pathlib import Path

from bpa.errors import StartupError

CERTIFICATE = "admin-tls.pem"
_KEY = "admin-tls.key"
_VALID_DAYS = "3650"
_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"


def server_context(directory: Path, host: str) -> ssl.SSLContext:
    """Return what serves TLS under the directory's certificate; make that if there is none.

    Raises:
        StartupError: There is no ``openssl``, or the files cannot be used; one line.
    """
    certificate, key = directory / CERTIFICATE, directory / _KEY
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if not (certificate.exists() and key.exists()):
            _make(certificate, key, host)
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise StartupError(
            f"TLS for administration: {certificate} cannot be used ({error}); remove it and its "
            "key, or leave --admin-tls-port out"
        ) from error
    return context


def _make(certificate: Path, key: Path, host: str) -> None:
    names = (
        _NAMES if host in ("localhost", "127.0.0.1", "::1") else f"{_NAMES},{_kind(host)}:{host}"
    )
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    certificate.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=certificate.parent) as made:
        fresh, fresh_key = Path(made) / "certificate", Path(made) / "key"
        files = ["-keyout", str(fresh_key), "-out", str(fresh), "-days", _VALID_DAYS, "-nodes"]
        subject = ["-subj", "/CN=bpa Service Bus emulator", "-addext", names]
        try:
            subprocess.run([*words, *files, *subject], check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise StartupError(
                "TLS for administration needs the openssl program: install it, or leave "
                "--admin-tls-port out"
            ) from error
        except subprocess.CalledProcessError as error:
            reason = (error.stderr or "").strip().splitlines()[-1:] or ["it failed"]
            raise StartupError(f"openssl cannot make a certificate: {reason[0]}") from error
        fresh_key.replace(key)
        fresh.replace(certificate)


def _kind(host: str) -> str:
    return "IP" if host.replace(".", "").isdigit() or ":" in host else "DNS"

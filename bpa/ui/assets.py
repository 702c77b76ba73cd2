"""Style, scripts and the icon: ours, and htmx out of its package.

Each is served under a name with a hash of its content, so that a browser keeps it for good and a
new release is fetched at once. The package that htmx comes in is found, never imported: it is a
Django application of which its files alone are wanted.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bpa.errors import StartupError

_OURS = Path(__file__).with_name("static")
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FROM_PACKAGE = {
    "htmx.js": "static/django_htmx/htmx-2.min.js",
    "sse.js": "static/django_htmx/ext/hx-sse-2.min.js",
}
_HASH_CHARS = 12


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is served."""

    url_name: str
    """``name.hash.kind``."""
    kind: str
    """Media type."""
    content: bytes


class Assets:
    """What pages link to, by its plain name and by the one in its URL."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        made = {name: _asset(name, content) for name, content in files.items()}
        self._by_url_name = {asset.url_name: asset for asset in made.values()}
        self.urls: Mapping[str, str] = MappingProxyType(
            {name: f"/ui/static/{asset.url_name}" for name, asset in made.items()}
        )

    def find(self, url_name: str) -> Asset | None:
        """Return what is served under that name."""
        return self._by_url_name.get(url_name)


def read_assets() -> Assets:
    """Read the files of this package and of htmx's.

    Raises:
        StartupError: htmx's package is not installed, or is another release of it.
    """
    files = {path.name: path.read_bytes() for path in _OURS.iterdir() if path.suffix in _KINDS}
    found = importlib.util.find_spec("django_htmx")
    home = Path(found.origin).parent if found and found.origin else Path("django_htmx")
    for name, path in _FROM_PACKAGE.items():
        try:
            files[name] = (home / path).read_bytes()
        except OSError as error:
            raise StartupError(
                f"htmx is not there ({home / path}): install the locked requirements"
            ) from error
    return Assets(files)


def _asset(name: str, content: bytes) -> Asset:
    stem, _, kind = name.rpartition(".")
    digest = hashlib.sha256(content).hexdigest()[:_HASH_CHARS]
    return Asset(f"{stem}.{digest}.{kind}", _KINDS[f".{kind}"], content)

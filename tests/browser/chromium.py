"""Where a Chromium is."""

from __future__ import annotations

import os
import shutil

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu")
MISSING = "no Chromium here: install one (apt install chromium) or set BPA_CHROMIUM"


def chromium() -> str | None:
    """Return where a Chromium is: BPA_CHROMIUM says so, or it is on the path."""
    named = os.environ.get("BPA_CHROMIUM")
    return named or next(filter(None, map(shutil.which, _NAMES)), None)

"""Prometheus: the installed one, else Debian's, fetched once for the checkout."""

from __future__ import annotations

import pytest

from observability.programs import Missing, Programs, programs


@pytest.fixture(scope="session")
def prometheus() -> Programs:
    """Return the programs; skip where no apt could bring them, fail where it should have."""
    try:
        return programs()
    except Missing as missing:
        if missing.could_be_had:
            raise
        pytest.skip(str(missing))

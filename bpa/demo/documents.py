"""The hundred documents under ``demo/`` and what is expected of each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from bpa.errors import InvalidRequest, NotFound


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of ``expected.jsonl``: a document and what must become of it."""

    file: str
    """Relative to the folder of the demonstration."""
    content_type: str
    outcome: Literal["completed", "dead_lettered"]
    reason: str = ""
    """Why it is dead-lettered; empty when it completes."""
    vendor: str = ""
    route: str = ""
    invoice_id: str = ""
    currency: str = ""
    total: str = ""
    """A decimal string, as the target must get it."""
    issued_on: str = ""
    kind: str = ""

    @property
    def name(self) -> str:
        """The file's name, which is also its message's id."""
        return Path(self.file).name


def shipped_demo() -> Path:
    """Return the folder of the demonstration in the checkout."""
    return Path(__file__).resolve().parents[2] / "demo"


def read_expectations(folder: Path) -> list[Expectation]:
    """Read ``expected.jsonl``, in the order of sending.

    Raises:
        NotFound: The folder is not there.
        InvalidRequest: A line says something else, or a file or its name comes twice.
    """
    path = folder / "expected.jsonl"
    try:
        lines = path.read_bytes().splitlines()
        expectations = [msgspec.json.decode(line, type=Expectation) for line in lines]
    except FileNotFoundError as error:
        raise NotFound(
            f"{path} is not there: the demonstration's documents come with the checkout"
        ) from error
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{path}: {error}") from error
    if len({expectation.name for expectation in expectations}) < len(expectations):
        raise InvalidRequest(f"{path}: a file's name comes twice")
    return expectations

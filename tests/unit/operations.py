"""Operations as REST says them."""

from datetime import UTC, datetime

from bpa.control.operation_terms import DONE, Act, State
from bpa.control.rest.operation_schemas import Operation, OperationChosen


def operation(**changes) -> Operation:
    """Return an operation with these counts by result, and what else is given."""
    counts = changes.pop("counts", {})
    finished = sum(counts.values())
    values = {
        "id": "5f6a8a52-8c0e-4f0a-9a38-0c9a2f1d9a2c",
        "action": Act.REPLAY,
        "state": State.DONE,
        "chosen": OperationChosen(),
        "detail": "",
        "requested_by": "me@here",
        "rate_per_s": None,
        "looked_at_all": True,
        "items": finished,
        "finished": finished,
        "succeeded": sum(n for result, n in counts.items() if result in DONE),
        "remaining": changes.get("items", finished) - finished,
        "counts": counts,
        "trouble": "",
        "created_at": datetime(2026, 3, 1, tzinfo=UTC),
        "started_at": None,
        "ended_at": None,
        "stopped_by": None,
    }
    return Operation(**{**values, **changes})

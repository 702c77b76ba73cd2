"""What REST says of circuit breakers."""

from __future__ import annotations

from bpa.control.rest.schemas import Document, Time


class Breaker(Document, frozen=True):
    """The circuit breaker of one target host."""

    host: str
    """Scheme, host and port."""
    state: str
    """``open``: no run but a probe goes there; ``closing``: a few at once; ``closed``: all."""
    since: Time | None
    """When it opened, or when the target last answered while it closed."""
    probe_at: Time | None
    """When the next probe may go, while it is open."""
    probe_run_id: str | None
    """The run that probes it at this moment."""
    ramp: int | None
    """Runs at once while it closes."""
    failed_probes: int
    parked_runs: int
    """Runs that wait for it, their executions having ended there."""
    deployments: list[str]
    """Whose runs have failed there."""
    last_error: str
    failed_at: Time | None

"""``bpa`` without what makes runs durable: the other side of a comparison, and nothing to run.

``python -m tests.bench.undurable WITHOUT... -- bpa WORD...`` runs the command with these left out:

- ``journal``: no step is reported and so none is recorded: neither intents before calls nor answers
  before the agent hears of them. What is left is the end of a run in its one commit.
- ``acknowledgement``: a node works on what it is offered without waiting for control to confirm,
  and its outcome is taken from a run that is only offered. Epochs are still compared: that is part
  of a statement that has to find the run anyway.

Heartbeats, which renew all leases of a node in one statement, stay as they are.
"""

from __future__ import annotations

import sys

from bpa.cli import main as bpa
from bpa.control import runs
from bpa.domain.journal import Step
from bpa.node.lease import HeldLease
from bpa.node.link import Report
from bpa.protos.bpa.v1 import Acknowledge

_GUARD = "and r.status = 'running'"


def leave_out(kinds: tuple[type, ...]) -> None:
    """Have leases report nothing of these kinds, as if control had confirmed it at once."""
    report = HeldLease.report

    async def reported(lease: HeldLease, what: Report) -> None:
        if not isinstance(what, kinds):
            await report(lease, what)

    HeldLease.report = reported  # type: ignore[method-assign]


def finish_what_is_offered() -> None:
    """Have an outcome end a run that was never acknowledged."""
    statements = runs._QUERIES._statements  # there is no setting for it, on purpose
    if _GUARD not in statements["finish"]:
        raise SystemExit("the statement that ends a run has changed; change this with it")
    statements["finish"] = statements["finish"].replace(_GUARD, "")


def main() -> None:
    """Leave out what the first words say, and run the rest."""
    end = sys.argv.index("--")
    without = set(sys.argv[1:end])
    kinds: list[type] = []
    if "journal" in without:
        kinds.append(Step)
    if "acknowledgement" in without:
        kinds.append(Acknowledge)
        finish_what_is_offered()
    if unknown := without - {"journal", "acknowledgement"}:
        raise SystemExit(f"{', '.join(sorted(unknown))}: cannot be left out")
    leave_out(tuple(kinds))
    sys.argv = sys.argv[end + 1 :]
    bpa()


if __name__ == "__main__":
    main()

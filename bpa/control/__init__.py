"""The control plane: it alone writes what exists and what happened.

In the order of a message's way: ``ingest`` receives and ``intake`` decodes it, ``runs`` records it,
the scheduler places it, ``offers`` takes it to a node over ``grpc``, ``leases`` keeps it there,
``runs`` records steps and the outcome, which ``decision`` judges, ``settlement`` settles the
message; ``reaper`` ends leases that lapsed, ``drains`` empties nodes, ``breakers`` parks runs whose
target fails, ``readiness`` says what is waited for. ``dead_letters`` shows what was buried,
``sweep`` finds what the broker buried (``sweep_mark`` where to look), ``burials`` ends the runs of
that, and ``replaying`` sends it again, as ``replay_plan`` says, with the rows of ``replays``.
``history`` tells what is known of runs, ``costs`` what they cost, as ``ledger`` counts it;
``agents``, ``deployments`` and ``nodes`` keep what is registered. ``revisions`` edits deployments
and keeps what they said; ``simulations`` says what an edit would come to (``spec_checks``,
``spec_changes`` and ``spec_effects`` are its pure parts). ``http`` serves all of it under ``/v1``
with the handlers of ``rest``. May import the foundation, postgres, valkey, connectors and
scheduler; never node or embedded.
"""

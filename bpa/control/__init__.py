"""The control plane: it alone writes what exists and what happened.

In the order of a message's way: ``ingest`` receives and ``runs`` records it, the scheduler places
it, ``leases`` offers it to a node over ``grpc``, ``runs`` records steps and the outcome,
``settlement`` settles the message; ``reaper`` ends leases that lapsed. ``dead_letters`` shows what
was buried, and ``replaying`` sends it again, as ``replay_plan`` says, with the rows of
``replays``. ``agents``, ``deployments`` and ``nodes`` keep what is registered; ``http`` serves all
of it under ``/v1`` with the handlers of ``rest``. May import the foundation, postgres, valkey,
connectors and scheduler; never node or embedded.
"""

"""The node: takes leases, runs each in a sandbox, and is the sandbox's only way out.

Read ``executor`` first: one execution, step by step. The sandbox is ``zygote`` (the node's side of
the process that forks children) and ``sandbox`` (one child); inside the child are ``confine``,
``channel`` and ``agent``, and ``frames`` is what passes between. ``broker`` serves the frames with
secrets, budgets and the journal (``thinking``: model calls, over ``model_calls``, ``providers`` and
``conversation``; ``posting``: the effect, past the ``breakers``; ``outlets``: what both share;
``budget``, ``pricing`` and ``journal`` are pure). ``runtime`` is the node's life, ``lease`` one
lease in its hands, ``link`` the way to control.

The node imports neither ``control`` nor a database client. What runs in the zygote
(``zygote_main``, ``channel``, ``confine``, ``protections``, ``agent``, ``frames``) imports the
standard library, msgspec, ``bpa.errors``, the names in ``bpa.domain.sandboxes`` and the agent
framework alone: every MiB there costs each run a tenth of a millisecond.
"""

"""Harm done to a fleet at work, and accounts held against each other afterwards.

``make chaos`` plays every case, each on a stage of its own, prints the figures and keeps data and
logs of what did not hold; ``make chaos SEED=7 CASE=kill-nodes`` plays one again. ``make test``
plays the short ones on one stage (``test_short``); ``python -m tests.chaos --list`` names them all.

To read: ``scene`` (what a case is, and how one is played), ``cases`` (the harm), then ``judges``
(what must hold, by the accounts of broker, target, model stub and Postgres) and ``watch`` (what
must hold at every moment). Below them lie ``servers`` (what a fleet leans on), ``fleet`` (the
installed ``bpa`` as two control replicas and two nodes, supervised), ``wires`` (a TCP proxy between
nodes and control), ``settlements`` (an AMQP proxy between control and broker) and ``load``.

To add a case:

1. Write an ``async def`` in a module of ``cases`` whose docstring's first line says what it does.
   Load comes in from before its first line until it returns.
2. Wait for something to bite into before you harm (``act.busy(node)``, ``act.receiving(control)``),
   draw choices from ``act.rng``, wait for consequences with ``eventually`` or ``leased_again``, and
   use ``lasting`` for the time that a fault itself takes.
3. Tell what it bit with ``act.bit("what", into=how many)``, as found by a judge, not as intended.
4. Undo the harm before you return: who is killed starts again by itself, who is frozen does not.
5. Add a ``Case`` to the module's ``CASES`` that names its bites: one that never bit makes it
   invalid. What must always hold is judged by itself; a figure of its own goes into
   ``act.figures``, a demand of its own is an ``assert``.
6. Only if it takes a few seconds: ``is_short=True`` makes it part of ``make test``.
"""

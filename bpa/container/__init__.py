"""The composition root: the one place that builds I/O objects, and the one that knows dishka.

A role asks for what it runs; everything below is built on the way, once, and closed in reverse.
``node`` and ``control`` are what the roles are made of; control of ``stores`` (what it stands on),
``messages`` (what it does with queues) and the rest; the local stack comes from ``embedded``.
"""

from bpa.embedded.stack import LocalStack, local_stack

__all__ = ["LocalStack", "local_stack"]

"""The composition root: the one place that builds I/O objects, and the one that knows dishka.

A role asks for what it runs; everything below is built on the way, once, and closed in reverse.
``control`` and ``node`` are what those roles are made of; the local stack comes from ``embedded``.
"""

from bpa.embedded.stack import LocalStack, local_stack

__all__ = ["LocalStack", "local_stack"]

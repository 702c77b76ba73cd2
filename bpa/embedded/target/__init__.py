"""An invoice API that honours idempotency keys: the local default's target.

Read in this order: ``server`` (the edge), ``invoices`` (what a body must be), ``keys`` (what a
key means and what was received), ``journal`` (how it survives), ``rules`` (how it is told to
fail). It imports the foundation and its neighbours ``web`` and ``script`` alone.
"""

from bpa.embedded.target.server import TargetApi, TargetOptions

__all__ = ["TargetApi", "TargetOptions"]

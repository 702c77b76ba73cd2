"""A Service Bus on one machine: AMQP 1.0 queues that survive a kill, for the real client SDKs.

Imports the foundation (``bpa.errors``, ``bpa.amqp``, ``bpa.stderr``) alone. Read it in this order:

1. ``emulator``: what comes up when; ``config``: the official emulator's Config.json; ``tiers``:
   how large things may be.
2. ``connection``: bytes between a socket and ``engine`` (qpid-proton's C library, sans I/O), past
   ``sasl``, cut by ``framing`` so that batches are seen; ``attach``: what a link is for.
3. ``links``: messages to and from a queue, on ``deliveries``, joined by ``inbox``; ``requests``:
   request and response, for ``cbs`` (the tokens, kept as ``claims``) and ``management`` (locks,
   numbers, peek).
4. ``queue``: what each settlement does (pure), ``refusals`` and ``status``: why it does not;
   ``intake``: what becomes of what is sent; ``receivers``: whose turn it is;
   ``store``, ``locks`` and ``deadlines``: where messages stand, who holds them, and when something
   is due; ``duplicates``: what was sent before; ``counterparts``: whom a queue works with;
   ``message`` and ``content``: what is kept of a message, on the bytes alone, with ``bpa.amqp``;
   ``tally``: what was counted.
5. ``broker``: queues, clock and alarms; ``entities``: what is known of a queue, and whose word
   counts at a start; ``journal`` and ``records``: what survives.
6. ``admin``: health, ``counts`` and ``metrics`` over HTTP (``top`` shows them live), and
   ``administration``, which the SDKs' administration clients talk to: ``descriptions`` reads what
   they send, ``atom`` writes what they are told.
"""

from .config import DEFAULT_NAMESPACE, NamespaceConfig, QueueConfig, load_config
from .emulator import EmulatorOptions, ServiceBusEmulator
from .tiers import PREMIUM, STANDARD, Tier

__all__ = [
    "DEFAULT_NAMESPACE",
    "PREMIUM",
    "STANDARD",
    "EmulatorOptions",
    "NamespaceConfig",
    "QueueConfig",
    "ServiceBusEmulator",
    "Tier",
    "load_config",
]

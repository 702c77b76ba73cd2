"""Azure Service Bus as a source, a publisher and a reader of dead letters.

``source`` is the front; behind it ``link`` owns one SDK receiver and keeps its calls apart,
``messages`` translates messages both ways without I/O, ``client`` opens connections and translates
the SDK's errors. ``peeking`` looks without a lock, ``dead_letters`` also with one; ``replayed``
writes what replays one. ``backlog`` tells how much waits: ``administration`` counts, or it peeks.
Nothing else in the tree touches azure-servicebus.
"""

from bpa.connectors.service_bus.administration import Administration
from bpa.connectors.service_bus.backlog import Backlog, BacklogReader, Counts, Trouble
from bpa.connectors.service_bus.client import is_emulator, namespace_of
from bpa.connectors.service_bus.dead_letters import (
    DeadLetter,
    DeadLetterLocks,
    DeadLetterReader,
    Peek,
)
from bpa.connectors.service_bus.publisher import ServiceBusPublisher
from bpa.connectors.service_bus.replayed import Rewrite, replayed
from bpa.connectors.service_bus.source import ServiceBusSource

__all__ = [
    "Administration",
    "Backlog",
    "BacklogReader",
    "Counts",
    "DeadLetter",
    "DeadLetterLocks",
    "DeadLetterReader",
    "Peek",
    "Rewrite",
    "ServiceBusPublisher",
    "ServiceBusSource",
    "Trouble",
    "is_emulator",
    "namespace_of",
    "replayed",
]

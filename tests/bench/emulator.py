"""How fast our Service Bus emulator is, beside itself without durability and beside RabbitMQ."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.bench.bare import BareClient
from tests.bench.brokers import RABBITMQ_IS_FOUND, Broker, Emulator, Process, RabbitMQ
from tests.bench.compaction import longest_waits
from tests.bench.durability import named
from tests.bench.rounds import Note
from tests.bench.sdk import SdkClient

QUEUED = 100_000
_WITHOUT_RABBITMQ = """\
RabbitMQ is left out: its program, rabbitmq-server, is not found.
On Debian: apt-get install --no-install-recommends rabbitmq-server"""
_WARM = 500
_ROUND_TRIPS = 500
_SDK_SHARE = 10
"""The SDK is that much slower, and is given so many fewer messages."""


class Client(Protocol):
    """One sender and one receiver."""

    def send(self, count: int) -> None:
        """Send so many; return when all are accepted."""

    def receive(self, count: int) -> None:
        """Receive so many and settle each."""

    def close(self) -> None:
        """Hang up."""


def compare_brokers(folder: Path, arguments: argparse.Namespace, note: Note) -> None:
    """Note each broker's figures; a round starts each once, so that all share the noise."""
    brokers: list[Broker] = [Emulator("durable", keeps=True), Emulator("in memory", keeps=False)]
    if RABBITMQ_IS_FOUND:
        brokers += [
            RabbitMQ("RabbitMQ, quorum queue", "quorum", keeps=True),
            RabbitMQ("RabbitMQ, in memory", "classic", keeps=False),
        ]
    else:
        sys.stderr.write(f"{_WITHOUT_RABBITMQ}\n")
    for number in range(arguments.rounds):
        for broker in brokers:
            data = folder / f"{number} {broker.name}"
            data.mkdir()
            _measure(broker, data, arguments.messages, named(note, broker.name))


def _measure(broker: Broker, folder: Path, count: int, note: Note) -> None:
    process = broker.start(folder)
    try:
        _drive(_bare(broker, process), process, count, "bare client", note)
        if process.connection_string is not None:
            sdk = SdkClient(process.connection_string)
            _drive(sdk, process, count // _SDK_SHARE, "SDK", note)
        _fill(_bare(broker, process), process, note)
        if broker.keeps:
            process.stop()
            began = time.monotonic()
            process = broker.start(folder)
            note(f"{QUEUED:,} queued: start, s", time.monotonic() - began)
        if process.journal is not None:
            for what, wait_ms in longest_waits(process).items():
                note(f"{QUEUED:,} queued, compaction: longest wait for {what}, ms", wait_ms)
    finally:
        process.stop()


def _bare(broker: Broker, process: Process) -> BareClient:
    return BareClient(process.port, broker.address, durable=broker.keeps, waits=broker.confirms)


def _drive(client: Client, process: Process, count: int, who: str, note: Note) -> None:
    client.send(_WARM)
    client.receive(_WARM)
    for what, work in (("sent", client.send), ("received", client.receive)):
        _in_batches(process, work, count, f"{who}, {what}", note)
    trips = sorted(_round_trip_ms(client) for _ in range(_ROUND_TRIPS))
    client.close()
    note(f"{who}, sent to settled, one by one: p50, ms", trips[len(trips) // 2])
    note(f"{who}, sent to settled, one by one: p99, ms", trips[int(len(trips) * 0.99)])


def _in_batches(
    process: Process, work: Callable[[int], None], count: int, what: str, note: Note
) -> None:
    broker_s, client_s, began = process.cpu_s(), time.process_time(), time.monotonic()
    work(count)
    took = time.monotonic() - began
    note(f"{what}: messages/s", count / took)
    for whose, spent_s in (
        ("broker", process.cpu_s() - broker_s),
        ("client", time.process_time() - client_s),
    ):
        note(f"{what}: {whose}'s CPU-µs a message", spent_s / count * 1e6)


def _round_trip_ms(client: Client) -> float:
    began = time.monotonic()
    client.send(1)
    client.receive(1)
    return (time.monotonic() - began) * 1000


def _fill(client: BareClient, process: Process, note: Note) -> None:
    note("memory of the broker, MiB", process.rss_mib())
    client.send(QUEUED)
    client.close()
    note(f"{QUEUED:,} queued: memory of the broker, MiB", process.rss_mib())

"""The AMQP engine gives back what it takes."""

import gc

import psutil

from bpa.embedded.service_bus.engine import Engine

MOST_BYTES_LOST_PER_CONNECTION = 500


def resident_bytes_after(connections):
    for _ in range(connections):
        Engine("c", 65_536, 1_000).free()
    gc.collect()
    return psutil.Process().memory_info().rss


def test_a_freed_connection_leaves_no_memory_behind():
    before = resident_bytes_after(500)
    after = resident_bytes_after(4_000)
    assert (after - before) / 4_000 < MOST_BYTES_LOST_PER_CONNECTION


def test_freeing_twice_is_harmless():
    engine = Engine("c", 65_536, 1_000)
    engine.free()
    engine.free()

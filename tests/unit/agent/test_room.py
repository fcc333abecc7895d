"""How many connections a node has room for."""

from __future__ import annotations

import pytest
from wharfinger_dataplane.agent.room import CONNECTION_BYTES, LEAST, MOST, SHARE, capacities, memory_bytes

GIB = 1 << 30


@pytest.mark.parametrize(("gib", "entries"), [(0.25, LEAST), (1, 65_536), (4, 262_144), (16, 1 << 20), (24, MOST), (1024, MOST)])
def test_a_node_has_room_for_what_a_part_of_its_memory_holds(gib, entries):
    assert capacities(int(gib * GIB)) == {"flows": entries, "wires": entries}


@pytest.mark.parametrize("gib", [1, 2, 8, 64])
def test_full_tables_take_no_more_than_their_share(gib):
    assert capacities(gib * GIB)["flows"] * CONNECTION_BYTES <= max(gib * GIB // SHARE, LEAST * CONNECTION_BYTES)


def test_a_little_more_or_less_memory_after_a_restart_changes_nothing():
    assert capacities(24 * GIB) == capacities(24 * GIB - 300_000_000)


def test_this_machines_memory_is_read():
    assert GIB // 8 < memory_bytes() < 1 << 50

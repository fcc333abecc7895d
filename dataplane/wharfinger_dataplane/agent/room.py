"""How many connections a node's tables have room for: by the node's memory, unless somebody says otherwise.

The tables of established connections allocate as they fill, so what is here is the most that they may come to. Their
buckets are there from the start: 16 bytes an entry. The kernel counts all of it as memory of the agent's container, whose
limit in the chart has room for MOST.
"""

from __future__ import annotations

import os

SHARE = 32
"""Of the node's memory, the part that established connections may come to take: a 32nd."""
CONNECTION_BYTES = 2 * (128 + 16)
"""A connection's flow and wire: 64 bytes and the kernel's 48 around them, as the allocator rounds it, and a bucket each."""
LEAST, MOST = 1 << 16, 1 << 20
TABLES = ("flows", "wires")


def memory_bytes() -> int:
    """The node's memory: a container sees all of it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def capacities(node_bytes: int) -> dict[str, int]:
    """Entries of the tables of established connections at a node with so much memory: a power of two, so that a node that
    is measured a little differently after a restart keeps its tables."""
    fit = node_bytes // SHARE // CONNECTION_BYTES
    return dict.fromkeys(TABLES, min(MOST, max(LEAST, 1 << max(0, fit.bit_length() - 1))))

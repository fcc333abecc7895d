# distutils: language = c
"""The core in a process: tables in memory and packets as bytes, through the same chains as the kernel's programs.

Explains decisions, is what fuzzers and property tests drive, and stands beside the BPF programs in every packet vector.
"""

import errno
from dataclasses import dataclass

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from wharfinger_dataplane cimport core

OUTCOMES = ("pass", "deliver", "forward", "drop", "reflect", "answer", "stack", "note")
HOOKS = ("from_pod", "to_pod", "from_net")
TABLES = {core.engine_table_name[n].decode(): n for n in range(core.TABLE_COUNT)}


@dataclass(frozen=True)
class Reason:
    """Why a packet left its chain: number (the list's order), name, outcome (of OUTCOMES) and words for people."""

    number: int
    name: str
    outcome: str
    words: str


REASONS = tuple(Reason(n, core.engine_reason_name[n].decode(), OUTCOMES[core.engine_outcome[n]], core.engine_reason_words[n].decode())
                for n in range(core.REASON_COUNT))


@dataclass(frozen=True)
class Result:
    """One packet's fate: the reason, the packet as it leaves (bytes), and the event for telemetry, if any (bytes of struct event)."""

    reason: Reason
    packet: bytes
    event: bytes | None
    malformed_option: bool


cdef class Engine:
    """Tables and chains. `put`, `get`, `delete` and `items` speak the same bytes as the BPF maps of the same names.

    `capacity`: table -> the entries it holds, where that is not what tables.h says."""

    cdef core.engine *engine

    def __cinit__(self, capacity=None):
        self.engine = core.engine_new()
        if self.engine is NULL:
            raise MemoryError("no memory for the engine's tables")
        for name, entries in (capacity or {}).items():
            self._table(name).capacity = entries

    def __dealloc__(self):
        if self.engine is not NULL:
            core.engine_free(self.engine)

    cdef core.engine_table *_table(self, str name) except NULL:
        if name not in TABLES:
            raise KeyError(f"no table {name}; there are {', '.join(TABLES)}")
        return &self.engine.table[<int>TABLES[name]]

    cdef _check(self, core.engine_table *t, str name, bytes key, bytes value):
        if <uint32_t>len(key) != t.key_size or (value is not None and <uint32_t>len(value) != t.value_size):
            raise ValueError(f"table {name}: key and value have {t.key_size} and {t.value_size} bytes, not {len(key)} and {len(value or b'')}")

    def put(self, str table, bytes key, bytes value):
        """Replaces the value under `key`. OSError when the table is full."""
        cdef core.engine_table *t = self._table(table)
        self._check(t, table, key, value)
        if core.engine_put(t, <const char *>key, <const char *>value):
            raise OSError(errno.E2BIG, f"table {table} is full ({t.capacity} entries)")

    def get(self, str table, bytes key):
        """The value, or None."""
        cdef core.engine_table *t = self._table(table)
        self._check(t, table, key, None)
        cdef const char *found = <const char *>core.engine_find(t, <const char *>key)
        return None if found is NULL else found[:t.value_size]

    def delete(self, str table, bytes key) -> bool:
        """Whether there was one."""
        cdef core.engine_table *t = self._table(table)
        self._check(t, table, key, None)
        return bool(core.engine_drop(t, <const char *>key))

    def items(self, str table) -> list:
        """Every (key, value)."""
        cdef core.engine_table *t = self._table(table)
        cdef core.engine_node *node
        out = []
        for n in range(t.buckets):
            node = t.bucket[n]
            while node is not NULL:
                out.append(((<const char *>node.bytes)[t.value_size:t.value_size + t.key_size], (<const char *>node.bytes)[:t.value_size]))
                node = node.next
        return out

    def capacity(self, str table) -> int:
        """Entries that the table can hold."""
        return self._table(table).capacity

    def hold(self, bytes pair, uint32_t expects, uint32_t sends, *, bint whole=True, written=None, uint32_t value=0, uint32_t echo=0,
             uint16_t window=0, bint timestamps=False):
        """The pods' stacks have a socket of this pair of ports, a key of `wires`. It expects and will send these numbers, and the rest is as
        `struct rest` has it (`written`: `sends` by default); one that is not whole is TIME_WAIT's."""
        if <uint32_t>len(pair) != self.engine.sockets.key_size:
            raise ValueError(f"a key of {len(pair)} bytes, not {self.engine.sockets.key_size}")
        cdef core.held held
        held.rest.numbers.expects, held.rest.numbers.unacknowledged, held.rest.numbers.next = expects, sends, sends
        held.rest.written = sends if written is None else written
        held.rest.value, held.rest.echo, held.rest.window, held.rest.timestamps = value, echo, window, timestamps
        held.seen = core.SOCKET_WHOLE if whole else core.SOCKET_PART
        if core.engine_put(&self.engine.sockets, <const char *>pair, &held):
            raise OSError("too many sockets")

    def outdate(self):
        """What connections remember of routes and tables is looked up again."""
        self.engine.setting[core.SETTING_GENERATION] += 1

    def set(self, int setting, uint64_t value):
        """A setting of the programs."""
        if not 0 <= setting < core.SETTING_COUNT:
            raise ValueError(f"setting {setting} of {core.SETTING_COUNT}")
        self.engine.setting[setting] = value

    def run(self, str hook, bytes packet, *, int ifindex=0, now_ns=0, random=0, bint fast=True) -> Result:
        """One frame through a hook of HOOKS at the host side of interface `ifindex`, at `now_ns` (monotonic). `fast`: the fast
        path takes what it can, as in the programs; else the whole chain decides each packet."""
        if len(packet) > 65536:
            raise ValueError(f"a packet of {len(packet)} bytes; 65536 at most")
        cdef int number = HOOKS.index(hook)
        self.engine.now_ns, self.engine.random, self.engine.packet_len = now_ns, random, <uint32_t>len(packet)
        memcpy(self.engine.packet, <const char *>packet, len(packet))
        self.engine.whole_chain = not fast
        cdef int reason = core.engine_run(self.engine, number, ifindex)
        event = (<const char *>&self.engine.work.event)[:sizeof(core.event)] if self.engine.work.event.kind else None
        return Result(REASONS[reason], (<const char *>self.engine.packet)[:self.engine.packet_len], event,
                      bool(self.engine.work.packet.malformed_option))



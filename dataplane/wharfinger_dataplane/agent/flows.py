"""What connections left behind is removed when their socket is gone: silence and FINs only nominate.

Rules (docs/protocol.md, "State of the ends"):
- What was never answered is nominated after 10 s, so that a pod that opens without end fills the table with what its stack holds, no more.
- An entry goes when the pod's namespace has no socket of that connection, TIME_WAIT included, or when the namespace itself is gone.
- Doubt keeps an entry: a namespace that is not found, of a pod that the API server still tells of, says nothing.
- An entry is removed as it was judged: if a new connection took its place meanwhile, it is put back.
- A wire's record goes with the stack's entry that it leads to; one that leads to none is removed when two sweeps in a row found it so,
  for there is a moment between a record and the entry it leads to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from wharfinger_dataplane import _records as records
from wharfinger_dataplane import netlink
from wharfinger_dataplane._records import Flow, FlowKey, Side
from wharfinger_dataplane.agent.namespaces import Namespaces

FLOWS = "flows"
LIST_FROM = 64
"""From how many candidates on a pod's connections are listed rather than looked up one by one."""
SWEEP_EVERY = 12
WIRE_AGE_NS = OPENING_NS = 10 * 10**9
NEVER_NS = 2**63
WIRES = (Side.CLIENT_WIRE, Side.SERVER_WIRE)
PAUSE_S = 0.002
"""Between two batches of the table, for the agent's other threads."""

Record = tuple[bytes, bytes]


class FlowStore(Protocol):
    """What of `Kernel` is needed here."""

    def batches(self, table: str) -> Iterator[list[Record]]: ...
    def get(self, table: str, key: bytes) -> bytes | None: ...
    def take(self, table: str, key: bytes) -> bytes | None: ...
    def put_new(self, table: str, key: bytes, value: bytes) -> bool: ...


@dataclass(frozen=True)
class Pass:
    """One pass over the table: entries seen, nominated, removed, and put back because a new connection had taken their place."""

    seen: int = 0
    nominated: int = 0
    removed: int = 0
    restored: int = 0


def by_pod(found: Iterable[Record]) -> dict[str, list[netlink.Connection]]:
    """The connections of stacks' entries, as each pod's stack knows them, by the pod's address."""
    connections: dict[str, list[netlink.Connection]] = {}
    for record in found:
        key = records.unpack_flow_key(record[0])
        connections.setdefault(key.local, []).append((key.local, key.local_port, key.peer, key.peer_port))
    return connections


def stack_key(wire_key: FlowKey, wire: Flow) -> bytes:
    """The key of the stack's entry that a wire's record leads to."""
    if wire_key.side is Side.CLIENT_WIRE:
        return records.pack_flow_key(Side.CLIENT_STACK, wire_key.local, wire_key.local_port, wire.other, wire.redirect_port)
    return records.pack_flow_key(Side.SERVER_STACK, wire_key.local, wire.redirect_port, wire_key.peer, wire.client_port)


def wire_keys(key: FlowKey, stack: Flow) -> list[bytes]:
    """The keys of the wire's records that a stack's entry may have."""
    if key.side is Side.CLIENT_STACK:
        ports = {stack.redirect_port, stack.service_port} - {0}
        return [records.pack_flow_key(Side.CLIENT_WIRE, key.local, key.local_port, stack.other, port) for port in ports]
    if not stack.client_port:
        return []
    return [records.pack_flow_key(Side.SERVER_WIRE, key.local, stack.service_port, key.peer, stack.client_port)]


def leads_to(wire_key: FlowKey, wire: Flow, stack: Flow | None) -> bool:
    """Whether a wire's record belongs to the stack's entry at the place that it names."""
    if stack is None:
        return False
    if wire_key.side is Side.CLIENT_WIRE:
        return stack.other == wire_key.peer and wire_key.peer_port in (stack.redirect_port, stack.service_port)
    return (stack.service_port, stack.client_port) == (wire_key.local_port, wire_key.peer_port)


def same_connection(judged: Flow, found: Flow) -> bool:
    """Whether an entry is still that of the connection that was judged, and as ended."""
    return (judged.started_ns, judged.isn, judged.state) == (found.started_ns, found.isn, found.state)


class Collector:
    """One agent's collection. `told` answers whether the API server tells of a pod of this node with that address."""

    def __init__(self, store: FlowStore, namespaces: Namespaces, told: Callable[[str], bool], idle_ns: int) -> None:
        self._store, self._namespaces, self._told, self._idle_ns = store, namespaces, told, idle_ns
        self._gone: dict[bytes, int] = {}
        self._passes = 0
        self._orphans: dict[bytes, int] = {}
        self._removed = self._restored = 0

    def pod_gone(self, address: str, now_ns: int) -> None:
        """The pod that had `address` until `now_ns` (monotonic) is gone. May be called from any thread."""
        self._gone[records.pack_address(address)] = now_ns

    def collect(self, now_ns: int) -> Pass:
        """One pass at `now_ns` (monotonic). OSError when maps or sockets cannot be read; what was removed by then was rightly removed."""
        self._passes += 1
        self._removed = self._restored = 0
        sweep = self._passes % SWEEP_EVERY == 0
        gone = dict(self._gone)
        seen, nominated = 0, []
        for batch in self._store.batches(FLOWS):
            seen += len(batch)
            nominated += records.ended_flows(batch, now_ns, self._idle_ns, WIRE_AGE_NS if sweep else NEVER_NS, OPENING_NS, gone)
            time.sleep(PAUSE_S)
        by_address: dict[str, list[tuple[FlowKey, Flow, Record]]] = {}
        wires = []
        for record in nominated:
            key, flow = records.unpack_flow_key(record[0]), records.unpack_flow(record[1])
            if key.side in WIRES:
                wires.append((key, flow, record))
            else:
                by_address.setdefault(key.local, []).append((key, flow, record))
        for address, entries in by_address.items():
            self._collect_pod(address, entries, records.pack_address(address) in gone)
        if sweep:
            self._collect_orphans(wires)
        for address, since in gone.items():
            if self._gone.get(address) == since:
                del self._gone[address]
        return Pass(seen, len(nominated), self._removed, self._restored)

    def _collect_pod(self, address: str, entries: list[tuple[FlowKey, Flow, Record]], gone: bool) -> None:
        channel = self._namespaces.diag(address)
        if channel is None:
            if gone or not self._told(address):
                for key, flow, record in entries:
                    self._remove(key, flow, record)
            return
        with closing(channel):
            listed = netlink.connections(channel) if len(entries) >= LIST_FROM else ()
            for key, flow, record in entries:
                connection = key.local, key.local_port, key.peer, key.peer_port
                if connection not in listed and not netlink.connected(channel, connection):
                    self._remove(key, flow, record)

    def _collect_orphans(self, wires: list[tuple[FlowKey, Flow, Record]]) -> None:
        orphans = {}
        for key, flow, record in wires:
            stack = self._store.get(FLOWS, stack_key(key, flow))
            if leads_to(key, flow, records.unpack_flow(stack) if stack else None):
                continue
            if self._orphans.get(record[0]) == flow.started_ns:
                self._take(flow, record)
            else:
                orphans[record[0]] = flow.started_ns
        self._orphans = orphans

    def _remove(self, key: FlowKey, flow: Flow, record: Record) -> None:
        if not self._take(flow, record):
            return
        for wire_key in wire_keys(key, flow):
            wire = self._store.get(FLOWS, wire_key)
            if wire is None:
                continue
            found = records.unpack_flow(wire)
            if stack_key(records.unpack_flow_key(wire_key), found) == record[0] and found.started_ns == flow.started_ns:
                self._take(found, (wire_key, wire))

    def _take(self, flow: Flow, record: Record) -> bool:
        """Removes the entry if it is the one that was judged; whether it was."""
        taken = self._store.take(FLOWS, record[0])
        if taken is None:
            return False
        if not same_connection(flow, records.unpack_flow(taken)):
            self._store.put_new(FLOWS, record[0], taken)
            self._restored += 1
            return False
        self._removed += 1
        return True

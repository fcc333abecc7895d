"""Established connections that ended unseen are moved aside: silence, or a reset that only the wire told of, nominates them.

Rules (docs/protocol.md, "State of the ends"):
- Packets close what FIN and RST end. Here come those that ended without: by a time-out, or with their pod.
- A socket that is there keeps its flow, whatever the wire says.
- Not seen is not gone: a socket may be bound to a device, redirected inside the pod, or in another namespace of it. So
  while there is room every flow stays, and then one whose socket is not found is moved to the closed ones. There a live
  connection goes on, and its next packet takes it back; a dead one is forgotten when the room is needed.
- Removed is only what belongs to a pod that is gone: the API server does not tell of it any more, and nor does the node.
- A wire that leads to no flow of its own is removed when two sweeps in a row found it so, for there is a moment
  between the two.
- What another connection has put in the place meanwhile is not touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from wharfinger_dataplane import _records as records
from wharfinger_dataplane import netlink
from wharfinger_dataplane._records import Batch
from wharfinger_dataplane.agent.namespaces import Namespaces

FLOWS, WIRES, CLOSED_FLOWS, CLOSED_WIRES = "flows", "wires", "closed_flows", "closed_wires"
LIST_FROM = 64
"""From how many candidates on a pod's connections are listed rather than looked up one by one."""
ROOMY = 0.5
"""Up to this share of the table's entries there is room."""
SWEEP_EVERY = 12
WIRE_AGE_NS = 10 * 10**9
PAUSE_S = 0.002
"""Between two batches of a table, for the agent's other threads."""

Record = tuple[bytes, bytes]


class FlowStore(Protocol):
    """What of `Kernel` is needed here."""

    def batches(self, table: str) -> Iterator[Batch]: ...
    def get(self, table: str, key: bytes) -> bytes | None: ...
    def put(self, table: str, key: bytes, value: bytes) -> None: ...
    def capacity(self, table: str) -> int: ...
    def take(self, table: str, key: bytes) -> bytes | None: ...
    def put_new(self, table: str, key: bytes, value: bytes) -> bool: ...


@dataclass(frozen=True)
class Pass:
    """One pass over the flows: seen, nominated, moved aside, and removed with their pod."""

    seen: int = 0
    nominated: int = 0
    moved: int = 0
    removed: int = 0


def is_full(entries: int, capacity: int, was: bool) -> bool:
    """Whether a table of connections is so full that new ones are better unaware from the start: with 95 % of its
    entries taken, and then until 90 %."""
    return entries >= capacity * (0.90 if was else 0.95)


def by_pod(found: Iterable[Record]) -> dict[str, list[netlink.Connection]]:
    """The connections of flows, as each pod's stack knows them, by the pod's address."""
    connections: dict[str, list[netlink.Connection]] = {}
    for key, _ in found:
        k = records.unpack_flow_key(key)
        connections.setdefault(k.local, []).append((k.local, k.local_port, k.peer, k.peer_port))
    return connections


def is_same(judged: bytes, found: bytes | None) -> bool:
    """Whether a flow or wire is still one of the connection whose flow or wire was judged."""
    return found is not None and records.connection_of(judged) == records.connection_of(found)


class Collector:
    """One agent's collection. `is_known` answers whether the API server tells of a pod of this node with that address."""

    def __init__(self, store: FlowStore, namespaces: Namespaces, is_known: Callable[[str], bool], idle_ns: int) -> None:
        self._store, self._namespaces, self._is_known, self._idle_ns = store, namespaces, is_known, idle_ns
        self._gone: dict[int, int] = {}
        self._passes = 0
        self._orphans: dict[bytes, bytes] = {}
        self._moved = self._removed = 0

    def pod_gone(self, address: str, now_ns: int) -> None:
        """The pod that had `address` until `now_ns` (monotonic) is gone. May be called from any thread."""
        self._gone[records.pack_v4(address)] = now_ns

    def collect(self, now_ns: int) -> Pass:
        """One pass at `now_ns` (monotonic). OSError when maps or sockets cannot be read; what was moved or removed by then
        was rightly so."""
        self._passes += 1
        self._moved = self._removed = 0
        gone = dict(self._gone)
        seen, nominated = 0, []
        for batch in self._store.batches(FLOWS):
            seen += batch.count
            nominated += records.quiet_flows(batch, now_ns, self._idle_ns, gone)
            time.sleep(PAUSE_S)
        by_address: dict[str, list[Record]] = {}
        for record in nominated:
            by_address.setdefault(records.unpack_flow_key(record[0]).local, []).append(record)
        roomy = seen <= self._store.capacity(FLOWS) * ROOMY
        for address, found in by_address.items():
            self._collect_pod(address, found, gone=records.pack_v4(address) in gone, roomy=roomy)
        if self._passes % SWEEP_EVERY == 0:
            self._collect_orphans(now_ns)
        for address, since in gone.items():
            if self._gone.get(address) == since:
                del self._gone[address]
        return Pass(seen, len(nominated), self._moved, self._removed)

    def _collect_pod(self, address: str, found: list[Record], *, gone: bool, roomy: bool) -> None:
        channel = self._namespaces.diag(address)
        if channel is None:
            if gone or not self._is_known(address):
                self._removed += sum(self._remove(record) for record in found)
            return
        with closing(channel):
            if roomy:
                return
            listed = netlink.connections(channel) if len(found) >= LIST_FROM else ()
            for record in found:
                k = records.unpack_flow_key(record[0])
                connection = k.local, k.local_port, k.peer, k.peer_port
                if connection not in listed and not netlink.connected(channel, connection):
                    self._move_aside(record)

    def _move_aside(self, record: Record) -> None:
        """To the closed connections, first there and then from here: a packet meanwhile finds it."""
        key, judged = record
        wire_key = records.wire_key_of(key, judged)
        flow, wire = self._store.get(FLOWS, key), self._store.get(WIRES, wire_key)
        if not is_same(judged, flow):
            return
        if is_same(judged, wire):
            self._store.put(CLOSED_WIRES, wire_key, wire)
        if not is_same(judged, self._store.get(CLOSED_FLOWS, key)):  # else a packet has just closed it
            self._store.put(CLOSED_FLOWS, key, flow)
        self._moved += self._remove(record)

    def _remove(self, record: Record) -> bool:
        """Removes the flow, if it is the one that was judged, and its wire; whether it was."""
        key, judged = record
        removed = self._take(FLOWS, key, judged)
        if removed:
            self._take(WIRES, records.wire_key_of(key, judged), judged)
        return removed

    def _take(self, table: str, key: bytes, judged: bytes) -> bool:
        """Removes the record under `key`, if it is of the connection that was judged; whether it was. One of
        another connection that takes its place in this very moment is put back."""
        if not is_same(judged, self._store.get(table, key)):
            return False
        taken = self._store.take(table, key)
        if is_same(judged, taken):
            return True
        if taken is not None:
            self._store.put_new(table, key, taken)
        return False

    def _collect_orphans(self, now_ns: int) -> None:
        orphans = {}
        for batch in self._store.batches(WIRES):
            for key, wire in records.old_wires(batch, now_ns, WIRE_AGE_NS):
                if self._leads_to_its_flow(key, wire):
                    continue
                if is_same(wire, self._orphans.get(key)):
                    self._take(WIRES, key, wire)
                else:
                    orphans[key] = wire
            time.sleep(PAUSE_S)
        self._orphans = orphans

    def _leads_to_its_flow(self, key: bytes, wire: bytes) -> bool:
        flow_key = records.flow_key_of(key, wire)
        flow = self._store.get(FLOWS, flow_key)
        return flow is not None and records.wire_key_of(flow_key, flow) == key

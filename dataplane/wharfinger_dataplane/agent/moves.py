"""Servers of this node that drain ask their clients to move (docs/protocol.md, "Moving an established
connection").

Rules:
- Who asks is what slices say: a server of this node that drains because it is leaving (one that is not ready,
  or that a policy selects, keeps its connections), of a pool that moves connections on a drain.
- A connection is asked again and again until it ends or its server is gone: what is lost, and a moment that
  is not quiet, costs time only.
- The kernel's program writes step 1, by the server's own stack's numbers; here is only who is to be asked.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import Protocol

from wharfinger_api import AssignmentState, ServicePortSlice

from wharfinger_dataplane import _records as records
from wharfinger_dataplane import netlink
from wharfinger_dataplane._records import Asked, FlowKey
from wharfinger_dataplane.agent.flows import FLOWS, PAUSE_S, FlowStore

Draining = Mapping[int, frozenset[int]]
"""Server's address (pack_v4) -> the service ports whose connections are to move."""
ASK_PERIOD_S = 0.1
REST = 4
"""A pass over the flows is followed by a rest this many times as long."""
ETHERTYPE_IPV4, TTL, DONT_FRAGMENT, ACK = 0x0800, 64, 0x4000, 0x5010


class AskingStore(FlowStore, Protocol):
    """Flows, and the program that asks."""

    def ask(self, frame: bytes, ifindex: int) -> Asked: ...


def draining(node: str, slices: Iterable[ServicePortSlice]) -> Draining:
    """The servers of `node` whose clients are to move. Pure."""
    found: dict[int, set[int]] = {}
    for piece in slices:
        moves = piece.spec.moves
        if moves.mode == "Never" or not moves.on_drain:
            continue
        for record in piece.spec.assignments:
            if record.node == node and record.state is AssignmentState.DRAINING and record.leaving:
                found.setdefault(records.pack_v4(record.address), set()).update(record.ports)
    return {address: frozenset(ports) for address, ports in found.items()}


def connection_frame(key: FlowKey, link_address: str) -> bytes:
    """The headers of a bare ACK that the server's stack could have sent on this connection, to the host's
    side of the pod's interface."""
    link = struct.pack(
        "!6s6sH", bytes.fromhex(link_address.replace(":", "")), b"\x02\0\0\0\0\1", ETHERTYPE_IPV4
    )
    ends = IPv4Address(key.local).packed + IPv4Address(key.peer).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, DONT_FRAGMENT, TTL, records.TCP, 0) + ends
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return (
        link
        + header[:10]
        + struct.pack("!H", checksum)
        + ends
        + struct.pack("!HHIIHHHH", key.local_port, key.peer_port, 0, 0, ACK, 0, 0, 0)
    )


class Asker:
    """Asks the clients of this node's draining servers to move. `say` may be called from any thread, `ask`
    from one."""

    def __init__(self, store: AskingStore) -> None:
        self._store = store
        self._draining: Draining = {}
        self.asked: Counter[Asked] = Counter()
        """What became of the questions so far."""
        self.pause_s = ASK_PERIOD_S
        """How long to wait for the next pass."""

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._draining)

    def say(self, found: Draining) -> bool:
        """These servers drain from now on; whether any of it is news."""
        news, self._draining = found != self._draining, found
        return news

    def ask(self) -> int:
        """One pass: how many clients were asked. OSError when maps or interfaces cannot be read."""
        found, began_s = dict(self._draining), time.monotonic()
        links: dict[int, str] = {}
        before = self.asked[Asked.ASKED]
        for batch in self._store.batches(FLOWS) if found else ():
            for key, _ in records.flows_of(batch, found):
                self._ask_one(records.unpack_flow_key(key), links)
            time.sleep(PAUSE_S)
        self.pause_s = max(ASK_PERIOD_S, REST * (time.monotonic() - began_s))
        return self.asked[Asked.ASKED] - before

    def _ask_one(self, key: FlowKey, links: dict[int, str]) -> None:
        if key.ifindex not in links:
            links[key.ifindex] = _link_address(key.ifindex)
        if not links[key.ifindex]:  # the interface is gone, and the pod with it
            return
        try:
            outcome = self._store.ask(connection_frame(key, links[key.ifindex]), key.ifindex)
        except OSError:  # just now
            outcome = Asked.FAILED
        self.asked[outcome] += 1


def _link_address(ifindex: int) -> str:
    """Of what takes a pod's frames at its node: the bridge, where the interface is a bridge's port."""
    found = netlink.interface(ifindex)
    bridge = netlink.interface(found.master) if found and found.master else None
    return (bridge or found).link_address if found else ""

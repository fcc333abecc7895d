"""What the collector's tests share: tables in memory, pods that show sockets, and records of connections."""

from __future__ import annotations

from dataclasses import dataclass, field

from support.batches import batches_of
from support.slices import VIRTUAL
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane._records import FlowState, Mark

SECOND = 10**9
HOUR = 3600 * SECOND
IDLE = 2 * HOUR
NOW = 100 * HOUR
LATER = NOW + IDLE + 60 * SECOND
"""When a connection that was last used at NOW is idle."""
CLIENT, SERVER, X, Y, TARGET, SCOPE = "10.244.1.5", "10.244.2.9", 80, 20_001, 8080, 7
PORT_OF_CLIENT, SUBSTITUTE, IFINDEX, ISN, SERVER_ISN = 41_000, 50_000, 5, 1000, 9000
OPEN = {"flows": 1, "wires": 1, "closed_flows": 0, "closed_wires": 0}
ASIDE = {"flows": 0, "wires": 0, "closed_flows": 1, "closed_wires": 1}
NOTHING = dict.fromkeys(OPEN, 0)


class Memory(Engine):
    """An engine's tables as the agent's store, in which there is no room. `before`: what happens just before a call of it,
    once."""

    def __init__(self):
        self.before = {}
        self.room_for = 1

    def capacity(self, table):
        return self.room_for if table == "flows" else super().capacity(table)

    def batches(self, table):
        return batches_of(self.items(table), 2)

    def get(self, table, key):
        self.before.pop(("get", table), lambda: None)()
        return super().get(table, key)

    def take(self, table, key):
        self.before.pop(("take", table), lambda: None)()
        value = super().get(table, key)
        self.delete(table, key)
        return value

    def put_new(self, table, key, value):
        is_new = super().get(table, key) is None
        if is_new:
            self.put(table, key, value)
        return is_new

    def counts(self):
        return {table: len(self.items(table)) for table in OPEN}


@dataclass
class Channel:
    address: str

    def close(self):
        pass


@dataclass
class Pods:
    """Pods' namespaces: address -> the connections that its stack shows."""

    shown: dict = field(default_factory=dict)
    listings: int = 0

    def diag(self, address):
        return Channel(address) if address in self.shown else None

    def listed(self, channel):
        self.listings += 1
        return set(self.shown[channel.address])


def flow_key(port=PORT_OF_CLIENT):
    return records.pack_flow_key(CLIENT, port, VIRTUAL, X, IFINDEX)


def wire_key(port=PORT_OF_CLIENT, wire_port=Y):
    return records.pack_flow_key(CLIENT, port, SERVER, wire_port)


def seen_by_stack(port=PORT_OF_CLIENT):
    return CLIENT, port, VIRTUAL, X


def flow(**changes):
    return records.pack_flow(
        **{
            "state": FlowState.CLIENT_ESTABLISHED,
            "server": SERVER,
            "scope": SCOPE,
            "isn": ISN,
            "wire_port": Y,
            "seen": records.stamp(NOW),
            "started_ns": NOW - HOUR,
            **changes,
        }
    )


def wire(port=PORT_OF_CLIENT, **changes):
    return records.pack_wire(
        **{
            "state": FlowState.CLIENT_ESTABLISHED,
            "ifindex": IFINDEX,
            "peer": VIRTUAL,
            "local_port": port,
            "peer_port": X,
            "isn": ISN,
            "started_ns": NOW - HOUR,
            **changes,
        }
    )


def add_client(store, port=PORT_OF_CLIENT, *, marks=Mark.AWARE, seen=None, **whose):
    """A client's connection: its flow and its wire."""
    stamp = {} if seen is None else {"seen": records.stamp(seen)}
    store.put("flows", flow_key(port), flow(marks=marks, **stamp, **whose))
    store.put("wires", wire_key(port), wire(port, **whose))


def server_flow_key(substitute=SUBSTITUTE):
    return records.pack_flow_key(SERVER, TARGET, CLIENT, substitute, IFINDEX)


def server_wire_key(wire_port=Y):
    return records.pack_flow_key(SERVER, wire_port, CLIENT, PORT_OF_CLIENT)


def add_server(store, substitute=SUBSTITUTE):
    """A server's connection whose client's port is `substitute` to the stack."""
    store.put("flows", server_flow_key(substitute), server_flow())
    store.put("wires", server_wire_key(), server_wire(substitute))


def server_flow(**changes):
    return flow(
        **{
            "state": FlowState.SERVER_ESTABLISHED,
            "client_port": PORT_OF_CLIENT,
            "redirect_port": X,
            **changes,
        }
    )


def server_wire(substitute=SUBSTITUTE):
    return wire(TARGET, state=FlowState.SERVER_ESTABLISHED, peer=CLIENT, peer_port=substitute)

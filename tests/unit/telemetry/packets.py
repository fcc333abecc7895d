"""Connections through two engines, one a node, with packets as stacks would send them: the tests' records."""

from dataclasses import dataclass, field

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from wharfinger_api import parse
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane._records import Role, pack_flow_key, unpack_event
from wharfinger_dataplane.tables import Tables
from wharfinger_dataplane.telemetry._identity import key_of

SECRET = bytes(range(32))
KEY = key_of(SECRET)
VIRTUAL, CLIENT, SERVER = "10.96.0.10", "10.244.1.7", "10.244.2.9"
SCOPE, X, Y, TARGET = 7, 80, 9001, 8080
CLIENT_INTERFACE, SERVER_INTERFACE = 11, 12
MILLISECOND = 1_000_000


def make_slice(**changes):
    """The slice of one pool with one server at SERVER and one redirect port X."""
    spec = {
        "pool": {"name": "shop", "uid": "u-shop", "generation": 1}, "scope": SCOPE,
        "virtualAddresses": [VIRTUAL],
        "redirects": [{"name": "web", "generation": 1, "ports": [{"from": X, "to": X}], "target": "http"}],
        "assignments": [{
            "server": "demo/shop-0", "address": SERVER, "node": "node-2", "podUID": "u-0", "state": "Ready",
            "since": "2026-11-21T09:00:00Z", "redirects": ["web"],
            "targets": [{"name": "http", "protocol": "TCP", "targetPort": TARGET, "servicePorts": [Y]}]}],
    }
    return parse({"apiVersion": "wharfinger.io/v1alpha1", "kind": "ServicePortSlice",
                  "metadata": {"name": "shop-0", "namespace": "demo", "uid": "u-slice", "generation": 1},
                  "spec": {**spec, **changes}})


def node(interface, address, role):
    """An engine with the pool's tables and one local pod."""
    engine = Engine()
    tables = Tables(engine)
    tables.apply([make_slice()])
    tables.put_pod(address, interface, role, netns=1)
    return engine


@dataclass
class Connection:
    """One TCP connection from CLIENT to VIRTUAL:`port`, packet by packet; `records`: of both nodes' ring buffers."""

    client_port: int = 40000
    isn: int = 1_000_000
    port: int = X
    now_ns: int = 5_000 * MILLISECOND
    client: Engine = field(default_factory=lambda: node(CLIENT_INTERFACE, CLIENT, Role.CLIENT))
    server: Engine = field(default_factory=lambda: node(SERVER_INTERFACE, SERVER, Role.SERVER))
    records: list = field(default_factory=list)

    def from_client(self, flags, after=0, acks=1):
        """A packet of the client's stack, through both nodes. `acks`: octets of the server's, with SYN and FIN."""
        ack = 0 if flags == "S" else 700 + acks
        tcp = TCP(sport=self.client_port, dport=self.port, flags=flags, seq=self.isn + after, ack=ack)
        there = (self.client, "from_pod", CLIENT_INTERFACE), (self.server, "to_pod", SERVER_INTERFACE)
        self._through(IP(src=CLIENT, dst=VIRTUAL, flags="DF") / tcp, *there)

    def from_server(self, flags, after=0, acks=1):
        """A packet of the server's stack, through both nodes."""
        tcp = TCP(sport=TARGET, dport=self.client_port, flags=flags, seq=700 + after, ack=self.isn + acks)
        back = (self.server, "from_pod", SERVER_INTERFACE), (self.client, "to_pod", CLIENT_INTERFACE)
        self._through(IP(src=SERVER, dst=CLIENT, flags="DF") / tcp, *back)

    def open(self):
        self.from_client("S")
        self.from_server("SA")
        self.from_client("A", 1)
        return self

    def close(self):
        self.from_client("FA", 1)
        self.from_server("FA", 1, acks=2)
        self.from_client("A", 2, acks=2)
        return self

    def client_expects(self, after):
        """The client's stack has its socket, which has read what came before this octet of the server's."""
        pair = pack_flow_key(CLIENT, self.client_port, VIRTUAL, self.port)
        self.client.hold(pair, expects=700 + after, sends=self.isn + 1)

    def events(self):
        """The records as (role, kind) names and what they say."""
        return {(event.role.name, event.kind.name): event for event in map(unpack_event, self.records)}

    def _through(self, ip, *hooks):
        packet = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / ip)
        for engine, hook, interface in hooks:
            self.now_ns += MILLISECOND
            result = engine.run(hook, packet, ifindex=interface, now_ns=self.now_ns)
            assert result.reason.outcome in {"forward", "deliver"}, f"{hook}: {result.reason.name}"
            packet = result.packet
            if result.event:
                self.records.append(result.event)

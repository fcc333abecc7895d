"""A TCP client and two TCP servers in memory, each behind an engine of its own, and a wire that may lose, repeat and reorder.

The stacks are small but honest: numbers, acknowledgements, retransmission, and nothing of redirection. What the protocol promises is
asserted where it can be seen: at every frame that a stack is handed, and at every frame on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from support.capture import redirection_option
from support.packets import sums_right, tcp
from support.slices import VIRTUAL, pool_slice
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane._records import Role
from wharfinger_dataplane.tables import Tables

CLIENT, SERVERS = "10.99.1.10", {"a": "10.99.2.20", "b": "10.99.3.20"}
SERVICE_PORTS = {"10.99.2.20": 20_001, "10.99.3.20": 20_002}
X, TARGET, CLIENT_PORT = 80, 8080, 40_000
POOL = pool_slice(SERVERS)
IFINDEX = 5


@dataclass(frozen=True)
class Segment:
    """A frame as a stack reads it."""

    src: str
    dst: str
    flags: str
    seq: int
    ack: int
    payload: bytes
    marked: bool

    @classmethod
    def of(cls, frame: bytes) -> Segment:
        ip = Ether(frame)[IP]
        segment, raw = ip[TCP], frame[34 : 14 + ip.len]
        header = segment.dataofs * 4
        return cls(
            f"{ip.src}:{segment.sport}",
            f"{ip.dst}:{segment.dport}",
            str(segment.flags),
            segment.seq,
            segment.ack,
            raw[header:],
            redirection_option(raw[20:header]) is not None,
        )


@dataclass
class Flow:
    """One end of a connection in a stack: what it wrote and read, and how far the other end has it."""

    local: str
    peer: str
    isn: int
    state: str
    remote_isn: int = 0
    wrote: bytes = b""
    read: bytes = b""
    acked: int = 0

    def make(self, flags: str, payload: bytes = b"", at: int | None = None) -> bytes:
        seq = self.isn + (1 + self.acked if at is None else at)
        return tcp(self.local, self.peer, flags, seq=seq, ack=self.remote_isn + 1 + len(self.read) if "A" in flags else 0, payload=payload)

    def acknowledge(self) -> bytes:
        return self.make("A", at=1 + len(self.wrote))

    def pending(self) -> list[bytes]:
        return [self.make("PA", self.wrote[self.acked :])] if self.acked < len(self.wrote) else []

    def take(self, segment: Segment) -> list[bytes]:
        """Established: acknowledgement and data in order."""
        acked = (segment.ack - self.isn - 1) & 0xFFFFFFFF
        assert acked <= len(self.wrote), "the other end acknowledges what was never written"
        self.acked = max(self.acked, acked)
        if not segment.payload:
            return []
        skip = len(self.read) - ((segment.seq - self.remote_isn - 1) & 0xFFFFFFFF)
        if 0 <= skip < len(segment.payload):
            self.read += segment.payload[skip:]
        return [self.acknowledge()]


class ClientStack:
    """Dials VIRTUAL:X."""

    def __init__(self, isn: int) -> None:
        self.flow = Flow(f"{CLIENT}:{CLIENT_PORT}", f"{VIRTUAL}:{X}", isn, "syn-sent")

    def timer(self) -> list[bytes]:
        return [self.flow.make("S", at=0)] if self.flow.state == "syn-sent" else self.flow.pending()

    def receive(self, segment: Segment) -> list[bytes]:
        flow = self.flow
        assert segment.src == flow.peer, "the application's stack sees another address than it dialled"
        if "S" in segment.flags:
            if flow.state == "syn-sent" and segment.ack == flow.isn + 1 & 0xFFFFFFFF:
                flow.state, flow.remote_isn = "established", segment.seq
            return [flow.acknowledge()]
        return flow.take(segment) if flow.state == "established" else []


class ServerStack:
    """Listens at its target port and echoes. `talkative`: answers a repeated SYN at once (Linux limits the rate of that)."""

    def __init__(self, address: str, isn: int, talkative: bool) -> None:
        self.local, self.isn, self.talkative = f"{address}:{TARGET}", isn, talkative
        self.flows: dict[str, Flow] = {}

    def answer(self, flow: Flow) -> bytes:
        return flow.make("SA", at=0)

    def timer(self) -> list[bytes]:
        out = []
        for flow in self.flows.values():
            out += [self.answer(flow)] if flow.state == "syn-received" else flow.pending()
        return out

    def receive(self, segment: Segment) -> list[bytes]:
        assert segment.dst == self.local, "the server's stack sees another port than its target port"
        flow = self.flows.get(segment.src)
        if segment.flags == "S":
            if flow is None:
                flow = self.flows[segment.src] = Flow(self.local, segment.src, self.isn, "syn-received", segment.seq)
                return [self.answer(flow)]
            if flow.state == "syn-received":
                return [self.answer(flow)] if self.talkative else []
            return [flow.acknowledge()]
        assert flow is not None, "a packet of a connection that this server never opened"
        flow.state = "established"
        before = len(flow.read)
        out = flow.take(segment)
        flow.wrote += flow.read[before:]
        return out + (flow.pending() if len(flow.read) > before else [])


@dataclass
class Conversation:
    """Both ends and the wire between them."""

    isn: int
    server_isn: int
    talkative: bool = True
    wire: list[bytes] = field(default_factory=list)
    unaware: bool = False
    joined: str = ""

    def __post_init__(self) -> None:
        self.client = ClientStack(self.isn)
        self.servers = {address: ServerStack(address, self.server_isn, self.talkative) for address in SERVERS.values()}
        self.engines = {address: Engine() for address in (CLIENT, *self.servers)}
        for address, engine in self.engines.items():
            tables = Tables(engine)
            tables.apply([POOL])
            tables.put_pod(address, IFINDEX, Role.CLIENT if address == CLIENT else Role.SERVER)
        self.emit(CLIENT, self.client.timer())

    def emit(self, address: str, frames: list[bytes]) -> None:
        """What a stack sends passes its translator onto the wire."""
        for frame in frames:
            result = self.engines[address].run("from_pod", frame, ifindex=IFINDEX, now_ns=1)
            if result.reason.outcome == "pass":
                assert address == CLIENT, f"a server's packet passes untranslated: {result.reason.words}"
                assert result.packet == frame
                self.unaware = True
                continue
            assert not self.unaware, "an aware packet of a connection that has become unaware"
            assert sums_right(result.packet)
            self.look(address, Segment.of(result.packet))
            self.wire.append(result.packet)

    def look(self, address: str, segment: Segment) -> None:
        """Invariant 1 of docs/protocol.md, as far as one wire shows it."""
        if address == CLIENT:
            server, port = segment.dst.split(":")
            if "S" not in segment.flags:
                assert int(port) == SERVICE_PORTS[server]
                self.joined = self.joined or segment.dst
                assert segment.dst == self.joined, "after step 3 the client sends elsewhere"
            assert not (segment.marked and segment.payload)
        elif segment.flags != "SA":
            assert segment.src == f"{address}:{SERVICE_PORTS[address]}"

    def deliver(self, at: int) -> None:
        frame = self.wire.pop(at)
        address = Ether(frame)[IP].dst
        result = self.engines[address].run("to_pod", frame, ifindex=IFINDEX, now_ns=1)
        if self.unaware:  # the stack knows nothing of what still comes of the aware SYNs
            return
        assert result.reason.outcome == "deliver", result.reason.name
        assert sums_right(result.packet)
        segment = Segment.of(result.packet)
        assert not segment.marked, "a stack sees the option"
        stack = self.client if address == CLIENT else self.servers[address]
        self.emit(address, stack.receive(segment))

    def write(self, data: bytes) -> None:
        if self.client.flow.state == "established" and not self.unaware:
            self.client.flow.wrote += data
            self.emit(CLIENT, self.client.flow.pending())

    def timers(self) -> None:
        self.emit(CLIENT, self.client.timer())
        for address, stack in self.servers.items():
            if not self.unaware:
                self.emit(address, stack.timer())

    def act(self, kind: str, number: int) -> None:
        if kind == "client timer":
            self.emit(CLIENT, self.client.timer())
        elif kind == "server timer" and not self.unaware:
            for address, stack in self.servers.items():
                self.emit(address, stack.timer())
        elif kind == "write":
            self.write(bytes([number % 256]) * (number % 5 + 1))
        elif self.wire and kind == "deliver":
            self.deliver(number % len(self.wire))
        elif self.wire and kind == "lose":
            self.wire.pop(number % len(self.wire))
        elif self.wire and kind == "repeat":
            self.wire.append(self.wire[number % len(self.wire)])

    def settle(self) -> None:
        """A kinder wire: everything arrives, and what was lost is sent again."""
        for _ in range(6):
            while self.wire:
                self.deliver(0)
            self.timers()

"""One connection at either of its ends: how it comes to each situation, and what packets may come then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from support.packets import CONFIRM, PORT, REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from wharfinger_dataplane._engine import Engine, Result
from wharfinger_dataplane._records import (
    FlowState,
    Mark,
    Role,
    pack_flow_key,
    unpack_flow,
    unpack_wire,
    wire_key_of,
)
from wharfinger_dataplane.tables import Tables

CLIENT, SERVER, X, Y, TARGET, SCOPE = "10.99.1.10", "10.99.2.20", 80, 20_001, 8080, 7
ISN, OTHER_ISN, SERVER_ISN, IFINDEX = 1000, 2_000_000_000, 5_000_000, 5
C, VX, SX, SY = f"{CLIENT}:40000", f"{VIRTUAL}:{X}", f"{SERVER}:{X}", f"{SERVER}:{Y}"
SP = f"{SERVER}:{TARGET}"
TAG, NAMES_Y = option(REDIRECT, scope=SCOPE), option(CONFIRM | PORT, Y)
FORTH, BACK = {"seq": ISN + 1, "ack": SERVER_ISN + 1}, {"seq": SERVER_ISN + 1, "ack": ISN + 1}
STRANGE, STRANGE_BACK = {"seq": ISN + 778, "ack": SERVER_ISN + 99}, {"seq": SERVER_ISN + 778, "ack": ISN + 99}
DATA = {"payload": b"octets"}
BESIDE = 1 << 31
"""substitute.h: in the key of another claim to a place."""


def sent(src: str, dst: str, numbers: Mapping[str, int], acks_fin: int) -> dict[str, bytes]:
    """What a stack sends on a connection that it has; `acks_fin`: what acknowledges its peer's FIN."""
    return {
        "ACK": tcp(src, dst, "A", **numbers),
        "ACK of FIN": tcp(src, dst, "A", seq=numbers["seq"], ack=acks_fin),
        "data": tcp(src, dst, "PA", **numbers, **DATA),
        "FIN": tcp(src, dst, "FA", **numbers),
        "RST": tcp(src, dst, "RA", **numbers),
    }


def answered(port: str, src: str, names: bytes, confirms: bytes) -> dict[str, bytes]:
    """What comes to the client from `port` of its server; the options: an answer's and a refusal's."""
    return {
        f"{kind} from {port}": frame
        for kind, frame in {
            "SYN": tcp(src, C, "S", seq=SERVER_ISN),
            "SYN+ACK": tcp(src, C, "SA", seq=SERVER_ISN, ack=ISN + 1, options=names),
            "other SYN+ACK": tcp(src, C, "SA", seq=SERVER_ISN, ack=ISN + 99, options=names),
            "ACK": tcp(src, C, "A", **BACK),
            "ACK of FIN": tcp(src, C, "A", seq=BACK["seq"], ack=ISN + 2),
            "data": tcp(src, C, "PA", **BACK, **DATA),
            "FIN": tcp(src, C, "FA", **BACK),
            "RST": tcp(src, C, "RA", **BACK, options=confirms),
            "other RST": tcp(src, C, "RA", **STRANGE_BACK, options=confirms),
        }.items()
    }


def received(port: str, dst: str) -> dict[str, bytes]:
    """What comes to the server's `port`."""
    return {
        f"{kind} to {port}": frame
        for kind, frame in {
            "SYN": tcp(C, dst, "S", seq=ISN, options=TAG),
            "other SYN": tcp(C, dst, "S", seq=OTHER_ISN, options=TAG),
            "SYN+ACK": tcp(C, dst, "SA", **FORTH),
            "ACK": tcp(C, dst, "A", **FORTH),
            "other ACK": tcp(C, dst, "A", **STRANGE),
            "data": tcp(C, dst, "PA", **FORTH, **DATA),
            "FIN": tcp(C, dst, "FA", **FORTH),
            "RST": tcp(C, dst, "RA", **FORTH),
            "other RST": tcp(C, dst, "RA", **STRANGE),
        }.items()
    }


STEP_1 = {"step 1 from Y": tcp(SY, C, "A", **BACK, options=option(REDIRECT | PORT, X))}
TO_CLIENT = answered("X", SX, NAMES_Y, option(CONFIRM)) | answered("Y", SY, b"", b"") | STEP_1
TO_SERVER = received("X", SX) | received("Y", SY)
CLIENTS: Mapping[str, Mapping[str, bytes]] = {
    "from_pod": {
        "SYN": tcp(C, VX, "S", seq=ISN),
        "other SYN": tcp(C, VX, "S", seq=OTHER_ISN),
        **sent(C, VX, FORTH, SERVER_ISN + 2),
    },
    "to_pod": TO_CLIENT,
    "from_net": TO_CLIENT,
}
SERVERS: Mapping[str, Mapping[str, bytes]] = {
    "from_pod": {
        "SYN+ACK": tcp(SP, C, "SA", seq=SERVER_ISN, ack=ISN + 1),
        "other SYN+ACK": tcp(SP, C, "SA", seq=SERVER_ISN, ack=ISN + 99),
        **sent(SP, C, BACK, ISN + 2),
        "refusal": tcp(SP, C, "RA", seq=0, ack=ISN + 1),
    },
    "to_pod": TO_SERVER,
    "from_net": TO_SERVER,
}


@dataclass(frozen=True)
class Situation:
    """A connection's at one end. `way`: the packets by which it came there, as (hook, packet). `held`: whether
    the stack shows its socket, with `waits` by now that of TIME_WAIT. `aside`: it was moved to the closed ones since. `wire`: it is a wire's, the one
    of port Y, and has no flow."""

    packets: Mapping[str, Mapping[str, bytes]]
    way: Sequence[tuple[str, str]] = ()
    held: bool = False
    waits: bool = False
    aside: bool = False
    wire: bool = False

    def kinds(self, hook: str) -> list[str]:
        """The packets that may come: to a wire alone those of its port."""
        return [kind for kind in self.packets[hook] if not self.wire or kind.endswith("from Y")]

    @property
    def at_client(self) -> bool:
        return self.packets is CLIENTS


OUT, IN = "from_pod", "to_pod"
OPENING = ((OUT, "SYN"),)
JOINING = (*OPENING, (IN, "SYN+ACK from X"))
ESTABLISHED = (*JOINING, (OUT, "ACK"), (IN, "ACK from Y"))
CLOSES, TAKEN = (IN, "step 1 from Y"), (IN, "ACK of FIN from Y")
PEER_ENDS = ((IN, "FIN from Y"), (OUT, "ACK of FIN"))
ARRIVED = ((IN, "SYN to X"),)
ANSWERED = (*ARRIVED, (OUT, "SYN+ACK"))
JOINED = (*ANSWERED, (IN, "ACK to Y"))
AT_CLIENT, AT_SERVER = "nothing, at the client", "nothing, at the server"
SITUATIONS = {
    AT_CLIENT: Situation(CLIENTS),
    "CLIENT_CLAIMED": Situation(CLIENTS, OPENING, wire=True),
    "CLIENT_OPENING": Situation(CLIENTS, OPENING),
    "CLIENT_OPENING, second SYN": Situation(CLIENTS, (*OPENING, (OUT, "SYN"))),
    "CLIENT_UNAWARE": Situation(CLIENTS, 3 * OPENING),
    "CLIENT_JOINING": Situation(CLIENTS, JOINING, held=True),
    "CLIENT_ESTABLISHED": Situation(CLIENTS, ESTABLISHED, held=True),
    "CLIENT_ESTABLISHED, LOCAL_FIN": Situation(CLIENTS, (*ESTABLISHED, (OUT, "FIN")), held=True),
    "CLIENT_ESTABLISHED, FIN_SEEN": Situation(CLIENTS, (*ESTABLISHED, (IN, "FIN from Y")), held=True),
    "CLIENT_ESTABLISHED, RESET_SEEN": Situation(CLIENTS, (*ESTABLISHED, (IN, "other RST from Y")), held=True),
    "CLIENT_ESTABLISHED, aside": Situation(CLIENTS, ESTABLISHED, aside=True),
    "CLIENT_ESTABLISHED, CLOSING": Situation(CLIENTS, (*ESTABLISHED, CLOSES), held=True),
    "CLIENT_ESTABLISHED, CLOSING, PEER_FIN": Situation(CLIENTS, (*ESTABLISHED, CLOSES, *PEER_ENDS), held=True),
    "CLIENT_ESTABLISHED, CLOSING, taken": Situation(CLIENTS, (*ESTABLISHED, CLOSES, TAKEN), held=True),
    "CLIENT_ESTABLISHED, CLOSING, taken, FIN_SEEN": Situation(CLIENTS, (*ESTABLISHED, CLOSES, TAKEN, PEER_ENDS[0]), held=True),
    "CLIENT_ESTABLISHED, CLOSING, taken, PEER_FIN": Situation(CLIENTS, (*ESTABLISHED, CLOSES, TAKEN, *PEER_ENDS), held=True),
    "CLIENT_CLOSED": Situation(CLIENTS, (*ESTABLISHED, (IN, "RST from Y")), held=True),
    "CLIENT_CLOSED, CLOSING": Situation(CLIENTS, (*ESTABLISHED, CLOSES, TAKEN, *PEER_ENDS, (OUT, "FIN")), held=True),
    AT_SERVER: Situation(SERVERS),
    "SERVER_OPENING": Situation(SERVERS, ARRIVED),
    "SERVER_OPENING, answered": Situation(SERVERS, ANSWERED),
    "SERVER_STRAY": Situation(SERVERS, ((IN, "ACK to Y"),)),
    "SERVER_FOUND": Situation(SERVERS, ((IN, "ACK to Y"),), held=True),
    "SERVER_ESTABLISHED": Situation(SERVERS, JOINED, held=True),
    "SERVER_ESTABLISHED, LOCAL_FIN": Situation(SERVERS, (*JOINED, (OUT, "FIN")), held=True),
    "SERVER_ESTABLISHED, FIN_SEEN": Situation(SERVERS, (*JOINED, (IN, "FIN to Y")), held=True),
    "SERVER_ESTABLISHED, RESET_SEEN": Situation(SERVERS, (*JOINED, (IN, "other RST to Y")), held=True),
    "SERVER_ESTABLISHED, aside": Situation(SERVERS, JOINED, aside=True),
    "SERVER_CLOSED": Situation(SERVERS, (*JOINED, (OUT, "RST"))),
    "SERVER_CLOSED, TIME_WAIT": Situation(SERVERS, (*JOINED, (IN, "RST to Y")), held=True, waits=True),
    "SERVER_CLOSED, LAST_ACK": Situation(SERVERS, (*JOINED, (IN, "RST to Y")), held=True),
}
"""By what a table of docs/architecture.md calls it: its state first, and what matters beside."""


class End:
    """One end of the connection, in its situation."""

    def __init__(self, situation: Situation) -> None:
        self.situation, self.engine, self.now_ns = situation, Engine(), 1 << 40
        tables = Tables(self.engine)
        tables.apply([pool_slice({"a": SERVER}, moves={"mode": "Close"})])
        here, role = (CLIENT, Role.CLIENT) if situation.at_client else (SERVER, Role.SERVER)
        tables.put_pod(here, IFINDEX, role, netns=1)
        pair = (CLIENT, 40_000, VIRTUAL, X) if situation.at_client else (SERVER, TARGET, CLIENT, 40_000)
        self.key, self.beside = pack_flow_key(*pair, IFINDEX), pack_flow_key(*pair, IFINDEX | BESIDE)
        begun = situation.way[:1] if situation.way and situation.way[0][1].startswith("SYN") else ()
        for hook, kind in begun:
            self.run(hook, kind)
        if situation.held:
            own, peers = (ISN + 1, SERVER_ISN + 1) if situation.at_client else (SERVER_ISN + 1, ISN + 1)
            self.engine.hold(pack_flow_key(*pair), expects=peers, sends=own)
        for hook, kind in situation.way[len(begun) :]:
            self.run(hook, kind)
        if situation.waits:
            self.engine.hold(pack_flow_key(*pair), expects=peers, sends=own, whole=False)
        if situation.aside:
            self._move_aside()

    def _move_aside(self) -> None:
        (key, flow), (wire_key, wire) = self.engine.items("flows")[0], self.engine.items("wires")[0]
        assert wire_key_of(key, flow) == wire_key
        for table, record in (("flows", (key, flow)), ("wires", (wire_key, wire))):
            self.engine.put(f"closed_{table}", *record)
            self.engine.delete(table, record[0])

    def run(self, hook: str, kind: str, fast: bool = True) -> Result:
        """A packet goes through a hook. A second goes by before step 1, so that the connection is at rest."""
        self.now_ns += 10**9 if kind.startswith("step 1") else 0
        return self.engine.run(
            hook, self.situation.packets[hook][kind], ifindex=IFINDEX, now_ns=self.now_ns, fast=fast
        )

    def state(self) -> str:
        """What the end remembers of the connection: its state, marks, and, after +, what opens beside."""
        told = [self._of("", self.key), self._of("opening_", self.key), self._of("opening_", self.beside), self._of("closed_", self.key)]
        told += [
            f"{unpack_flow(flow).state.name}, substitute"
            for key, flow in self.engine.items("opening_flows")
            if key not in (self.key, self.beside) and not self.situation.wire
        ]
        return " + ".join(filter(None, told)) or "nothing"

    def _of(self, phase: str, key: bytes) -> str:
        if self.situation.wire and key == self.beside:
            return ""
        if self.situation.wire:
            found = self.engine.get(f"{phase}wires", pack_flow_key(CLIENT, 40_000, SERVER, Y))
            return unpack_wire(found).state.name if found else ""
        found = self.engine.get(f"{phase}flows", key)
        if found is None:
            return ""
        flow = unpack_flow(found)
        aside = phase == "closed_" and flow.state not in (FlowState.CLIENT_CLOSED, FlowState.SERVER_CLOSED)
        closed = phase == "closed_" and not aside
        told = [] if closed else [mark.name for mark in Mark if mark in flow.marks and mark is not Mark.AWARE]
        return ", ".join([flow.state.name, *told, *(["aside"] if aside else [])])

    def connections(self) -> dict[str, list[tuple[bytes, bytes]]]:
        """Every record of every table of connections."""
        return {
            f"{phase}{table}": self.engine.items(f"{phase}{table}")
            for phase in ("", "opening_", "closed_")
            for table in ("flows", "wires")
        }

"""Packets from the network, pods that bear no translator, and the start gate."""

from __future__ import annotations

from support.packets import NOP, REDIRECT, option, tcp, udp
from vectors.vector import (
    AFTER,
    ANSWER,
    BACK,
    CLIENT,
    ISN,
    JOIN,
    SERVER,
    SETTLED,
    SP,
    SX,
    SY,
    SYN,
    SYN_ARRIVES,
    TAG,
    VX,
    C,
    Role,
    Step,
    Vector,
    client,
    server,
    to_client,
    to_server,
)

STRANGER = "10.99.1.77:40000"
GATE = "169.254.87.70:22342"


def turned(frame: bytes) -> bytes:
    """Back the way it came."""
    return frame[6:12] + frame[:6] + frame[12:]


def net(frame: bytes, reason: str, **more: object) -> Step:
    """From the network nothing is rewritten: the pods' own hooks do that."""
    return Step("from_net", "u", frame, reason, **more)


LOOSE, STRICT = b"\x83\x07\x08\x0a\x63\x01\x0a\x00", b"\x89\x07\x08\x0a\x63\x01\x0a\x00"  # no hop of them is left
TIMES = b"\x44\x08\x05\x00" + bytes(4)  # room for one time
ROUTED = (LOOSE, STRICT, NOP * 4 + LOOSE, TIMES + STRICT, TIMES * 3 + LOOSE)
JUDGED = (*ROUTED, b"\x44\x01\x01\x01", b"\x44\x00\x01\x01", b"\x01\x01\x44\x03", b"\x01\x01\x01\x44")
LET_BY = (TIMES, NOP * 40, b"\x00\x83\x07\x08" + NOP * 4, b"\x44\x08\x05\x00\x83\x07\x08\x01")
PROBE = udp(f"{CLIENT}:33000", GATE, b"token")
VECTORS = [
    Vector("an aware SYN to a local server's service port goes straight to its pod", [net(tcp(C, SY, "S", options=TAG), "net_service_port")]),
    Vector(
        "an unaware SYN to a local server's service port is the stack's to hand on, also on a former connection's ports",
        [net(tcp(C, SY, "S"), "not_ours"), *SETTLED, net(tcp(C, SY, "S"), "not_ours"), net(tcp(C, SY, "S", options=option(REDIRECT)), "not_ours")],
    ),
    Vector(
        "a packet with a source route or malformed options of IP is the stack's to hand on",
        [
            *SETTLED,
            *(net(tcp(C, SY, "S", ip=ip, options=TAG), "net_service_port", way="stack_source_route") for ip in JUDGED),
            *(net(tcp(C, SY, "A", **AFTER, ip=ip), "net_service_port", way="stack_source_route") for ip in JUDGED),
            client(tcp(C, VX, "A", **AFTER, ip=LOOSE), "client_sends", tcp(C, SY, "A", **AFTER, ip=LOOSE), way="stack_source_route"),
            server(tcp(SP, C, "A", **BACK, ip=LOOSE), "server_sends", tcp(SY, C, "A", **BACK, ip=LOOSE), way="stack_source_route"),
        ],
    ),
    Vector(
        "a packet with other options of IP goes where one without them goes",
        [
            *SETTLED,
            *(net(tcp(C, SY, "S", ip=ip, options=TAG), "net_service_port") for ip in LET_BY),
            *(net(tcp(C, SY, "A", **AFTER, ip=ip), "net_service_port") for ip in LET_BY),
        ],
    ),
    Vector("a packet to a service port of which no record speaks is the stack's to hand on", [net(tcp(C, SY, "A"), "not_ours")]),
    Vector(
        "what opens at a local server and what is established there goes straight to its pod",
        [SYN, SYN_ARRIVES, ANSWER, net(JOIN.out, "net_service_port"), *SETTLED[3:], net(tcp(C, SY, "A", **AFTER), "net_service_port")],
    ),
    Vector(
        "what opens at a local client lets a direct dial's packets from the same port pass",
        [SYN, *(net(tcp(SX, C, flags, seq=1, ack=ISN + 9), "not_ours") for flags in ("SA", "A", "PA", "FA", "RA"))],
    ),
    Vector("an aware SYN to a local server goes straight to its pod", [net(SYN.out, "net_redirect_port")]),
    Vector(
        "a packet to a local client's connection goes straight to its pod", [SYN, net(tcp(SX, C, "SA", seq=1, ack=ISN + 1), "net_client")]
    ),
    Vector(
        "the answer of a service port to a local client goes straight to its pod", [*SETTLED, net(tcp(SY, C, "A", **BACK), "net_client")]
    ),
    Vector(
        "a direct dial of a pod is nobody's business",
        [
            net(tcp(C, SP, "S", seq=1), "not_ours"),
            to_server(tcp(C, SP, "S", seq=1), "not_ours"),
            server(tcp(SP, C, "SA", seq=2, ack=2), "not_ours"),
            to_client(tcp(SP, C, "SA", seq=2, ack=2), "not_ours"),
            to_server(tcp(C, SP, "A"), "not_ours"),
        ],
    ),
    Vector("an unaware SYN to a redirect port of a server is not ours", [net(tcp(C, SX, "S", seq=1), "not_ours")]),
    Vector("an aware SYN of an unknown scope is not ours", [net(tcp(C, SX, "S", seq=1, options=option(REDIRECT, scope=99)), "not_ours")]),
    Vector("a packet to no pod of this node is not ours to hand on", [net(tcp(C, "10.99.2.20:80", "S"), "not_attached")]),
    Vector("a packet of a connection of no entry is not ours", [net(tcp(SX, C, "SA"), "not_ours")]),
    Vector(
        "a pod that bears no translator is left alone",
        [client(tcp(STRANGER, VX, "S"), "not_attached"), to_client(tcp(SX, STRANGER, "SA"), "not_attached")],
    ),
    Vector(
        "a packet at an interface that is not the pod's is left alone",
        [to_server(tcp(SX, C, "SA"), "not_attached"), to_client(tcp(C, SY, "S"), "not_attached")],
    ),
    Vector(
        "a pod that sends with another's address is left alone",
        [client(tcp(SP, C, "SA"), "foreign_source"), server(tcp(C, VX, "S", seq=ISN), "foreign_source")],
    ),
    Vector("a server that is no client sends nothing of ours", [server(tcp(f"{SERVER}:40000", VX, "S"), "not_ours")]),
    Vector(
        "a client that is no server receives nothing at a service port",
        [to_client(tcp(f"{SERVER}:5", f"{CLIENT}:20001", "S", seq=1), "not_ours")],
    ),
    Vector(
        "a pod of no role is left alone",
        [client(tcp(C, VX, "S"), "not_ours"), to_client(tcp(SX, C, "SA"), "not_ours")],
        pods={CLIENT: ("c", Role(0))},
    ),
    Vector("the start gate's probe comes back", [client(PROBE, "gate_opened", turned(udp(GATE, f"{CLIENT}:33000", b"token")))]),
    Vector("a probe of a pod that is not attached does not come back", [client(udp("10.99.1.77:33000", GATE), "not_attached")]),
    Vector(
        "a datagram to the gate's address at another port is no probe", [client(udp(f"{CLIENT}:33000", "169.254.87.70:22343"), "not_tcp")]
    ),
    Vector("the gate answers only what comes from a pod", [to_client(udp(GATE, f"{CLIENT}:33000"), "not_tcp"), net(PROBE, "not_tcp")]),
    Vector(
        "a packet without an entry that does not open a connection is left alone",
        [
            client(tcp(C, VX, "A", **AFTER), "no_record"),
            client(tcp(C, VX, "R", **AFTER), "no_record"),
            client(tcp(C, VX, "SA", **AFTER), "no_record"),
            client(tcp(C, VX, "PA", **AFTER, payload=b"x", options=NOP * 4), "no_record"),
        ],
    ),
]

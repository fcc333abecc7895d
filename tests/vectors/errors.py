"""What ICMP errors about packets of connections say to either end."""

from __future__ import annotations

from support.packets import CONFIRM, icmp, option, tcp, udp
from vectors.ends import NO_HOOK
from vectors.vector import (
    AFTER,
    ANSWER,
    BACK,
    CLIENT,
    ISN,
    NAMES_Y,
    NUMBERS,
    OPENED,
    OTHER,
    ROUTER,
    SERVER,
    SETTLED,
    SP,
    SX,
    SY,
    SYN,
    VX,
    C,
    Step,
    Vector,
    client,
    to_client,
    to_server,
)

FROM_CLIENT, FROM_SERVER = tcp(C, SY, "PA", **AFTER, payload=b"x" * 100), tcp(SY, C, "PA", **BACK, payload=b"x" * 100)
NO_VERSION = option(CONFIRM, version=9)


def embedded(frame: bytes, sent: bytes) -> bytes:
    """`frame` as an error has it about `sent`: nobody reads an embedded TCP checksum, so it stays what it was."""
    return frame[:50] + sent[50:52] + frame[52:]


RETURNED = [
    Vector(
        "p17 fragmentation needed reaches the client's stack about the packet that it sent",
        [
            *SETTLED,
            to_client(
                icmp(ROUTER, CLIENT, FROM_CLIENT), "icmp_translated", icmp(ROUTER, CLIENT, tcp(C, VX, "PA", **AFTER, payload=b"x" * 100))
            ),
        ],
    ),
    Vector(
        "p17 fragmentation needed reaches the server's stack about the packet that it sent",
        [
            *SETTLED,
            to_server(
                icmp(ROUTER, SERVER, FROM_SERVER), "icmp_translated", icmp(ROUTER, SERVER, tcp(SP, C, "PA", **BACK, payload=b"x" * 100))
            ),
        ],
    ),
    Vector(
        "an error about the SYN is translated to the port dialled",
        [
            SYN,
            to_client(
                icmp(ROUTER, CLIENT, tcp(C, SX, "S", seq=ISN), code=1),
                "icmp_translated",
                icmp(ROUTER, CLIENT, tcp(C, VX, "S", seq=ISN), code=1),
            ),
        ],
    ),
    Vector(
        "an error about a SYN+ACK from a redirect port finds its stack by the service port that it names",
        [
            *OPENED[:3],
            to_server(
                icmp(ROUTER, SERVER, ANSWER.out, code=1, keep=48),
                "icmp_translated",
                icmp(ROUTER, SERVER, embedded(tcp(SP, C, "SA", **NUMBERS, options=NAMES_Y), ANSWER.out), code=1, keep=48),
            ),
            Step("from_net", "u", icmp(ROUTER, SERVER, ANSWER.out, code=1, keep=48), "net_client", **NO_HOOK),
        ],
    ),
    Vector(
        "an error about a SYN+ACK from a redirect port that embeds no option is not ours",
        [*OPENED[:3], *(to_server(icmp(ROUTER, SERVER, ANSWER.out, code=1, keep=keep), "not_ours") for keep in (28, 36, 40, 47))],
    ),
    Vector(
        "an error that embeds a malformed option is translated without it",
        [
            *SETTLED,
            to_server(
                icmp(ROUTER, SERVER, tcp(SY, C, "A", **BACK, options=NO_VERSION), keep=48),
                "icmp_translated",
                icmp(ROUTER, SERVER, embedded(tcp(SP, C, "A", **BACK, options=NO_VERSION), tcp(SY, C, "A", **BACK, options=NO_VERSION)), keep=48),
                malformed=True,
            ),
        ],
    ),
    Vector(
        "time exceeded and parameter problem are errors as well",
        [
            *SETTLED,
            *(
                to_client(
                    icmp(ROUTER, CLIENT, FROM_CLIENT, kind=kind, code=0),
                    "icmp_translated",
                    icmp(ROUTER, CLIENT, tcp(C, VX, "PA", **AFTER, payload=b"x" * 100), kind=kind, code=0),
                )
                for kind in (11, 12)
            ),
        ],
    ),
    Vector(
        "an error from the net about a client's packet goes straight to its pod unchanged",
        [*SETTLED, Step("from_net", "u", icmp(ROUTER, CLIENT, FROM_CLIENT), "net_client", icmp(ROUTER, CLIENT, FROM_CLIENT), **NO_HOOK)],
    ),
    Vector(
        "an error from the net about a server's packet goes straight to its pod unchanged",
        [*SETTLED, Step("from_net", "u", icmp(ROUTER, SERVER, FROM_SERVER), "net_client", icmp(ROUTER, SERVER, FROM_SERVER), **NO_HOOK)],
    ),
    Vector(
        "an error about a connection of no entry is not ours",
        [
            to_client(icmp(ROUTER, CLIENT, FROM_CLIENT), "not_ours"),
            to_server(icmp(ROUTER, SERVER, tcp(SP, C, "A")), "not_ours"),
            Step("from_net", "u", icmp(ROUTER, CLIENT, FROM_CLIENT), "not_ours"),
        ],
    ),
    Vector(
        "an error about a packet of an unknown pod is not ours to read",
        [
            Step("from_net", "u", icmp(ROUTER, "10.99.1.99", tcp("10.99.1.99:1", SY, "A")), "not_attached"),
            to_client(icmp(ROUTER, "10.99.1.99", tcp("10.99.1.99:1", SY, "A")), "not_attached"),
            to_client(icmp(ROUTER, SERVER, FROM_SERVER), "not_attached"),
        ],
    ),
    Vector(
        "an error to another pod than it is about is not ours",
        [
            *SETTLED,
            Step("from_net", "u", icmp(ROUTER, OTHER, FROM_CLIENT), "not_ours"),
            Step("from_net", "u", icmp(ROUTER, OTHER, FROM_SERVER), "not_ours"),
            to_client(icmp(ROUTER, OTHER, FROM_CLIENT), "not_ours"),
            to_server(icmp(ROUTER, OTHER, FROM_SERVER), "not_ours"),
        ],
    ),
    Vector("an error that a pod sends is not ours", [client(icmp(CLIENT, SERVER, FROM_SERVER), "not_ours")]),
    Vector("an echo is not TCP", [client(icmp(CLIENT, SERVER, bytes(60), kind=8, code=0), "not_tcp")]),
    Vector("an error about UDP is not TCP", [to_client(icmp(ROUTER, CLIENT, udp(C, VX, b"12345678"), keep=28), "not_tcp")]),
    Vector(
        "an error that embeds too little is truncated",
        [to_client(icmp(ROUTER, CLIENT, FROM_CLIENT, keep=keep), "truncated") for keep in (0, 1, 19, 20, 27)],
    ),
    Vector(
        "an error that embeds IP options is translated behind them",
        [
            *SETTLED,
            to_client(
                icmp(ROUTER, CLIENT, tcp(C, SY, "A", **AFTER, ip=b"\x94\x04\x00\x00"), keep=32),
                "icmp_translated",
                icmp(ROUTER, CLIENT, tcp(C, VX, "A", **AFTER, ip=b"\x94\x04\x00\x00"), keep=32),
            ),
        ],
    ),
    Vector(
        "an error that embeds IP options and too little behind them is truncated",
        [to_client(icmp(ROUTER, CLIENT, tcp(C, SY, "A", **AFTER, ip=b"\x94\x04\x00\x00"), keep=31), "truncated")],
    ),
    Vector("an error that embeds no IPv4 is not TCP", [to_client(icmp(ROUTER, CLIENT, bytes(60)), "not_tcp")]),
]
VECTORS = RETURNED

"""What ICMP errors about packets of connections say to either end, and what those say that a pod itself sends."""

from __future__ import annotations

from support.packets import CONFIRM, icmp, option, tcp, udp
from support.slices import VIRTUAL, pool_slice
from vectors.ends import NO_HOOK, STRAY
from vectors.substitutes import DIAL, DIALLED, OPENED_ELSEWHERE, TAKEN, S
from vectors.vector import (
    AFTER,
    ALONE,
    ANSWER,
    ANSWER_ARRIVES,
    BACK,
    CLIENT,
    ISN,
    NAMES_Y,
    NUMBERS,
    OPENED,
    OTHER,
    REDIRECTED,
    REMOTE,
    ROUTER,
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
    Change,
    Step,
    Vector,
    X,
    Y,
    client,
    server,
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
SERVER_COMPLAINS = server(
    icmp(SERVER, CLIENT, tcp(C, SP, "PA", **AFTER, payload=b"x" * 100)), "icmp_sent", icmp(SERVER, CLIENT, FROM_CLIENT)
)
CLIENT_COMPLAINS = client(
    icmp(CLIENT, VIRTUAL, tcp(VX, C, "PA", **BACK, payload=b"x" * 100)), "icmp_sent", icmp(CLIENT, SERVER, FROM_SERVER)
)
SENT = [
    Vector(
        "what a server's pod says of a packet that it was handed reaches the client about the packet that it sent",
        [
            *SETTLED,
            SERVER_COMPLAINS,
            to_client(SERVER_COMPLAINS.out, "icmp_translated", icmp(SERVER, CLIENT, tcp(C, VX, "PA", **AFTER, payload=b"x" * 100))),
        ],
    ),
    Vector(
        "what a client's pod says of a packet that it was handed goes to the server, about the packet that it sent",
        [
            *SETTLED,
            CLIENT_COMPLAINS,
            to_server(CLIENT_COMPLAINS.out, "icmp_translated", icmp(CLIENT, SERVER, tcp(SP, C, "PA", **BACK, payload=b"x" * 100))),
        ],
    ),
    Vector(
        "what a server's pod says of a SYN is about the port dialled",
        [
            SYN,
            SYN_ARRIVES,
            server(icmp(SERVER, CLIENT, SYN_ARRIVES.out, code=3), "icmp_sent", icmp(SERVER, CLIENT, SYN_ARRIVES.frame, code=3)),
            to_client(
                icmp(SERVER, CLIENT, SYN_ARRIVES.frame, code=3),
                "icmp_translated",
                icmp(SERVER, CLIENT, tcp(C, VX, "S", seq=ISN, options=TAG), code=3),
            ),
        ],
    ),
    Vector(
        "what a client's pod says of a SYN+ACK is about the port that it names",
        [
            *OPENED,
            client(
                icmp(CLIENT, VIRTUAL, ANSWER_ARRIVES.out, code=1),
                "icmp_sent",
                icmp(CLIENT, SERVER, tcp(SY, C, "SA", **NUMBERS, options=NAMES_Y), code=1),
            ),
            to_server(
                icmp(CLIENT, SERVER, tcp(SY, C, "SA", **NUMBERS, options=NAMES_Y), code=1),
                "icmp_translated",
                icmp(CLIENT, SERVER, tcp(SP, C, "SA", **NUMBERS, options=NAMES_Y), code=1),
            ),
        ],
    ),
    Vector(
        "what a pod says of a closed connection's packets is translated as well",
        [
            *SETTLED,
            server(tcp(SP, C, "RA", **BACK), "server_sends", tcp(SY, C, "RA", **BACK), tells=True),
            client(tcp(C, VX, "RA", **AFTER), "client_sends", tcp(C, SY, "RA", **AFTER), tells=True),
            SERVER_COMPLAINS,
            CLIENT_COMPLAINS,
        ],
    ),
    Vector(
        "an error about a SYN+ACK from a redirect port that is another pool's service port is about the own target port",
        [
            SYN,
            SYN_ARRIVES,
            ANSWER,
            to_server(
                icmp(ROUTER, SERVER, ANSWER.out, code=1, keep=48),
                "icmp_translated",
                icmp(ROUTER, SERVER, embedded(tcp(SP, C, "SA", **NUMBERS, options=NAMES_Y), ANSWER.out), code=1, keep=48),
            ),
        ],
        slices=(
            pool_slice({"a": SERVER}),
            pool_slice({"a": SERVER}, redirect=[81], scope=9, name="twin", virtual=["10.96.0.11"], ports={"a": [80]}, target=9090),
        ),
    ),
    Vector(
        "what a pod says of a packet without a record is about the service port that it came to",
        [STRAY, server(icmp(SERVER, CLIENT, STRAY.out), "icmp_sent", icmp(SERVER, CLIENT, STRAY.frame))],
        pods=ALONE,
    ),
    Vector(
        "what a server's pod says under a substitute is about the client's own port",
        [*OPENED_ELSEWHERE, server(icmp(SERVER, CLIENT, tcp(S, SP, "PA", **AFTER)), "icmp_sent", icmp(SERVER, CLIENT, tcp(C, SY, "PA", **AFTER)))],
        held=TAKEN,
    ),
    Vector(
        "what a server's pod says of a direct dial under a substitute leaves by the stack",
        [
            *SETTLED,
            Change(held=TAKEN),
            DIALLED[0],
            server(icmp(SERVER, CLIENT, DIALLED[0].out, code=3), "server_direct", icmp(SERVER, CLIENT, DIAL, code=3)),
        ],
    ),
    Vector(
        "what a client's pod says goes straight to a server across the wire",
        [
            client(SYN.frame, "client_syn", tcp(C, f"{REMOTE}:{X}", "S", seq=ISN, options=TAG), way=REDIRECTED),
            to_client(tcp(f"{REMOTE}:{X}", C, "SA", **NUMBERS, options=NAMES_Y), "client_redirected", ANSWER_ARRIVES.out),
            client(
                CLIENT_COMPLAINS.frame,
                "icmp_sent",
                icmp(CLIENT, REMOTE, tcp(f"{REMOTE}:{Y}", C, "PA", **BACK, payload=b"x" * 100)),
                way=REDIRECTED,
            ),
        ],
        slices=(pool_slice({"r": REMOTE}),),
    ),
    Vector(
        "what a pod says of another's packet, of its own as the wire has it, or to somebody else is not ours",
        [
            *SETTLED,
            Step("from_pod", "o", icmp(OTHER, CLIENT, tcp(C, SP, "A", **AFTER)), "not_ours"),
            client(icmp(CLIENT, SERVER, FROM_SERVER), "not_ours"),
            server(icmp(SERVER, OTHER, tcp(C, SP, "A", **AFTER)), "not_ours"),
            client(icmp(CLIENT, SERVER, tcp(VX, C, "A", **BACK)), "not_ours"),
        ],
    ),
    Vector(
        "what a pod says from an address that is not its own is not ours",
        [
            *SETTLED,
            server(icmp(OTHER, CLIENT, tcp(C, SP, "A", **AFTER)), "foreign_source"),
            server(icmp(ROUTER, CLIENT, tcp(C, SP, "A", **AFTER)), "not_attached"),
        ],
    ),
    Vector(
        "what a pod says of a connection that became unaware is not ours",
        [SYN, SYN, client(SYN.frame, "third_syn"), client(icmp(CLIENT, VIRTUAL, ANSWER_ARRIVES.out), "not_ours")],
    ),
]
VECTORS = [*RETURNED, *SENT]

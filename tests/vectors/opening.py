"""docs/protocol.md, "Establishing": SYNs, the first and the repeated ones."""

from __future__ import annotations

from support.packets import CONFIRM, MSS, PORT, REDIRECT, SACK_OK_STAMPS, option, tcp
from support.slices import VIRTUAL, pool_slice
from vectors.vector import (
    AFTER,
    ANSWER,
    ANSWER_ARRIVES,
    BACK,
    DROPPED,
    ESTABLISHED,
    HINT,
    ISN,
    JOIN,
    JOIN_ARRIVES,
    NAMES_Y,
    NUMBERS,
    REDIRECTED,
    REMOTE,
    SCOPE,
    SERVER,
    SERVER_ISN,
    SETTLED,
    SP,
    SX,
    SY,
    SYN,
    SYN_ARRIVES,
    TAG,
    VX,
    C,
    Vector,
    X,
    Y,
    blank,
    client,
    server,
    to_client,
    to_server,
)

FAR_CLIENT = f"{REMOTE}:40000"

R_X, R_Y = f"{REMOTE}:{X}", f"{REMOTE}:{Y}"
FAR = (pool_slice({"far": REMOTE}),)
FAR_SYN = client(tcp(C, VX, "S", seq=ISN), "client_syn", tcp(C, R_X, "S", seq=ISN, options=TAG), way=REDIRECTED)
SERVICE = f"{VIRTUAL}:{Y}"
SERVICE_SYN = client(tcp(C, SERVICE, "S", seq=ISN), "client_syn_service", tcp(C, SY, "S", seq=ISN, options=TAG))
SERVICE_ARRIVES = to_server(SERVICE_SYN.out, "server_syn_service", tcp(C, SP, "S", seq=ISN, options=blank(12)))
SERVICE_ANSWER = server(tcp(SP, C, "SA", **NUMBERS), "server_answers", tcp(SY, C, "SA", **NUMBERS, options=option(CONFIRM)))

GET = b"GET / HTTP/1.0\r\n\r\n"


def answers(src: str, options: bytes, reason: str, out: bytes, way: str = "stack_no_hook", **numbers: int):
    """A SYN+ACK from `src` arrives at the client."""
    return to_client(tcp(src, C, "SA", **{**NUMBERS, **numbers}, options=options), reason, out, way=way)


def seen(options: int = 0, **numbers: int) -> bytes:
    """The SYN+ACK as the client's stack sees it, with so many octets blanked."""
    return tcp(VX, C, "SA", **{**NUMBERS, **numbers}, options=blank(options))


SYN_VECTORS = [
    Vector("p03 a SYN to a redirect port bears REDIRECT and scope to a server of the set", [SYN]),
    Vector("p03 a connection is established by four packets", SETTLED),
    Vector("p03 a SYN to a server with a direct way there passes the stack by", [FAR_SYN], slices=FAR),
    Vector(
        "a SYN's own options stay before ours",
        [
            client(
                tcp(C, VX, "S", seq=ISN, options=MSS + SACK_OK_STAMPS),
                "client_syn",
                tcp(C, SX, "S", seq=ISN, options=MSS + SACK_OK_STAMPS + TAG),
            ),
            to_server(
                tcp(C, SX, "S", seq=ISN, options=MSS + SACK_OK_STAMPS + TAG),
                "server_syn",
                tcp(C, SP, "S", seq=ISN, options=MSS + SACK_OK_STAMPS + blank(12)),
            ),
        ],
    ),
    Vector(
        "a SYN that was padded to the least frame grows over its padding",
        [client(tcp(C, VX, "S", seq=ISN) + bytes(6), "client_syn", SYN.out)],
    ),
    Vector(
        "a SYN whose IP header has options is rewritten behind them",
        [
            client(
                tcp(C, VX, "S", seq=ISN, ip=b"\x94\x04\x00\x00"),
                "client_syn",
                tcp(C, SX, "S", seq=ISN, options=TAG, ip=b"\x94\x04\x00\x00"),
            )
        ],
    ),
    Vector(
        "a SYN with exactly the room that our option needs bears it",
        [client(tcp(C, VX, "S", seq=ISN, options=MSS * 7), "client_syn", tcp(C, SX, "S", seq=ISN, options=MSS * 7 + TAG))],
    ),
    Vector(
        "p04 an aware SYN to a service port is confirmed and stays there",
        [
            SERVICE_SYN,
            SERVICE_ARRIVES,
            SERVICE_ANSWER,
            to_client(SERVICE_ANSWER.out, "client_confirmed", tcp(SERVICE, C, "SA", **NUMBERS, options=blank(8))),
            client(tcp(C, SERVICE, "A", **AFTER), "client_sends", tcp(C, SY, "A", **AFTER)),
            to_server(tcp(C, SY, "A", **AFTER), "server_joined", tcp(C, SP, "A", **AFTER)),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
            to_client(tcp(SY, C, "A", **BACK), "client_receives", tcp(SERVICE, C, "A", **BACK)),
        ],
    ),
    Vector(
        "a SYN+ACK with data leaves whole, and without an option",
        [SYN, SYN_ARRIVES, server(tcp(SP, C, "SA", **NUMBERS, payload=b"banner"), "server_answers", tcp(SX, C, "SA", **NUMBERS, payload=b"banner"))],
    ),
    Vector(
        "p02 an unaware SYN to a service port reaches its server and no option comes back",
        [
            to_server(tcp(FAR_CLIENT, SY, "S", seq=ISN), "server_syn_service", tcp(FAR_CLIENT, SP, "S", seq=ISN)),
            server(tcp(SP, FAR_CLIENT, "SA", **NUMBERS), "server_by_stack", tcp(SY, FAR_CLIENT, "SA", **NUMBERS)),
            to_server(tcp(FAR_CLIENT, SY, "A", **AFTER), "server_joined", tcp(FAR_CLIENT, SP, "A", **AFTER)),
        ],
    ),
    Vector(
        "an unaware dial to a service port by a pod of the same node takes the stack both ways as well",
        [
            to_server(tcp(C, SY, "S", seq=ISN), "server_syn_service", tcp(C, SP, "S", seq=ISN)),
            server(tcp(SP, C, "SA", **NUMBERS), "server_by_stack", tcp(SY, C, "SA", **NUMBERS)),
            to_server(tcp(C, SY, "A", **AFTER), "server_joined", tcp(C, SP, "A", **AFTER)),
            server(tcp(SP, C, "PA", **BACK, payload=b"x"), "server_by_stack", tcp(SY, C, "PA", **BACK, payload=b"x")),
        ],
    ),
    Vector(
        "a SYN that bears REDIRECT without scope is no aware SYN",
        [
            to_server(tcp(C, SX, "S", seq=ISN, options=option(REDIRECT)), "not_ours"),
            to_server(tcp(C, SY, "S", seq=ISN, options=option(REDIRECT)), "server_syn_service", tcp(C, SP, "S", seq=ISN, options=blank(8))),
            server(tcp(SP, C, "SA", **NUMBERS), "server_by_stack", tcp(SY, C, "SA", **NUMBERS)),
        ],
    ),
    Vector(
        "a SYN that continues an earlier connection is blanked whole",
        [
            to_server(
                tcp(C, SX, "S", seq=ISN, options=option(REDIRECT, scope=SCOPE, origin=77)),
                "server_syn",
                tcp(C, SP, "S", seq=ISN, options=blank(16)),
            )
        ],
    ),
    Vector(
        "an unknown flag of the option is ignored",
        [to_server(tcp(C, SX, "S", seq=ISN, options=option(REDIRECT | 0xF0, scope=SCOPE)), "server_syn", SYN_ARRIVES.out)],
    ),
    Vector(
        "a SYN of a scope that the server does not know is not ours",
        [to_server(tcp(C, SX, "S", seq=ISN, options=option(REDIRECT, scope=8)), "not_ours")],
    ),
]

RETRANSMISSION_VECTORS = [
    Vector(
        "a second SYN is aware and goes to the same server, the third and later ones are unaware",
        [SYN, SYN, client(SYN.frame, "third_syn"), client(SYN.frame, "third_syn"), client(SYN.frame, "third_syn")],
    ),
    Vector(
        "a connection that became unaware stays so while its client sends",
        [
            SYN,
            SYN,
            client(SYN.frame, "third_syn"),
            client(tcp(C, VX, "A", **AFTER), "no_record"),
            client(tcp(C, VX, "PA", **AFTER, payload=GET), "no_record"),
            to_client(ANSWER.out, "client_late", DROPPED),
        ],
    ),
    Vector(
        "a new SYN on the port of an unaware connection is aware again",
        [
            SYN,
            SYN,
            client(SYN.frame, "third_syn"),
            client(tcp(C, VX, "S", seq=ISN + 9), "client_syn", tcp(C, SX, "S", seq=ISN + 9, options=TAG)),
        ],
    ),
    Vector(
        "an unaware connection's end leaves another pool's connection alone",
        [
            SYN,
            SYN,
            client(SYN.frame, "third_syn"),
            client(tcp(C, "10.96.0.11:80", "S", seq=5), "client_syn", tcp(C, SX, "S", seq=5, options=option(REDIRECT, scope=9))),
            client(tcp(C, VX, "S", seq=ISN + 9), "port_taken"),
            to_client(
                tcp(SX, C, "SA", seq=SERVER_ISN, ack=6, options=option(CONFIRM | PORT, 20_009)),
                "client_redirected",
                tcp("10.96.0.11:80", C, "SA", seq=SERVER_ISN, ack=6, options=blank(8)),
            ),
        ],
        slices=(pool_slice({"a": SERVER}), pool_slice({"a": SERVER}, virtual=["10.96.0.11"], scope=9, name="twin", ports={"a": [20_009]})),
    ),
    Vector(
        "a new ISN on the same port is a new connection",
        [
            *ESTABLISHED,
            client(tcp(C, VX, "S", seq=ISN + 90_000), "client_syn", tcp(C, SX, "S", seq=ISN + 90_000, options=TAG)),
            client(tcp(C, VX, "R", seq=ISN + 90_001), "client_sends_unredirected", tcp(C, SX, "R", seq=ISN + 90_001)),
        ],
    ),
    Vector(
        "a new SYN at the server leaves the entry to the old connection until step 3",
        [
            *SETTLED,
            to_server(tcp(C, SX, "S", seq=77, options=TAG), "server_syn", tcp(C, SP, "S", seq=77, options=blank(12))),
            to_server(tcp(C, SY, "A", seq=ISN + 1, ack=SERVER_ISN + 1), "server_receives", tcp(C, SP, "A", **AFTER)),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
        ],
    ),
    Vector(
        "after the old connection closed a new one on its ports takes the entry by step 3",
        [
            *SETTLED,
            client(tcp(C, VX, "R", seq=ISN + 1), "client_sends", tcp(C, SY, "R", seq=ISN + 1)),
            to_server(tcp(C, SY, "R", seq=ISN + 1), "server_receives", tcp(C, SP, "R", seq=ISN + 1)),
            client(tcp(C, VX, "S", seq=77), "client_syn", tcp(C, SX, "S", seq=77, options=TAG)),
            to_server(tcp(C, SX, "S", seq=77, options=TAG), "server_syn", tcp(C, SP, "S", seq=77, options=blank(12))),
            server(tcp(SP, C, "SA", seq=9, ack=78), "server_answers", tcp(SX, C, "SA", seq=9, ack=78, options=NAMES_Y)),
            to_server(tcp(C, SY, "A", seq=78, ack=10, options=HINT), "server_joined", tcp(C, SP, "A", seq=78, ack=10, options=blank(8))),
        ],
    ),
    Vector(
        "a SYN that comes twice does not make the server forget its answer",
        [SYN, SYN_ARRIVES, ANSWER, SYN_ARRIVES, ANSWER_ARRIVES, JOIN, JOIN_ARRIVES],
    ),
    Vector(
        "a repeated SYN at the server is answered once more",
        [SYN, SYN_ARRIVES, ANSWER, SYN_ARRIVES, ANSWER, ANSWER_ARRIVES, JOIN, JOIN_ARRIVES],
    ),
]

VECTORS = [*SYN_VECTORS, *RETRANSMISSION_VECTORS]

"""docs/protocol.md, "Establishing": answers that came too late, answers of two servers, and options that were lost on the way."""

from __future__ import annotations

from support.packets import CONFIRM, PORT, option, reset, tcp
from support.slices import VIRTUAL, pool_slice
from vectors.opening import FAR, FAR_SYN, R_X, answers, seen
from vectors.vector import (
    DROPPED,
    ISN,
    JOIN,
    NAMES_Y,
    NUMBERS,
    OPENED,
    REDIRECTED,
    REMOTE,
    SERVER,
    SETTLED,
    SP,
    SX,
    SY,
    SYN,
    VX,
    C,
    Change,
    Step,
    Vector,
    client,
    to_client,
    to_server,
)

SZ, Z = f"{SERVER}:20005", 20_005
ANOTHER_PORT = Change(slices=(pool_slice({"a": SERVER}, ports={"a": [20_001, Z]}, generation=2),))
NAMES_Z = option(CONFIRM | PORT, Z)
AT_Z, AT_Y = reset(C, SZ, ISN + 1), reset(C, SY, ISN + 1)
REFUSED = {"seq": 0, "ack": ISN + 1}

SECOND = [
    Vector(
        "a second answer that names another port is reset there and the first stands",
        [*OPENED, ANOTHER_PORT, answers(SX, NAMES_Z, "client_resets", AT_Z), JOIN],
    ),
    Vector(
        "the reset of a second answer goes straight to its sender",
        [
            FAR_SYN,
            answers(R_X, NAMES_Y, "client_redirected", seen(8)),
            Change(slices=(pool_slice({"far": REMOTE}, ports={"far": [20_001, Z]}, generation=2),)),
            answers(R_X, NAMES_Z, "client_resets", reset(C, f"{REMOTE}:{Z}", ISN + 1), way=REDIRECTED),
        ],
        slices=FAR,
    ),
    Vector(
        "the reset of a second answer is the pod's own packet and nobody's connection",
        [*OPENED, ANOTHER_PORT, answers(SX, NAMES_Z, "client_resets", AT_Z), client(AT_Z, "no_record")],
    ),
    Vector(
        "the reset of a second answer reaches the stack of the server that gave it",
        [
            *OPENED[:2],
            to_server(tcp(C, SY, "R", seq=ISN + 1, window=0), "server_unentered", tcp(C, SP, "R", seq=ISN + 1, window=0)),
        ],
    ),
    Vector(
        "an answer to another SYN is reset where its sender hears it",
        [SYN, answers(SX, NAMES_Y, "client_resets", reset(C, SY, ISN + 7), ack=ISN + 7)],
    ),
    Vector(
        "an answer to another SYN from the port that a live connection has left resets nobody",
        [*SETTLED, answers(SX, NAMES_Y, "client_other_answer", DROPPED, ack=ISN + 7)],
    ),
    Vector(
        "an answer of which the client knows nothing is reset at the port that it names",
        [answers(SX, NAMES_Y, "client_resets", AT_Y), Step("from_net", "u", OPENED[2].out, "net_client")],
    ),
    Vector(
        "an answer of which the client knows nothing is not shown to its stack when a translator wrote it, and else is the stack's",
        [answers(SX, NAMES_Z, "client_unsure", DROPPED), answers(SX, b"", "not_ours", tcp(SX, C, "SA", **NUMBERS))],
    ),
]

LATE = [
    Vector(
        "a connection that became unaware takes no answer to what it sent before, and resets nobody",
        [
            SYN,
            SYN,
            client(SYN.frame, "third_syn"),
            *(answers(SX, options, "client_late", DROPPED) for options in (NAMES_Y, option(CONFIRM))),
        ],
    ),
    Vector(
        "what a server sends to a connection that became unaware is left alone",
        [SYN, SYN, client(SYN.frame, "third_syn"), answers(SX, b"", "not_ours", tcp(SX, C, "SA", **NUMBERS))],
    ),
    Vector(
        "a SYN that comes again behind its answer goes to the same server",
        [*OPENED, SYN, JOIN],
    ),
]

STRIPPED = [
    Vector(
        "an answer that lost its option is withheld and the next one is taken",
        [SYN, answers(SX, b"", "client_withheld", DROPPED), answers(SX, NAMES_Y, "client_redirected", seen(8)), JOIN],
    ),
    Vector(
        "a connection whose answers lose their option goes unaware with its third SYN",
        [
            SYN,
            answers(SX, b"", "client_withheld", DROPPED),
            SYN,
            answers(SX, b"", "client_withheld", DROPPED),
            client(SYN.frame, "third_syn"),
        ],
    ),
    Vector(
        "a refusal that no translator confirmed is withheld, as the SYN may have lost its option",
        [SYN, to_client(tcp(SX, C, "RA", **REFUSED), "client_withheld", DROPPED), SYN],
    ),
    Vector(
        "a refusal of another SYN is left to the stack",
        [SYN, to_client(tcp(SX, C, "RA", seq=0, ack=ISN + 2), "not_ours")],
    ),
    Vector(
        "a server that listens at the redirect port itself may refuse without an option",
        [SYN, to_client(tcp(SX, C, "RA", **REFUSED), "client_receives", tcp(VX, C, "RA", **REFUSED))],
        slices=(pool_slice({"a": SERVER}, target=80),),
    ),
    Vector(
        "a refusal of a service port that was dialled needs no option",
        [
            client(tcp(C, f"{VIRTUAL}:20001", "S", seq=ISN), "client_syn_service", tcp(C, SY, "S", seq=ISN, options=SYN.out[54:])),
            to_client(tcp(SY, C, "RA", **REFUSED), "client_receives", tcp(f"{VIRTUAL}:20001", C, "RA", **REFUSED)),
        ],
    ),
    Vector(
        "a SYN that lost its option is not ours at the server",
        [SYN, to_server(tcp(C, SX, "S", seq=ISN), "not_ours")],
    ),
]
VECTORS = [*SECOND, *LATE, *STRIPPED]

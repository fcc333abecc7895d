"""What is remembered of one connection must not meet the next, and what cannot be remembered must not end it."""

from __future__ import annotations

from support.packets import tcp
from vectors.vector import (
    AFTER,
    ANSWER,
    BACK,
    ISN,
    JOIN,
    JOIN_ARRIVES,
    NUMBERS,
    OPENED,
    SERVER_ISN,
    SP,
    SY,
    SYN,
    SYN_ARRIVES,
    VX,
    C,
    Vector,
    client,
    server,
    to_client,
    to_server,
)

PLAIN_SYN = to_server(tcp(C, SP, "S", seq=ISN), "not_ours")
PLAIN_ANSWER = server(tcp(SP, C, "SA", **NUMBERS), "not_ours")
BLIND = {"seq": ISN + 1, "ack": SERVER_ISN + 2}
DATA = {**BACK, "payload": b"hello"}

VECTORS = [
    Vector("an unaware SYN ends what an aware one before it left at the server", [SYN, SYN_ARRIVES, PLAIN_SYN, PLAIN_ANSWER]),
    Vector(
        "an unaware SYN ends what a stray packet to a service port left at the server",
        [
            to_server(tcp(C, SY, "PA", **AFTER), "server_unentered", tcp(C, SP, "PA", **AFTER)),
            PLAIN_SYN,
            PLAIN_ANSWER,
            server(tcp(SP, C, "PA", **DATA), "not_ours"),
        ],
    ),
    Vector(
        "a SYN+ACK that acknowledges another SYN is not the half-open connection's",
        [SYN, SYN_ARRIVES, server(tcp(SP, C, "SA", seq=SERVER_ISN, ack=ISN + 9), "not_ours"), ANSWER],
    ),
    Vector(
        "a sender who did not see the SYN+ACK makes no entry, and step 3 still does",
        [*OPENED, to_server(tcp(C, SY, "A", **BLIND), "server_unentered", tcp(C, SP, "A", **BLIND)), JOIN, JOIN_ARRIVES],
    ),
    Vector(
        "a packet before the SYN+ACK makes no entry, whatever it acknowledges",
        [SYN, SYN_ARRIVES, to_server(tcp(C, SY, "A", seq=ISN + 1, ack=1), "server_unentered", tcp(C, SP, "A", seq=ISN + 1, ack=1)), ANSWER],
    ),
    Vector(
        "a full table at the server ends no connection: it lives among the closed ones",
        [
            *OPENED,
            JOIN,
            to_server(JOIN.out, "server_no_room", JOIN_ARRIVES.out),
            server(tcp(SP, C, "PA", **DATA), "server_sends", tcp(SY, C, "PA", **DATA)),
            to_client(tcp(SY, C, "PA", **DATA), "client_receives", tcp(VX, C, "PA", **DATA)),
            client(tcp(C, VX, "A", **AFTER), "client_sends", tcp(C, SY, "A", **AFTER)),
            to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(C, SP, "A", **AFTER)),
            server(tcp(SP, C, "PA", **DATA), "server_sends", tcp(SY, C, "PA", **DATA)),
        ],
        capacity={"flows": 1},
    ),
]

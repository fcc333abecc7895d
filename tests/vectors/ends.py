"""docs/protocol.md, "State of the ends": closing, refusing, rebuilding."""

from __future__ import annotations

from support.packets import CONFIRM, NOP, option, reset, tcp
from support.slices import pool_slice
from vectors.vector import (
    AFTER,
    ALONE,
    ANSWER,
    BACK,
    ESTABLISHED,
    ISN,
    OTHER,
    SERVER,
    SERVER_ISN,
    SETTLED,
    SP,
    SX,
    SY,
    SYN,
    SYN_ARRIVES,
    VX,
    C,
    Change,
    Step,
    Vector,
    client,
    server,
    to_client,
    to_server,
)

FIN = client(tcp(C, VX, "FA", **AFTER), "client_sends", tcp(C, SY, "FA", **AFTER))
FIN_ARRIVES = to_server(tcp(C, SY, "FA", **AFTER), "server_receives", tcp(C, SP, "FA", **AFTER))
FIN_BACK = server(tcp(SP, C, "FA", **BACK), "server_sends", tcp(SY, C, "FA", **BACK))
FIN_BACK_ARRIVES = to_client(tcp(SY, C, "FA", **BACK), "client_receives", tcp(VX, C, "FA", **BACK))
STRAY = to_server(tcp(C, SY, "PA", **AFTER, payload=b"x"), "server_unentered", tcp(C, SP, "PA", **AFTER, payload=b"x"))
NO_HOOK = {"way": "stack_no_hook"}

CLOSING = [
    Vector("a FIN of either end marks the entry and both together close it", [*SETTLED, FIN, FIN_ARRIVES, FIN_BACK, FIN_BACK_ARRIVES]),
    Vector(
        "the last acknowledgement of a closed connection still finds its way",
        [
            *SETTLED,
            FIN,
            FIN_ARRIVES,
            FIN_BACK,
            FIN_BACK_ARRIVES,
            client(tcp(C, VX, "A", seq=ISN + 2, ack=SERVER_ISN + 2), "client_sends", tcp(C, SY, "A", seq=ISN + 2, ack=SERVER_ISN + 2)),
            to_server(
                tcp(C, SY, "A", seq=ISN + 2, ack=SERVER_ISN + 2), "server_receives", tcp(C, SP, "A", seq=ISN + 2, ack=SERVER_ISN + 2)
            ),
        ],
    ),
    Vector("the server may close first", [*SETTLED, FIN_BACK, FIN_BACK_ARRIVES, FIN, FIN_ARRIVES]),
    Vector(
        "a reset by which the stack answers a stranger's packet, for want of a socket that is found, ends nothing",
        [
            *SETTLED,
            to_server(tcp(C, SY, "FA", seq=9, ack=77), "server_receives", tcp(C, SP, "FA", seq=9, ack=77)),
            server(tcp(SP, C, "R", seq=77), "server_sends", tcp(SY, C, "R", seq=77), tells=False),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
        ],
    ),
    Vector(
        "a reset by which the stack answers a packet after its own FIN ends the connection",
        [
            *SETTLED,
            FIN_BACK,
            to_server(tcp(C, SY, "PA", **AFTER, payload=b"x"), "server_receives", tcp(C, SP, "PA", **AFTER, payload=b"x")),
            server(tcp(SP, C, "R", seq=SERVER_ISN + 2), "server_sends", tcp(SY, C, "R", seq=SERVER_ISN + 2), tells=True),
        ],
    ),
    Vector(
        "a client's reset closes both entries",
        [
            *SETTLED,
            client(tcp(C, VX, "R", seq=ISN + 1), "client_sends", tcp(C, SY, "R", seq=ISN + 1)),
            to_server(tcp(C, SY, "R", seq=ISN + 1), "server_receives", tcp(C, SP, "R", seq=ISN + 1)),
        ],
    ),
    Vector(
        "a server's reset closes both entries",
        [
            *SETTLED,
            server(tcp(SP, C, "R", seq=SERVER_ISN + 1), "server_sends", tcp(SY, C, "R", seq=SERVER_ISN + 1)),
            to_client(tcp(SY, C, "R", seq=SERVER_ISN + 1), "client_receives", tcp(VX, C, "R", seq=SERVER_ISN + 1)),
        ],
    ),
    Vector(
        "a closed port refuses with a reset from the port dialled",
        [
            SYN,
            SYN_ARRIVES,
            server(tcp(SP, C, "RA", ack=ISN + 1), "server_refuses", tcp(SX, C, "RA", ack=ISN + 1, options=option(CONFIRM))),
            to_client(
                tcp(SX, C, "RA", ack=ISN + 1, options=option(CONFIRM)), "client_receives", tcp(VX, C, "RA", ack=ISN + 1, options=NOP * 8)
            ),
        ],
    ),
    Vector(
        "a client whose stack gives up its SYN sends the reset to the server that it chose",
        [SYN, client(tcp(C, VX, "R", seq=ISN + 1), "client_sends_unredirected", tcp(C, SX, "R", seq=ISN + 1))],
    ),
]

REBUILDING = [
    Vector(
        "p09 a lost server entry is rebuilt when the stack answers",
        [
            STRAY,
            server(tcp(SP, C, "A", **BACK), "server_rebuilt", tcp(SY, C, "A", **BACK)),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
        ],
        pods=ALONE,
    ),
    Vector(
        "p09 a lost server entry of an unaware neighbour's connection is rebuilt as one that takes the stack",
        [
            STRAY,
            server(tcp(SP, C, "A", **BACK), "server_by_stack", tcp(SY, C, "A", **BACK)),
            server(tcp(SP, C, "A", **BACK), "server_by_stack", tcp(SY, C, "A", **BACK)),
            Step("from_net", "u", tcp(C, SY, "A", **AFTER), "not_ours"),
        ],
    ),
    Vector(
        "a packet to a service port that the stack does not know is refused from that port",
        [STRAY, server(tcp(SP, C, "R", seq=SERVER_ISN + 1), "server_refuses", tcp(SY, C, "R", seq=SERVER_ISN + 1))],
        pods=ALONE,
    ),
    Vector("a second stray packet leaves the record as it is", [STRAY, STRAY]),
    Vector("a stack that speaks to a client of no entry is not ours", [server(tcp(SP, C, "A", **BACK), "not_ours")]),
    Vector("a SYN+ACK of which no SYN was seen is not ours", [server(ANSWER.frame, "not_ours")]),
    Vector("a SYN+ACK answers no stray packet", [STRAY, server(ANSWER.frame, "not_ours")]),
    Vector(
        "a client whose entry was lost goes unaware",
        [*SETTLED, Change(forget=("flows", "wires")), client(tcp(C, VX, "A", **AFTER), "no_record"), to_client(tcp(SY, C, "A", **BACK), "not_ours")],
    ),
    Vector(
        "an established connection goes on after its server's port is removed at the client's node",
        [
            *SETTLED,
            Change(slices=()),
            client(tcp(C, VX, "PA", **AFTER, payload=b"x"), "client_sends", tcp(C, SY, "PA", **AFTER, payload=b"x")),
            to_client(tcp(SY, C, "A", **BACK), "client_receives", tcp(VX, C, "A", **BACK)),
        ],
    ),
    Vector(
        "a port that its server no longer owns is not translated", [*ESTABLISHED, Change(slices=()), to_server(STRAY.frame, "not_ours")]
    ),
]

WORDS = {**AFTER, "payload": b"x" * 100}
GONE = Change(slices=(pool_slice({"b": OTHER}, generation=2),))
RESET = reset(VX, C, AFTER["ack"])
SERVER_GONE = [
    Vector(
        "i5 a client whose server no longer has the port is reset at once, as if by that server",
        [
            *SETTLED,
            GONE,
            client(tcp(C, VX, "PA", **WORDS), "client_server_gone", RESET),
            to_client(RESET, "not_ours"),
            client(tcp(C, VX, "PA", **WORDS), "client_server_gone", RESET),
        ],
    ),
    Vector(
        "a keepalive, a FIN and a bare acknowledgement to a port that is gone are answered likewise",
        [
            *SETTLED,
            GONE,
            *(
                client(tcp(C, VX, flags, seq=seq, ack=AFTER["ack"], options=options), "client_server_gone", RESET)
                for flags, seq, options in (("A", ISN, NOP * 12), ("FA", ISN + 1, b""), ("A", ISN + 1, b""))
            ),
        ],
    ),
    Vector(
        "a packet with IP options to a port that is gone is answered behind them",
        [
            *SETTLED,
            GONE,
            client(
                tcp(C, VX, "A", **AFTER, ip=b"\x94\x04\x00\x00"),
                "client_server_gone",
                RESET[:12] + tcp(VX, C, "R", seq=AFTER["ack"], ip=b"\x94\x04\x00\x00", window=0)[12:],
            ),
        ],
    ),
    Vector(
        "a reset to a port that is gone is not answered",
        [*SETTLED, GONE, client(tcp(C, VX, "R", seq=ISN + 1), "client_sends", tcp(C, SY, "R", seq=ISN + 1))],
    ),
    Vector(
        "a port that is gone and given back to its server is used again",
        [
            *SETTLED,
            GONE,
            Change(slices=(pool_slice({"a": SERVER}, generation=3),)),
            client(tcp(C, VX, "PA", **WORDS), "client_sends", tcp(C, SY, "PA", **WORDS)),
        ],
    ),
    Vector(
        "a server that drains keeps its clients",
        [
            *SETTLED,
            Change(slices=(pool_slice({"a": SERVER}, states={"a": "Draining"}, generation=2),)),
            client(tcp(C, VX, "PA", **WORDS), "client_sends", tcp(C, SY, "PA", **WORDS)),
        ],
    ),
    Vector(
        "a server whose ports rest has lost them",
        [
            *SETTLED,
            Change(slices=(pool_slice({"a": SERVER}, states={"a": "Resting"}, generation=2),)),
            client(tcp(C, VX, "PA", **WORDS), "client_server_gone", RESET),
        ],
    ),
]
VECTORS = [*CLOSING, *REBUILDING, *SERVER_GONE]

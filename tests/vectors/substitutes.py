"""docs/protocol.md, "State of the ends": a pair of ports that the server's stack has given away already, and who else may ask for it."""

from __future__ import annotations

from support.packets import CONFIRM, PORT, REDIRECT, icmp, option, tcp
from support.slices import pool_slice
from vectors.balancing import from_other
from vectors.vector import (
    AFTER,
    ANSWER,
    BACK,
    CLIENT,
    HINT,
    ISN,
    JOIN,
    JOIN_ARRIVES,
    NAMES_Y,
    NUMBERS,
    OPENED,
    OTHER,
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
    Change,
    Role,
    Step,
    Vector,
    blank,
    server,
    to_server,
)

TWINS = (pool_slice({"a": SERVER}), pool_slice({"a": SERVER}, redirect=[81], scope=9, name="twin", virtual=["10.96.0.11"], ports={"a": [20_009]}))
OWN = (pool_slice({"a": SERVER, "b": OTHER}, policy="RoundRobin"),)
SX2, SY2, TAG2 = f"{SERVER}:81", f"{SERVER}:20009", option(REDIRECT, scope=9)
NAMES_Y2 = option(CONFIRM | PORT, 20_009)
# What the hash makes of the client's address and port, and of that substitute in its turn.
S, OF_S = f"{CLIENT}:50817", f"{CLIENT}:64058"
TAKEN = ((SP, C),)


def after(first: str) -> list[tuple[str, str]]:
    """The pairs of ports that a substitute is sought among, from the first: 32, spread evenly over the ports from 1024."""
    address, port = first.split(":")
    return [(SP, f"{address}:{1024 + (int(port) - 1024 + n * 2016) % 64512}") for n in range(32)]


SYN_PLACED = to_server(SYN.out, "server_syn", tcp(S, SP, "S", seq=ISN, options=blank(12)))
ANSWER_FROM_PLACE = server(tcp(SP, S, "SA", **NUMBERS), "server_answers", ANSWER.out)
JOIN_PLACED = to_server(JOIN.out, "server_joined", tcp(S, SP, "A", **AFTER, options=blank(8)))
OPENED_ELSEWHERE = (SYN_PLACED, ANSWER_FROM_PLACE, JOIN_PLACED)
DATA = {"payload": b"some"}
GOES_ON = (
    to_server(tcp(C, SY, "PA", **AFTER, **DATA), "server_receives", tcp(S, SP, "PA", **AFTER, **DATA)),
    server(tcp(SP, S, "PA", **BACK, **DATA), "server_sends", tcp(SY, C, "PA", **BACK, **DATA)),
)
# The same client port by another pool, while the first connection has it.
SECOND = (
    to_server(tcp(C, SX2, "S", seq=5, options=TAG2), "server_syn", tcp(S, SP, "S", seq=5, options=blank(12))),
    server(tcp(SP, S, "SA", seq=9, ack=6), "server_answers", tcp(SX2, C, "SA", seq=9, ack=6, options=NAMES_Y2)),
    to_server(tcp(C, SY2, "A", seq=6, ack=10, options=HINT), "server_joined", tcp(S, SP, "A", seq=6, ack=10, options=blank(8))),
)

PLACES = [
    Vector("a client port that the server's stack has in use gets a substitute", [*OPENED_ELSEWHERE, *GOES_ON], held=TAKEN),
    Vector(
        "a repeated SYN gets the substitute that the first got",
        [SYN_PLACED, SYN_PLACED, ANSWER_FROM_PLACE, SYN_PLACED, JOIN_PLACED, *GOES_ON],
        held=TAKEN,
    ),
    Vector(
        "one client port to two pools of one server is two pairs of ports to its stack",
        [
            *SETTLED,
            *SECOND,
            to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(C, SP, "A", **AFTER)),
            to_server(tcp(C, SY2, "A", seq=6, ack=10), "server_receives", tcp(S, SP, "A", seq=6, ack=10)),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
            server(tcp(SP, S, "A", seq=10, ack=6), "server_sends", tcp(SY2, C, "A", seq=10, ack=6)),
        ],
        slices=TWINS,
    ),
    Vector(
        "two pools' connections from one client port may open at the same time",
        [SYN, SYN_ARRIVES, *SECOND, ANSWER, JOIN_ARRIVES],
        slices=TWINS,
    ),
    Vector(
        "a new connection on the ports of a substituted one gets the same substitute",
        [
            *OPENED_ELSEWHERE,
            to_server(tcp(C, SY, "R", seq=ISN + 1), "server_receives", tcp(S, SP, "R", seq=ISN + 1)),
            to_server(tcp(C, SX, "S", seq=77, options=TAG), "server_syn", tcp(S, SP, "S", seq=77, options=blank(12))),
            server(tcp(SP, S, "SA", seq=9, ack=78), "server_answers", tcp(SX, C, "SA", seq=9, ack=78, options=NAMES_Y)),
            to_server(tcp(C, SY, "A", seq=78, ack=10, options=HINT), "server_joined", tcp(S, SP, "A", seq=78, ack=10, options=blank(8))),
        ],
        held=TAKEN,
    ),
    Vector(
        "a substitute that is taken as well is passed over",
        [to_server(SYN.out, "server_syn", tcp(after(S)[1][1], SP, "S", seq=ISN, options=blank(12)))],
        held=((SP, C), (SP, S)),
    ),
    Vector(
        "without a free substitute a SYN is dropped",
        [to_server(SYN.out, "server_no_substitute", b"")],
        held=(*TAKEN, *after(S)),
    ),
    Vector(
        "what is remembered of a service port that its server has lost leads nowhere",
        [SYN_PLACED, Change(slices=()), to_server(tcp(C, SY, "S", seq=77), "not_ours")],
        held=TAKEN,
    ),
    Vector(
        "a refusal under a substitute reaches the client's own port",
        [SYN_PLACED, server(tcp(SP, S, "RA", ack=ISN + 1), "server_refuses", tcp(SX, C, "RA", ack=ISN + 1, options=option(CONFIRM)))],
        held=TAKEN,
    ),
    Vector(
        "an error about a packet sent to the client's own port reaches the stack about the substitute",
        [
            *OPENED_ELSEWHERE,
            to_server(
                icmp("172.16.0.1", SERVER, tcp(SY, C, "PA", **BACK, payload=b"x" * 100)),
                "icmp_translated",
                icmp("172.16.0.1", SERVER, tcp(SP, S, "PA", **BACK, payload=b"x" * 100)),
            ),
        ],
        held=TAKEN,
    ),
    Vector(
        "a packet to another service port than the connection's is no packet of that connection",
        [
            *SETTLED,
            to_server(tcp(C, SY2, "R", seq=ISN + 1), "server_unentered", tcp(S, SP, "R", seq=ISN + 1)),
            to_server(tcp(C, SY2, "A", **AFTER), "server_unentered", tcp(S, SP, "A", **AFTER)),
            server(tcp(SP, S, "R", seq=SERVER_ISN + 1), "server_by_stack", tcp(SY2, C, "R", seq=SERVER_ISN + 1)),
            to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(C, SP, "A", **AFTER)),
        ],
        slices=TWINS,
    ),
    Vector(
        "a packet to another service port is dropped when no substitute is free",
        [*SETTLED, to_server(tcp(C, SY2, "R", seq=ISN + 1), "server_no_substitute", b"")],
        slices=TWINS,
        held=[(*pair, 5, 6) for pair in after(S)],
    ),
    Vector(
        "a packet to another service port finds the connection that has a substitute there, when the stack has one that takes it",
        [*SETTLED, to_server(tcp(C, SY2, "A", seq=5, ack=6), "server_unentered", tcp(after(S)[3][1], SP, "A", seq=5, ack=6))],
        slices=TWINS,
        held=[(*after(S)[3], 5, 6)],
    ),
]

DIAL = tcp(C, SP, "S", seq=300)
DIALLED = (
    to_server(DIAL, "server_direct", tcp(S, SP, "S", seq=300)),
    server(tcp(SP, S, "SA", seq=600, ack=301), "server_direct", tcp(SP, C, "SA", seq=600, ack=301)),
    to_server(tcp(C, SP, "A", seq=301, ack=601), "server_joined", tcp(S, SP, "A", seq=301, ack=601)),
)
PASSES = server(tcp(SP, C, "SA", seq=600, ack=301), "not_ours")
SPEAKS = server(tcp(SP, C, "PA", seq=601, ack=301, payload=b"x"), "not_ours")
DIRECT = [
    Vector(
        "a direct dial from the port of a connection of ours gets a substitute and leaves by the stack",
        [
            *SETTLED,
            Change(held=TAKEN),
            *DIALLED,
            to_server(tcp(C, SP, "PA", seq=301, ack=601, payload=b"x"), "server_receives", tcp(S, SP, "PA", seq=301, ack=601, payload=b"x")),
            server(tcp(SP, S, "PA", seq=601, ack=302, payload=b"y"), "server_direct", tcp(SP, C, "PA", seq=601, ack=302, payload=b"y")),
            Step("from_net", "u", tcp(C, SP, "A", seq=302, ack=602), "not_ours"),
            server(tcp(SP, S, "FA", seq=602, ack=302), "server_direct", tcp(SP, C, "FA", seq=602, ack=302)),
            Step("from_net", "u", tcp(C, SP, "FA", seq=302, ack=603), "not_ours"),
            to_server(tcp(C, SP, "FA", seq=302, ack=603), "server_receives", tcp(S, SP, "FA", seq=302, ack=603)),
            to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(C, SP, "A", **AFTER)),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
        ],
    ),
    Vector(
        "direct dials that nobody completes take no room from connections",
        [
            *(SYN, SYN_ARRIVES, ANSWER, Change(held=TAKEN), DIALLED[0]),
            Change(forget=("opening_flows", "opening_wires")),
            to_server(tcp(C, SP, "A", **AFTER), "not_ours"),
        ],
        pods={CLIENT: ("c", Role.CLIENT), SERVER: ("s", Role.SERVER)},
    ),
    Vector(
        "a direct dial that is refused under its substitute is refused from the port dialled",
        [*SETTLED, Change(held=TAKEN), DIALLED[0], server(tcp(SP, S, "RA", ack=301), "server_direct", tcp(SP, C, "RA", ack=301))],
    ),
    Vector(
        "a direct dial from the port of an opening connection of ours gets a substitute",
        [SYN, SYN_ARRIVES, Change(held=TAKEN), *DIALLED],
    ),
    Vector(
        "a direct dial whose substitutes are all taken is left to the stack",
        [*SETTLED, Change(held=(*TAKEN, *after(S))), to_server(DIAL, "not_ours")],
    ),
    Vector(
        "a direct dial that finds the table full lives among the closed ones, and leaves by the stack",
        [
            to_server(SYN.out, "server_syn", SYN_ARRIVES.out),
            ANSWER,
            to_server(JOIN.out, "server_joined", JOIN_ARRIVES.out),
            Change(held=TAKEN),
            *DIALLED[:2],
            to_server(DIALLED[2].frame, "server_no_room", DIALLED[2].out),
            server(tcp(SP, S, "PA", seq=601, ack=301, payload=b"x"), "server_direct", tcp(SP, C, "PA", seq=601, ack=301, payload=b"x")),
            to_server(tcp(C, SP, "A", seq=301, ack=602), "server_receives", tcp(S, SP, "A", seq=301, ack=602)),
        ],
        pods={SERVER: ("s", Role.SERVER)},
        capacity={"flows": 1},
    ),
    Vector(
        "a direct dial from the substitute of another gets one of its own, whatever the stack shows",
        [
            *SETTLED,
            Change(held=TAKEN),
            *DIALLED,
            to_server(tcp(S, SP, "S", seq=900), "server_direct", tcp(OF_S, SP, "S", seq=900)),
            server(tcp(SP, OF_S, "SA", seq=950, ack=901), "server_direct", tcp(SP, S, "SA", seq=950, ack=901)),
            to_server(tcp(C, SP, "A", seq=301, ack=601), "server_receives", tcp(S, SP, "A", seq=301, ack=601)),
        ],
    ),
    Vector(
        "a direct dial from the substitute of a connection of ours gets one of its own, whatever the stack shows",
        [
            *OPENED_ELSEWHERE,
            to_server(tcp(S, SP, "S", seq=900), "server_direct", tcp(OF_S, SP, "S", seq=900)),
            to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(S, SP, "A", **AFTER)),
        ],
        held=TAKEN,
    ),
    Vector(
        "a direct dial from the port of a connection of ours whose socket is not seen gets a substitute",
        [*SETTLED, *DIALLED, to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(C, SP, "A", **AFTER))],
    ),
    Vector(
        "a direct connection that the stack has opened on the ports of a connection of ours takes them",
        [*SETTLED, Change(held=after(S)), to_server(DIAL, "not_ours"), PASSES, SPEAKS],
    ),
    Vector(
        "a direct connection that the stack has opened on the ports of a record takes them",
        [to_server(tcp(C, SY, "A", **AFTER), "server_unentered", tcp(C, SP, "A", **AFTER)), to_server(DIAL, "not_ours"), PASSES, SPEAKS],
    ),
    Vector(
        "a SYN that comes again unaware is answered without translation",
        [SYN, SYN_ARRIVES, ANSWER, to_server(tcp(C, SP, "S", seq=ISN), "not_ours"), server(tcp(SP, C, "SA", **NUMBERS), "not_ours")],
    ),
]

OWN_PORT = f"{OTHER}:20002"
OUTGOING = [
    Vector(
        "a client does not go aware from a port that is its own service port",
        [from_other(tcp(OWN_PORT, VX, "S", seq=ISN), "port_taken")],
        slices=OWN,
    ),
    Vector(
        "an answer to a port that is the pod's own service port reaches the connection that began there",
        [
            Step("to_pod", "o", tcp(SP, OWN_PORT, "SA", **NUMBERS), "not_ours"),
            Step("to_pod", "o", tcp(SP, f"{OTHER}:20002", "A", **BACK), "not_ours"),
        ],
        slices=OWN,
        held=((OWN_PORT, SP),),
    ),
]

REPEATED = [
    Vector(
        "a SYN+ACK that the stack repeats after step 3 goes out as the first did",
        [*OPENED, JOIN, JOIN_ARRIVES, ANSWER, to_server(JOIN.out, "server_receives", JOIN_ARRIVES.out)],
    ),
]

# Another client's connection, which has all the room that there is.
ROOM_TAKEN = (
    to_server(tcp(f"{OTHER}:1", SX, "S", seq=ISN, options=TAG), "server_syn", tcp(f"{OTHER}:1", SP, "S", seq=ISN, options=blank(12))),
    server(tcp(SP, f"{OTHER}:1", "SA", **NUMBERS), "server_answers", tcp(SX, f"{OTHER}:1", "SA", **NUMBERS, options=NAMES_Y)),
    to_server(tcp(f"{OTHER}:1", SY, "A", **AFTER), "server_joined", tcp(f"{OTHER}:1", SP, "A", **AFTER)),
)
FULL = [
    Vector(
        "a connection that finds the server's table full lives among the closed ones, and is taken back when there is room",
        [
            *ROOM_TAKEN,
            to_server(SYN.out, "server_syn", SYN_ARRIVES.out),
            ANSWER,
            to_server(JOIN.out, "server_no_room", JOIN_ARRIVES.out),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
            to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(C, SP, "A", **AFTER)),
            Change(held=TAKEN),
            to_server(tcp(C, SX, "S", seq=77, options=TAG), "server_syn", tcp(C, SP, "S", seq=77, options=blank(12))),
            to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(C, SP, "A", **AFTER)),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
            Change(forget=("flows", "wires", "opening_flows", "opening_wires")),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
            Change(forget=("closed_flows", "closed_wires")),
            server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
        ],
        capacity={"flows": 1},
    ),
    Vector(
        "a substituted connection that finds the table full lives among the closed ones",
        [
            *ROOM_TAKEN,
            Change(held=TAKEN),
            *OPENED_ELSEWHERE[:2],
            to_server(JOIN.out, "server_no_room", JOIN_PLACED.out),
            server(tcp(SP, S, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
            to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(S, SP, "A", **AFTER)),
        ],
        capacity={"flows": 1},
    ),
]
# The client closes, then the server: that waits for the client's last acknowledgement, or in TIME_WAIT.
CLOSED = (
    *SETTLED,
    to_server(tcp(C, SY, "FA", **AFTER), "server_receives", tcp(C, SP, "FA", **AFTER)),
    server(tcp(SP, C, "FA", seq=SERVER_ISN + 1, ack=ISN + 2), "server_sends", tcp(SY, C, "FA", seq=SERVER_ISN + 1, ack=ISN + 2)),
)
FAR = ISN + (1 << 31)
AGAIN = tcp(C, SX, "S", seq=FAR, options=TAG)
WAITING = [
    Vector(
        "a SYN on the ports of a closed connection whose last data is on its way is that connection's, whose stack judges",
        [*CLOSED, Change(held=TAKEN), to_server(AGAIN, "server_syn", tcp(C, SP, "S", seq=FAR, options=blank(12)))],
    ),
    Vector(
        "a direct dial on the ports of a closed connection that waits in the server's stack gets a substitute",
        [*CLOSED, Change(held=TAKEN), *DIALLED],
    ),
    Vector(
        "a connection whose SYN counts on from the closed one, as it dials the same, takes its ports",
        [
            *CLOSED,
            Change(held=TAKEN),
            to_server(
                tcp(C, SX, "S", seq=ISN + 4_000_000, options=TAG),
                "server_syn",
                tcp(C, SP, "S", seq=ISN + 4_000_000, options=blank(12)),
            ),
        ],
    ),
    Vector(
        "a connection on the ports of a closed one whose stack has forgotten it takes them",
        [*CLOSED, to_server(AGAIN, "server_syn", tcp(C, SP, "S", seq=FAR, options=blank(12)))],
    ),
    Vector(
        "without a substitute a connection takes the ports of the closed one, whose stack decides",
        [*CLOSED, Change(held=(*TAKEN, *after(S))), to_server(AGAIN, "server_syn", tcp(C, SP, "S", seq=FAR, options=blank(12)))],
    ),
]

VECTORS = [*PLACES, *DIRECT, *OUTGOING, *REPEATED, *FULL, *WAITING]

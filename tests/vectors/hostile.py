"""Packets that were made to disturb: numbers that no stack expects, ports that a connection has left, options that no translator wrote."""

from __future__ import annotations

from support.packets import CONFIRM, IMPERMISSIBLE, NOP, PORT, REDIRECT, option, reset, tcp
from support.slices import pool_slice
from vectors.vector import (
    AFTER,
    ALONE,
    ANSWER,
    ANSWER_ARRIVES,
    BACK,
    CLIENT,
    DROPPED,
    HINT,
    ISN,
    JOIN,
    JOIN_ARRIVES,
    NAMES_Y,
    NUMBERS,
    OPENED,
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
    Step,
    Vector,
    X,
    client,
    server,
    to_client,
    to_server,
)
from wharfinger_dataplane._records import SETTING_FULL

SOCKETS = Change(held=((C, VX, SERVER_ISN + 1, ISN + 1), (SP, C)))
LIVE = (*SETTLED, SOCKETS)
FAR = 1 << 30  # from any window
NEAR = 70_000  # just behind the window of most


def from_server(flags: str, **numbers: int) -> tuple[bytes, bytes]:
    """What comes from Y, and what the client's stack is handed."""
    return tcp(SY, C, flags, **numbers), tcp(VX, C, flags, **numbers)


def from_client(flags: str, **numbers: int) -> tuple[bytes, bytes]:
    """What comes to Y, and what the server's stack is handed."""
    return tcp(C, SY, flags, **numbers), tcp(C, SP, flags, **numbers)


def spoofed(flags: str, **off: int) -> list[Step]:
    """To both ends, with numbers that are off; handed on as a plain wire would, and nothing is told."""
    to_c = from_server(flags, seq=BACK["seq"] + off.get("seq", 0), ack=BACK["ack"] + off.get("ack", 0))
    to_s = from_client(flags, seq=AFTER["seq"] + off.get("seq", 0), ack=AFTER["ack"] + off.get("ack", 0))
    return [
        to_client(to_c[0], "client_receives", to_c[1], tells=False),
        to_server(to_s[0], "server_receives", to_s[1], tells=False),
    ]


GOES_ON = (
    client(tcp(C, VX, "A", **AFTER), "client_sends", tcp(C, SY, "A", **AFTER), tells=False),
    to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(C, SP, "A", **AFTER), tells=False),
    server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK), tells=False),
    to_client(tcp(SY, C, "A", **BACK), "client_receives", tcp(VX, C, "A", **BACK), tells=False),
)
AHEAD = {"seq": SERVER_ISN + 9, "ack": ISN + 1}
CLOSED = {"seq": ISN + 1, "ack": SERVER_ISN + 2}
NUMBERED = [
    Vector(
        "a reset with a number that the stack does not expect ends nothing",
        [
            *LIVE,
            *(step for flags in ("R", "RA") for off in (FAR, NEAR, 1, -1, -FAR) for step in spoofed(flags, seq=off)),
            *GOES_ON,
            to_client(from_server("R", seq=SERVER_ISN + 1)[0], "client_receives", from_server("R", seq=SERVER_ISN + 1)[1], tells=True),
            to_server(from_client("R", seq=ISN + 1)[0], "server_receives", from_client("R", seq=ISN + 1)[1], tells=True),
        ],
    ),
    Vector(
        "a fin with a number that the stack does not acknowledge ends nothing, and its true one does",
        [
            *LIVE,
            *(step for off in (FAR, NEAR, -FAR, -9, -1) for step in spoofed("FA", seq=off)),
            *GOES_ON,
            *spoofed("FA", ack=FAR),
            client(tcp(C, VX, "FA", **AFTER), "client_sends", tcp(C, SY, "FA", **AFTER), tells=False),
            to_client(tcp(SY, C, "FA", **BACK), "client_receives", tcp(VX, C, "FA", **BACK), tells=False),
            client(tcp(C, VX, "A", seq=ISN + 2, ack=SERVER_ISN + 2), "client_sends", tcp(C, SY, "A", seq=ISN + 2, ack=SERVER_ISN + 2), tells=True),
        ],
    ),
    Vector(
        "a fin that comes before what it follows counts when the stack acknowledges it",
        [
            *LIVE,
            to_client(from_server("FA", **AHEAD)[0], "client_receives", from_server("FA", **AHEAD)[1], tells=False),
            client(tcp(C, VX, "FA", **AFTER), "client_sends", tcp(C, SY, "FA", **AFTER), tells=False),
            client(tcp(C, VX, "A", seq=ISN + 2, ack=SERVER_ISN + 10), "client_sends", tcp(C, SY, "A", seq=ISN + 2, ack=SERVER_ISN + 10), tells=True),
        ],
    ),
    Vector(
        "a client that closes last is told of once, by its own fin",
        [
            *LIVE,
            to_client(tcp(SY, C, "FA", **BACK), "client_receives", tcp(VX, C, "FA", **BACK), tells=False),
            client(tcp(C, VX, "FA", **CLOSED), "client_sends", tcp(C, SY, "FA", **CLOSED), tells=True),
            client(tcp(C, VX, "FA", **CLOSED), "client_sends", tcp(C, SY, "FA", **CLOSED), tells=False),
        ],
    ),
    Vector(
        "a SYN on a live connection changes nothing",
        [
            *LIVE,
            to_server(tcp(C, SX, "S", seq=FAR, options=TAG), "server_syn", tcp(C, SP, "S", seq=FAR, options=NOP * 12), tells=False),
            to_server(tcp(C, SY, "S", seq=FAR), "server_syn_service", tcp(C, SP, "S", seq=FAR), tells=False),
            to_client(tcp(SY, C, "S", seq=FAR), "client_receives", tcp(VX, C, "S", seq=FAR), tells=False),
            *GOES_ON,
        ],
    ),
    Vector(
        "a SYN+ACK with strange numbers is refused where its sender hears it, and ends nothing",
        [
            SYN,
            to_client(tcp(SX, C, "SA", seq=5, ack=FAR, options=NAMES_Y), "client_resets", reset(C, SY, FAR), tells=False),
            to_client(tcp(SX, C, "SA", seq=5, ack=FAR), "not_ours", tells=False),
            client(tcp(C, VX, "R", seq=FAR), "client_sends_unredirected", tcp(C, SX, "R", seq=FAR), tells=False),
            SYN_ARRIVES,
            ANSWER,
            ANSWER_ARRIVES,
            JOIN,
            JOIN_ARRIVES,
        ],
    ),
    Vector(
        "a reset that acknowledges no SYN of the client does not end what opens",
        [
            SYN,
            to_client(tcp(SX, C, "RA", ack=FAR), "not_ours", tells=False),
            to_client(tcp(SX, C, "R", seq=FAR), "not_ours", tells=False),
            to_client(tcp(SX, C, "RA", ack=ISN + 1), "client_withheld", DROPPED, tells=False),
            to_client(
                tcp(SX, C, "RA", ack=ISN + 1, options=option(CONFIRM)), "client_receives", tcp(VX, C, "RA", ack=ISN + 1, options=NOP * 8), tells=True
            ),
        ],
    ),
    Vector(
        "redirection options on a live connection whose pool moves none are blanked or dropped, and obeyed by nobody",
        [
            *LIVE,
            *(
                to_client(tcp(SY, C, "A", **BACK, options=option(flags | PORT, 20_009)), "client_stays", DROPPED)
                for flags in (REDIRECT, REDIRECT | CONFIRM)
            ),
            *(
                to_server(tcp(C, SY, "A", **AFTER, options=option(flags | PORT, 9)), "server_receives", tcp(C, SP, "A", **AFTER, options=NOP * 8))
                for flags in (REDIRECT, REDIRECT | CONFIRM)
            ),
            *(
                step
                for flags in (REDIRECT, CONFIRM | PORT, IMPERMISSIBLE)
                for step in (
                    to_client(tcp(SY, C, "A", **BACK, options=option(flags, 20_009)), "client_receives", tcp(VX, C, "A", **BACK, options=NOP * 8)),
                    to_server(tcp(C, SY, "A", **AFTER, options=option(flags, 20_009)), "server_receives", tcp(C, SP, "A", **AFTER, options=NOP * 8)),
                )
            ),
            *GOES_ON,
        ],
    ),
]


def left(flags: str) -> Step:
    """From X, with the numbers that the client's stack expects."""
    return to_client(tcp(SX, C, flags, **BACK), "not_ours", tells=False)


LEFT = [
    Vector(
        "from the port that a connection has left nothing is its packet but the answer once more",
        [
            *OPENED,
            *(left(flags) for flags in ("R", "RA", "FA", "A", "PA", "S", "SRA", "SFA")),
            to_client(tcp(SX, C, "SA", seq=5, ack=FAR), "not_ours"),
            to_client(tcp(SX, C, "SA", seq=5, ack=FAR, options=NAMES_Y), "client_other_answer", DROPPED),
            ANSWER_ARRIVES_AGAIN := to_client(ANSWER.out, "client_receives", ANSWER_ARRIVES.out),
            JOIN,
            JOIN_ARRIVES,
            *SETTLED[-2:],
            *(left(flags) for flags in ("R", "FA")),
            ANSWER_ARRIVES_AGAIN,
            *GOES_ON,
        ],
    ),
    Vector(
        "a packet to the redirect port without a SYN is none of the server's",
        [*LIVE, *(to_server(tcp(C, SX, flags, **AFTER), "not_ours") for flags in ("R", "FA", "A")), *GOES_ON],
    ),
]

DIRECT = (SP, C, 77, 88)  # a connection that the client has dialled directly
STRAYS = [
    Vector(
        "a stray packet to a service port takes no connection that the stack has without us",
        [
            *(
                to_server(tcp(C, SY, flags, seq=77 + seq, ack=88 + ack), "server_stray", DROPPED)
                for flags in ("A", "PA", "FA", "R")
                for seq, ack in ((FAR, 0), (2, 0), (-FAR, 0), (FAR, FAR))
            ),
            to_server(tcp(C, SY, "R", seq=76, ack=88), "server_stray", DROPPED),
            to_server(tcp(C, SY, "A", seq=77, ack=88 + FAR), "server_stray", DROPPED),
            to_server(tcp(C, SY, "A", seq=77, ack=87), "server_stray", DROPPED),
            server(tcp(SP, C, "PA", seq=88, ack=77, payload=b"x"), "not_ours"),
        ],
        held=(DIRECT,),
    ),
    Vector(
        "a keepalive to a service port finds its connection again",
        [
            to_server(tcp(C, SY, "A", seq=76, ack=88), "server_unentered", tcp(C, SP, "A", seq=76, ack=88)),
            server(tcp(SP, C, "A", seq=88, ack=77), "server_rebuilt", tcp(SY, C, "A", seq=88, ack=77)),
        ],
        held=(DIRECT,),
        pods=ALONE,
    ),
    Vector(
        "what comes again from a connection of long ago finds it again",
        [
            to_server(tcp(C, SY, "A", seq=77 - 9_000, ack=88), "server_unentered", tcp(C, SP, "A", seq=77 - 9_000, ack=88)),
            server(tcp(SP, C, "A", seq=88, ack=77), "server_rebuilt", tcp(SY, C, "A", seq=88, ack=77)),
        ],
        held=(DIRECT,),
        pods=ALONE,
    ),
    Vector(
        "a step 3 whose record was evicted is rebuilt from the number that it acknowledged",
        [
            *OPENED,
            JOIN,
            Change(forget=("opening_flows", "opening_wires")),
            to_server(JOIN.out, "server_unentered", JOIN_ARRIVES.out),
            server(tcp(SP, C, "PA", **BACK, payload=b"x"), "server_rebuilt", tcp(SY, C, "PA", **BACK, payload=b"x")),
        ],
    ),
    Vector(
        "a stray packet during a direct handshake does not take what comes of it",
        [
            to_server(tcp(C, SP, "S", seq=ISN), "not_ours"),
            to_server(tcp(C, SY, "A", seq=ISN + 1, ack=FAR), "server_unentered", tcp(C, SP, "A", seq=ISN + 1, ack=FAR)),
            server(tcp(SP, C, "PA", **BACK, payload=b"x"), "not_ours"),
        ],
    ),
    Vector(
        "the last stray packet is the one that counts",
        [
            to_server(tcp(C, SY, "A", seq=5, ack=FAR), "server_unentered", tcp(C, SP, "A", seq=5, ack=FAR)),
            to_server(tcp(C, SY, "A", **AFTER), "server_unentered", tcp(C, SP, "A", **AFTER)),
            server(tcp(SP, C, "A", **BACK), "server_rebuilt", tcp(SY, C, "A", **BACK)),
        ],
        pods=ALONE,
    ),
]

STRANGER = "10.99.1.77:40000"
FORGED = [
    Vector(
        "an option that a pod writes itself gets no further, whatever it says and whoever it names",
        [
            *LIVE,
            *(
                client(tcp(src, dst, flags, **AFTER, options=forged, payload=payload), "forged_option", DROPPED)
                for src in (C, f"{SERVER}:{X}", STRANGER)
                for dst, flags, forged, payload in (
                    (VX, "S", TAG, b""),
                    (VX, "S", option(REDIRECT, scope=8), b""),
                    (SX, "S", TAG, b""),
                    (SX, "S", option(REDIRECT, scope=7, origin=ISN), b""),
                    (SY, "A", HINT, b""),
                    (VX, "PA", HINT, b"data"),
                    (C, "SA", NAMES_Y, b""),
                )
            ),
            server(tcp(SX, C, "SA", **NUMBERS, options=NAMES_Y), "forged_option", DROPPED),
            server(tcp(SP, C, "SA", **NUMBERS, options=option(CONFIRM | PORT, 20_002)), "forged_option", DROPPED),
            *GOES_ON,
        ],
    ),
    Vector(
        "an aware SYN whose scope is another pool's is not this server's",
        [to_server(tcp(C, SX, "S", seq=5, options=option(REDIRECT, scope=9)), "not_ours")],
        slices=(pool_slice({"a": SERVER}), pool_slice({"b": "10.99.2.20"}, scope=9, name="other", virtual=["10.96.0.12"], ports={"b": [20_009]})),
    ),
]
C2 = f"{CLIENT}:40001"
# Another connection of the same client, as far as its node is concerned.
ANOTHER = (
    client(tcp(C2, VX, "S", seq=9), "client_syn", tcp(C2, SX, "S", seq=9, options=TAG)),
    to_client(tcp(SX, C2, "SA", seq=5, ack=10, options=NAMES_Y), "client_redirected", tcp(VX, C2, "SA", seq=5, ack=10, options=NOP * 8)),
)
ROOM = [
    Vector(
        "a client that finds no room for the server's port begins again, unaware",
        [
            *ANOTHER,
            SYN,
            to_client(ANSWER.out, "client_no_room", DROPPED),
            client(SYN.frame, "third_syn"),
            to_client(ANSWER.out, "client_late", DROPPED),
        ],
        capacity={"flows": 1},
    ),
    Vector(
        "whoever finds the table full, a live connection goes on",
        [
            *LIVE,
            to_server(tcp(f"{CLIENT}:9", SX, "S", seq=1, options=TAG), "server_syn", tcp(f"{CLIENT}:9", SP, "S", seq=1, options=NOP * 12)),
            server(tcp(SP, f"{CLIENT}:9", "SA", seq=5, ack=2), "server_answers", tcp(SX, f"{CLIENT}:9", "SA", seq=5, ack=2, options=NAMES_Y)),
            to_server(tcp(f"{CLIENT}:9", SY, "A", seq=2, ack=6), "server_no_room", tcp(f"{CLIENT}:9", SP, "A", seq=2, ack=6)),
            Change(settings={SETTING_FULL: 1}),
            client(tcp(f"{CLIENT}:40001", VX, "S", seq=9), "table_full"),
            to_server(tcp(f"{CLIENT}:10", SX, "S", seq=1, options=TAG), "server_full", b""),
            *GOES_ON,
        ],
        capacity={"flows": 2},
    ),
]
VECTORS = [*NUMBERED, *LEFT, *STRAYS, *FORGED, *ROOM]

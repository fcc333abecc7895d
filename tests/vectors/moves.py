"""docs/protocol.md, "Moving an established connection", mode Close: the client's end."""

from __future__ import annotations

from support.packets import CONFIRM, PORT, REDIRECT, answer, option, tcp
from support.slices import pool_slice
from vectors.stacks import WINDOW
from vectors.vector import (
    AFTER,
    BACK,
    DROPPED,
    ISN,
    NOP,
    PODS,
    SERVER,
    SERVER_ISN,
    SETTLED,
    SP,
    SY,
    VX,
    C,
    Change,
    Step,
    Vector,
    X,
    client,
    to_client,
)

MOVABLE = (pool_slice({"a": SERVER}, moves={"mode": "Close"}),)
STEP_1 = option(REDIRECT | PORT, X)
FAR = 1 << 30
MADE_WINDOW = 1
HELD = Change(held=((C, VX, SERVER_ISN + 1, ISN + 1), (SP, C)), pause_s=0.8)
"""The pods' stacks have the connection, and it has been at rest for a while."""
LIVE = (*SETTLED, HELD)
DATA = {**AFTER, "payload": b"x"}
FIN_SEEN = {"seq": SERVER_ISN + 1, "ack": ISN + 2}
"""Of what the server says once it has the FIN."""
LAST = {"seq": ISN + 1, "ack": SERVER_ISN + 2}
"""Of what the client's stack says once it has the server's FIN."""


def asked(reason: str, out: bytes = DROPPED, *, options: bytes = STEP_1, **numbers: int) -> Step:
    return to_client(tcp(SY, C, "A", **{**BACK, **numbers}, options=options), reason, out)


CLOSES = asked("client_closes", answer(C, SY, "FA", **AFTER, window=WINDOW))
TAKEN = to_client(tcp(SY, C, "A", **FIN_SEEN), "client_receives", tcp(VX, C, "A", **BACK))
SERVER_ENDS = to_client(tcp(SY, C, "FA", **FIN_SEEN), "client_receives", tcp(VX, C, "FA", **BACK))
ACKNOWLEDGED = client(
    tcp(C, VX, "A", **LAST), "client_sends", tcp(C, SY, "A", seq=ISN + 2, ack=SERVER_ISN + 2)
)
CLIENT_ENDS = client(
    tcp(C, VX, "FA", **LAST),
    "client_acknowledges",
    answer(VX, C, "A", seq=SERVER_ISN + 2, ack=ISN + 2, window=MADE_WINDOW),
)
GOES_ON = (
    client(tcp(C, VX, "PA", **DATA), "client_sends", tcp(C, SY, "PA", **DATA)),
    to_client(tcp(SY, C, "A", **BACK), "client_receives", tcp(VX, C, "A", **BACK)),
)

VECTORS = [
    Vector(
        "p10 asked to move, the client's end says FIN for its stack, and each end acknowledges the "
        "other's in time",
        [
            *LIVE,
            CLOSES,
            TAKEN,
            SERVER_ENDS,
            ACKNOWLEDGED,
            CLIENT_ENDS,
            CLIENT_ENDS,
            to_client(
                tcp(SY, C, "FA", **FIN_SEEN),
                "client_acknowledges",
                answer(C, SY, "A", seq=ISN + 2, ack=SERVER_ISN + 2, window=MADE_WINDOW),
            ),
            to_client(tcp(SY, C, "A", **FIN_SEEN), "client_ends", DROPPED),
            to_client(tcp(SY, C, "RA", **FIN_SEEN), "client_ends", DROPPED),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 the client's FIN that is the first to acknowledge the server's does so there, and is "
        "acknowledged when it comes again",
        [
            *LIVE,
            CLOSES,
            SERVER_ENDS,
            client(tcp(C, VX, "FA", **LAST), "client_sends", tcp(C, SY, "FA", **LAST), tells=True),
            CLIENT_ENDS,
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a FIN that the server never acknowledged is said by the stack's own, though the stack "
        "has the server's",
        [
            *LIVE,
            CLOSES,  # and is lost
            to_client(tcp(SY, C, "FA", **BACK), "client_receives", tcp(VX, C, "FA", **BACK)),
            ACKNOWLEDGED,
            client(tcp(C, VX, "FA", **LAST), "client_sends", tcp(C, SY, "FA", **LAST)),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a client that ends first has the same numbers as its server from then on",
        [
            *LIVE,
            CLOSES,
            TAKEN,
            client(tcp(C, VX, "FA", **AFTER), "client_sends", tcp(C, SY, "FA", **AFTER)),
            to_client(tcp(SY, C, "FA", **FIN_SEEN), "client_receives", tcp(VX, C, "FA", **FIN_SEEN)),
            client(
                tcp(C, VX, "A", seq=ISN + 2, ack=SERVER_ISN + 2),
                "client_sends",
                tcp(C, SY, "A", seq=ISN + 2, ack=SERVER_ISN + 2),
            ),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 the server's last data reaches a client whose end has said FIN",
        [
            *LIVE,
            CLOSES,
            to_client(
                tcp(SY, C, "PA", **FIN_SEEN, payload=b"y"),
                "client_receives",
                tcp(VX, C, "PA", **BACK, payload=b"y"),
            ),
            client(
                tcp(C, VX, "A", seq=ISN + 1, ack=SERVER_ISN + 2),
                "client_sends",
                tcp(C, SY, "A", seq=ISN + 2, ack=SERVER_ISN + 2),
            ),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a keepalive of a client whose end has said FIN is one to the server too",
        [
            *LIVE,
            CLOSES,
            client(
                tcp(C, VX, "A", seq=ISN, ack=SERVER_ISN + 1),
                "client_sends",
                tcp(C, SY, "A", seq=ISN, ack=SERVER_ISN + 1),
            ),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a server that asks again before it has the FIN gets it again, and no more once it has it",
        [*LIVE, CLOSES, CLOSES, TAKEN, asked("client_ends")],
        slices=MOVABLE,
    ),
    Vector(
        "p10 what a client writes after its end makes place for the FIN, whether the server has it or not, "
        "and is refused when the server has ended",
        [
            *LIVE,
            CLOSES,
            client(tcp(C, VX, "PA", **DATA), "client_closes_again", tcp(C, SY, "FA", **AFTER)),
            TAKEN,
            *(
                client(written, "client_closes_again", tcp(C, SY, "FA", **AFTER))
                for written in (
                    tcp(C, VX, "PA", **DATA),
                    tcp(C, VX, "FPA", **DATA),
                    tcp(C, VX, "FA", seq=ISN + 2, ack=SERVER_ISN + 1),
                )
            ),
            SERVER_ENDS,
            client(
                tcp(C, VX, "A", seq=ISN + 2, ack=SERVER_ISN + 2),
                "client_sends",
                tcp(C, SY, "A", seq=ISN + 2, ack=SERVER_ISN + 2),
            ),
            client(
                tcp(C, VX, "PA", **LAST, payload=b"x"),
                "client_wrote_late",
                answer(VX, C, "R", seq=SERVER_ISN + 2),
                tells=True,
            ),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a client that gives up resets its server by the number that it expects",
        [
            *LIVE,
            CLOSES,
            TAKEN,
            client(
                tcp(C, VX, "RA", **AFTER),
                "client_sends",
                tcp(C, SY, "RA", seq=ISN + 2, ack=SERVER_ISN + 1),
                tells=True,
            ),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a client that gives up when the FIN may be lost resets its server by its own number",
        [
            *LIVE,
            CLOSES,
            client(tcp(C, VX, "RA", **AFTER), "client_sends", tcp(C, SY, "RA", **AFTER), tells=True),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 one who asks with other numbers than the connection's moves nothing",
        [
            *LIVE,
            *(
                asked("client_busy", seq=SERVER_ISN + 1 + seq, ack=ISN + 1 + ack)
                for seq, ack in ((1, 0), (-1, 0), (0, 1), (0, -1), (FAR, 0), (0, FAR), (FAR, FAR))
            ),
            asked(
                "client_busy", options=b"\1\1\10\12" + bytes(8) + STEP_1
            ),  # timestamps, which the connection does not have
            *GOES_ON,
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a client that has just spoken is not moved, or its server might not be through",
        [*LIVE, *GOES_ON, asked("client_busy"), *GOES_ON],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a client whose stack shows no socket is not moved",
        [*SETTLED, asked("client_busy"), *GOES_ON],
        slices=MOVABLE,
    ),
    Vector(
        "p10 what a client writes after its end is held back where nothing is known of its socket any more",
        [
            *LIVE,
            CLOSES,
            Change(pods=PODS, seen=False),
            client(tcp(C, VX, "PA", **DATA), "client_held_back", DROPPED),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a stranger's FIN does not keep a client from being moved",
        [
            *LIVE,
            to_client(tcp(SY, C, "FA", **BACK), "client_receives", tcp(VX, C, "FA", **BACK)),
            CLOSES,
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a client that ends is not moved",
        [
            *LIVE,
            client(tcp(C, VX, "FA", **AFTER), "client_sends", tcp(C, SY, "FA", **AFTER)),
            asked("client_ends"),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 data with step 1's option is data",
        [
            *LIVE,
            to_client(
                tcp(SY, C, "PA", **BACK, options=STEP_1, payload=b"y"),
                "client_receives",
                tcp(VX, C, "PA", **BACK, options=NOP * 8, payload=b"y"),
            ),
        ],
        slices=MOVABLE,
    ),
    Vector(
        "p10 a server may ask its client to confirm",
        [*LIVE, asked("client_closes", CLOSES.out, options=option(REDIRECT | CONFIRM | PORT, X))],
        slices=MOVABLE,
    ),
]

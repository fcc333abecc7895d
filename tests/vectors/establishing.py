"""docs/protocol.md, "Establishing": answers, step 3 and what follows, and what may happen to them on the way."""

from __future__ import annotations

from support.packets import CONFIRM, MSS, PORT, option, tcp
from support.slices import VIRTUAL, pool_slice
from vectors.opening import FAR, FAR_SYN, GET, R_X, R_Y, SERVICE, answers, seen
from vectors.vector import (
    AFTER,
    BACK,
    CLIENT,
    DROPPED,
    ESTABLISHED,
    HINT,
    ISN,
    JOIN,
    JOIN_ARRIVES,
    NAMES_Y,
    NUMBERS,
    OPENED,
    OTHER,
    REDIRECTED,
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
    Y,
    blank,
    client,
    server,
    to_client,
    to_server,
)
from wharfinger_dataplane._records import SETTING_LEFT_TO_STACK

PLAIN = (pool_slice({"a": SERVER}, target=X),)
"""The application listens at the redirect port itself, so that an answer from there may be a plain server's."""

ANSWER_VECTORS = [
    Vector(
        "an answer without the option keeps the server and the port dialled",
        [
            SYN,
            answers(SX, b"", "client_unconfirmed", seen()),
            client(tcp(C, VX, "PA", **AFTER, payload=GET), "client_sends_unredirected", tcp(C, SX, "PA", **AFTER, payload=GET)),
            to_client(tcp(SX, C, "A", **BACK), "client_receives", tcp(VX, C, "A", **BACK)),
            client(tcp(C, VX, "R", **AFTER), "client_sends_unredirected", tcp(C, SX, "R", **AFTER)),
        ],
        slices=PLAIN,
    ),
    Vector(
        "an answer that confirms without naming a port stays on the port dialled",
        [
            SYN,
            answers(SX, option(CONFIRM), "client_confirmed", seen(8)),
            client(tcp(C, VX, "A", **AFTER), "client_sends", tcp(C, SX, "A", **AFTER)),
        ],
    ),
    Vector("an answer that names the port dialled confirms it", [SYN, answers(SX, option(CONFIRM | PORT, X), "client_confirmed", seen(8))]),
    Vector(
        "an answer that names a port without confirming is unconfirmed",
        [SYN, answers(SX, option(PORT, Y), "client_unconfirmed", seen(8))],
        slices=PLAIN,
    ),
    Vector(
        "a port that no server owns is not accepted",
        [SYN, answers(SX, option(CONFIRM | PORT, 4444), "client_unsure", DROPPED), answers(SX, NAMES_Y, "client_redirected", seen(8))],
    ),
    Vector(
        "a port that another server owns is not accepted",
        [SYN, answers(SX, option(CONFIRM | PORT, 20_002), "client_unsure", DROPPED)],
        slices=(pool_slice({"a": SERVER}), pool_slice({"b": OTHER}, ports={"b": [20_002]}, name="other", scope=8, virtual=["10.96.0.12"])),
    ),
    Vector(
        "a port that the server owns for another pool is not accepted",
        [SYN, answers(SX, option(CONFIRM | PORT, 20_002), "client_unsure", DROPPED)],
        slices=(pool_slice({"a": SERVER}), pool_slice({"a": SERVER}, ports={"a": [20_002]}, name="other", scope=8, virtual=["10.96.0.12"])),
    ),
    Vector(
        "the first answer stands and a second that names another port is dropped",
        [*OPENED, answers(SX, option(CONFIRM | PORT, 20_005), "client_unsure", DROPPED), JOIN],
    ),
    Vector(
        "a SYN to which the server would name a port that another connection of the client uses goes unaware at once",
        [
            client(tcp(C, SERVICE, "S", seq=5), "client_syn_service", tcp(C, SY, "S", seq=5, options=TAG)),
            client(SYN.frame, "port_taken"),
        ],
    ),
    Vector(
        "a port that another connection took between the SYN and its answer is not taken from that",
        [
            SYN,
            Change(slices=(pool_slice({"a": SERVER}, ports={"a": [20_003]}, generation=2),)),
            client(tcp(C, f"{VIRTUAL}:20003", "S", seq=5), "client_syn_service", tcp(C, f"{SERVER}:20003", "S", seq=5, options=TAG)),
            to_client(
                tcp(f"{SERVER}:20003", C, "SA", seq=SERVER_ISN, ack=6, options=option(CONFIRM)),
                "client_confirmed",
                tcp(f"{VIRTUAL}:20003", C, "SA", seq=SERVER_ISN, ack=6, options=blank(8)),
            ),
            answers(SX, option(CONFIRM | PORT, 20_003), "client_other_answer", DROPPED),
        ],
    ),
    Vector("a repeated answer is delivered and changes nothing", [*OPENED, answers(SX, NAMES_Y, "client_receives", seen(8)), JOIN]),
    Vector(
        "an answer to another SYN that names no port is no packet of the connection that opens",
        [
            SYN,
            answers(SX, option(CONFIRM), "not_ours", tcp(SX, C, "SA", **{**NUMBERS, "ack": ISN + 7}, options=option(CONFIRM)), ack=ISN + 7),
            answers(SX, NAMES_Y, "client_redirected", seen(8)),
        ],
    ),
    Vector(
        "a repeated answer after the connection was unconfirmed is delivered",
        [SYN, answers(SX, b"", "client_unconfirmed", seen()), answers(SX, b"", "client_receives", seen())],
        slices=PLAIN,
    ),
    Vector(
        "a server's answer without room for the option names no port",
        [SYN, SYN_ARRIVES, server(tcp(SP, C, "SA", **NUMBERS, options=MSS * 9), "server_answers", tcp(SX, C, "SA", **NUMBERS, options=MSS * 9))],
    ),
]

JOIN_VECTORS = [
    Vector(
        "p03 the hint is repeated on bare acknowledgements until the service port answers",
        [
            *ESTABLISHED,
            JOIN,
            to_server(JOIN.out, "server_receives", JOIN_ARRIVES.out),
            *SETTLED[-2:],
            client(tcp(C, VX, "A", **AFTER), "client_sends", tcp(C, SY, "A", **AFTER)),
        ],
    ),
    Vector(
        "p03 step 3 may be data",
        [
            *OPENED,
            client(tcp(C, VX, "PA", **AFTER, payload=GET), "client_sends", tcp(C, SY, "PA", **AFTER, payload=GET)),
            to_server(tcp(C, SY, "PA", **AFTER, payload=GET), "server_joined", tcp(C, SP, "PA", **AFTER, payload=GET)),
        ],
    ),
    Vector(
        "an acknowledgement full of options goes without the hint",
        [
            *OPENED,
            client(tcp(C, VX, "A", **AFTER, options=MSS * 9), "client_sends", tcp(C, SY, "A", **AFTER, options=MSS * 9)),
            to_server(tcp(C, SY, "A", **AFTER, options=MSS * 9), "server_joined", tcp(C, SP, "A", **AFTER, options=MSS * 9)),
        ],
    ),
    Vector(
        "an acknowledgement of what the server never sent is no step 3",
        [
            *OPENED[:3],
            to_server(
                tcp(C, SY, "A", seq=ISN + 1, ack=SERVER_ISN - 100_000),
                "server_unentered",
                tcp(C, SP, "A", seq=ISN + 1, ack=SERVER_ISN - 100_000),
            ),
            JOIN_ARRIVES,
        ],
    ),
    Vector("a reset is no step 3", [*OPENED[:3], to_server(tcp(C, SY, "RA", **AFTER), "server_unentered", tcp(C, SP, "RA", **AFTER))]),
    Vector(
        "a client may send a FIN as step 3",
        [
            *OPENED,
            client(tcp(C, VX, "FA", **AFTER), "client_sends", tcp(C, SY, "FA", **AFTER)),
            to_server(tcp(C, SY, "FA", **AFTER), "server_joined", tcp(C, SP, "FA", **AFTER)),
        ],
    ),
    Vector(
        "a packet to a port that is not the server's is not ours", [*OPENED, to_server(tcp(C, f"{SERVER}:20009", "A", **AFTER), "not_ours")]
    ),
    Vector(
        "data flows both ways by the service port alone",
        [
            *SETTLED,
            client(tcp(C, VX, "PA", **AFTER, payload=GET), "client_sends", tcp(C, SY, "PA", **AFTER, payload=GET)),
            to_server(tcp(C, SY, "PA", **AFTER, payload=GET), "server_receives", tcp(C, SP, "PA", **AFTER, payload=GET)),
            server(tcp(SP, C, "PA", **BACK, payload=GET), "server_sends", tcp(SY, C, "PA", **BACK, payload=GET)),
            to_client(tcp(SY, C, "PA", **BACK, payload=GET), "client_receives", tcp(VX, C, "PA", **BACK, payload=GET)),
        ],
    ),
    Vector(
        "data of an odd length keeps its checksum right",
        [*SETTLED, client(tcp(C, VX, "PA", **AFTER, payload=b"odd"), "client_sends", tcp(C, SY, "PA", **AFTER, payload=b"odd"))],
    ),
    Vector(
        "a FIN without data of a redirected connection bears no hint",
        [*OPENED, client(tcp(C, VX, "FA", **AFTER), "client_sends", tcp(C, SY, "FA", **AFTER))],
    ),
    Vector(
        "an early packet that the server sends by the port dialled before step 3 is not ours",
        [*OPENED[:2], server(tcp(SP, C, "A", **BACK), "not_ours")],
    ),
    Vector(
        "what the server's stack says to an old SYN before step 3 goes from its service port",
        [
            *OPENED,
            server(tcp(SP, C, "A", **BACK), "server_opening", tcp(SY, C, "A", **BACK)),
            to_client(tcp(SY, C, "A", **BACK), "client_receives", tcp(VX, C, "A", **BACK)),
            server(tcp(SP, C, "A", seq=SERVER_ISN + 9, ack=ISN + 1), "not_ours"),
            server(tcp(SP, C, "A", seq=SERVER_ISN + 1, ack=ISN + 9), "not_ours"),
            client(tcp(C, VX, "A", **AFTER), "client_sends", tcp(C, SY, "A", **AFTER)),
            to_server(tcp(C, SY, "A", **AFTER), "server_joined", tcp(C, SP, "A", **AFTER)),
        ],
    ),
]

SEVERAL_VECTORS = [
    Vector(
        "two clients of one server are two connections",
        [
            *SETTLED,
            client(tcp(f"{CLIENT}:40001", VX, "S", seq=1), "client_syn", tcp(f"{CLIENT}:40001", SX, "S", seq=1, options=TAG)),
            client(tcp(C, VX, "PA", **AFTER, payload=GET), "client_sends", tcp(C, SY, "PA", **AFTER, payload=GET)),
        ],
    ),
    Vector(
        "a client port that another pool's connection uses with this server stays unaware",
        [SYN, client(tcp(C, "10.96.0.11:80", "S", seq=5), "port_taken")],
        slices=(pool_slice({"a": SERVER}), pool_slice({"a": SERVER}, virtual=["10.96.0.11"], scope=9, name="twin", ports={"a": [20_009]})),
    ),
    Vector(
        "a redirected client follows its server over the network",
        [
            FAR_SYN,
            to_client(tcp(R_X, C, "SA", **NUMBERS, options=NAMES_Y), "client_redirected", seen(8)),
            client(tcp(C, VX, "A", **AFTER), "client_joins", tcp(C, R_Y, "A", **AFTER, options=HINT), way=REDIRECTED),
            client(tcp(C, VX, "PA", **AFTER, payload=GET), "client_sends", tcp(C, R_Y, "PA", **AFTER, payload=GET), way=REDIRECTED),
        ],
        slices=FAR,
    ),
    Vector(
        "a packet to where no way leads is left to the stack",
        [client(tcp(C, VX, "S", seq=ISN), "client_syn", tcp(C, f"10.98.0.1:{X}", "S", seq=ISN, options=TAG), way="stack_no_route")],
        slices=(pool_slice({"elsewhere": "10.98.0.1"}),),
    ),
    Vector(
        "at a node with xfrm policies every packet is left to the stack",
        [Change(settings={SETTING_LEFT_TO_STACK: 1}), Step(**{**FAR_SYN.__dict__, "way": "stack_by_rule"})],
        slices=FAR,
    ),
    Vector(
        "a packet too big for the way is left to the stack",
        [
            FAR_SYN,
            answers(R_X, NAMES_Y, "client_redirected", seen(8)),
            client(
                tcp(C, VX, "PA", **AFTER, payload=bytes(1400)),
                "client_sends",
                tcp(C, R_Y, "PA", **AFTER, payload=bytes(1400)),
                way="stack_too_big",
            ),
        ],
        slices=FAR,
    ),
    Vector(
        "a packet whose time to live ends here is left to the stack",
        [client(tcp(C, VX, "S", seq=ISN, ttl=1), "client_syn", tcp(C, R_X, "S", seq=ISN, options=TAG, ttl=1), way="stack_ttl")],
        slices=FAR,
    ),
]
VECTORS = [*ANSWER_VECTORS, *JOIN_VECTORS, *SEVERAL_VECTORS]

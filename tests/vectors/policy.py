"""What a NetworkPolicy selects is unaware by rule, and no translator is a way around it (docs/protocol.md, "NetworkPolicy")."""

from __future__ import annotations

from support.packets import CONFIRM, PORT, REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from vectors.opening import answers
from vectors.substitutes import ANSWER_FROM_PLACE, JOIN_PLACED, SY2, SYN_PLACED, TAKEN, TWINS, S
from vectors.vector import (
    AFTER,
    ANSWER,
    ANSWER_ARRIVES,
    BACK,
    CLIENT,
    DROPPED,
    ESTABLISHED,
    ISN,
    JOIN,
    JOIN_ARRIVES,
    NAMES_Y,
    NUMBERS,
    OPENED,
    OTHER,
    PODS,
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
    Role,
    Step,
    Vector,
    Y,
    client,
    server,
    to_client,
    to_server,
)

OUT, IN = Role.EGRESS_SELECTED, Role.INGRESS_SELECTED
CLIENT_OUT = {**PODS, CLIENT: ("c", Role.CLIENT | OUT)}
SERVER_IN = {**PODS, SERVER: ("s", Role.SERVER | IN)}
STRANGER = {**PODS, CLIENT: ("c", OUT)}
SP_STRAY = tcp(C, SP, "A", **AFTER)
DATA = {**AFTER, "payload": b"hello"}
PLAIN = tcp(C, VX, "S", seq=ISN)
TWO = (pool_slice({"a": SERVER, "b": OTHER}),)


def net(frame: bytes, reason: str, out: bytes | None = None) -> Step:
    return Step("from_net", "u", frame, reason, out)


def other_sends(frame: bytes, reason: str, out: bytes | None = None) -> Step:
    return Step("from_pod", "o", frame, reason, out)


GOES_ON = [
    client(tcp(C, VX, "PA", **DATA), "client_sends", tcp(C, SY, "PA", **DATA)),
    net(tcp(C, SY, "PA", **DATA), "net_service_port"),
    to_server(tcp(C, SY, "PA", **DATA), "server_receives", tcp(C, SP, "PA", **DATA)),
    server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
    to_client(tcp(SY, C, "A", **BACK), "client_receives", tcp(VX, C, "A", **BACK)),
]

CLIENTS = [
    Vector(
        "a client that a policy selects is unaware",
        [client(PLAIN, "policy_client"), client(PLAIN, "policy_client"), client(tcp(C, VX, "A", **AFTER), "no_record")],
        pods=CLIENT_OUT,
    ),
    Vector(
        "a client that a policy selects is unaware at a service port of the virtual address",
        [client(tcp(C, f"{VIRTUAL}:{Y}", "S", seq=ISN), "policy_client")],
        pods=CLIENT_OUT,
    ),
    Vector(
        "a policy changes nothing about what was none of ours",
        [client(tcp(C, to, "S"), reason) for to, reason in (("10.96.0.99:80", "not_virtual"), (f"{VIRTUAL}:9", "unknown_port"), (SP, "not_virtual"))],
        pods=CLIENT_OUT,
    ),
    Vector("a client whose ingress alone is selected is aware", [SYN], pods={**PODS, CLIENT: ("c", Role.CLIENT | IN)}),
    Vector("a connection goes on when a policy comes to select its client", [*SETTLED, Change(pods=CLIENT_OUT), *GOES_ON]),
    Vector(
        "a SYN that comes again after a policy came to select its client is unaware, and takes no answer to the first",
        [SYN, Change(pods=CLIENT_OUT), client(PLAIN, "policy_client"), answers(SX, NAMES_Y, "client_late", DROPPED)],
    ),
    Vector(
        "a handshake whose SYN went before a policy came to select its client is completed",
        [SYN, SYN_ARRIVES, Change(pods=CLIENT_OUT), ANSWER, ANSWER_ARRIVES, JOIN, JOIN_ARRIVES],
    ),
    Vector("a client is aware again when the policy is gone", [client(PLAIN, "policy_client"), Change(pods=PODS), *SETTLED], pods=CLIENT_OUT),
]

HOSTILE = [
    Vector(
        "a pod that a policy selects does not reach a service port of another's",
        [client(tcp(C, SY, "S", seq=ISN), "policy_service_port", DROPPED), client(tcp(C, SY, "SF", seq=ISN), "policy_service_port", DROPPED)],
        pods=STRANGER,
    ),
    Vector(
        "a client that a policy selects does not reach a service port of another's",
        [client(tcp(C, SY, "S", seq=ISN), "policy_service_port", DROPPED)],
        pods=CLIENT_OUT,
    ),
    Vector(
        "a pod that a policy selects sends no option of ours",
        [
            client(tcp(C, SX, "S", seq=ISN, options=TAG), "forged_option", DROPPED),
            client(tcp(C, SY, "A", **AFTER, options=option(CONFIRM | PORT, 80)), "forged_option", DROPPED),
        ],
        pods=STRANGER,
    ),
    Vector(
        "a stray packet that went before a policy came to select the server opens no way",
        [
            to_server(tcp(C, SY, "A", **AFTER), "server_unentered", SP_STRAY),
            Change(pods=SERVER_IN),
            to_server(tcp(C, SY, "A", **AFTER), "policy_untranslated"),
        ],
    ),
    Vector(
        "a pod that a policy selects dials what is no service port as ever",
        [
            client(tcp(C, SP, "S", seq=ISN), "not_ours"),
            client(tcp(C, SX, "S", seq=ISN), "not_ours"),
            client(tcp(C, SP, "A", **AFTER), "not_ours"),
            client(tcp(C, SX, "S", seq=ISN, options=option(REDIRECT, scope=7, version=2)), "not_ours", malformed=True),
        ],
        pods=STRANGER,
    ),
    Vector(
        "a server that a policy selects opens no connection by an entry of its own",
        [*SETTLED, Change(pods={**PODS, SERVER: ("s", Role.SERVER | OUT)}), server(tcp(SP, C, "S", seq=1), "not_ours"), *GOES_ON],
    ),
]

SERVERS = [
    Vector(
        "a server that a policy selects takes no aware SYN, from here or from the network",
        [
            to_server(tcp(C, SX, "S", seq=ISN, options=TAG), "policy_server", DROPPED),
            net(tcp(C, SX, "S", seq=ISN, options=TAG), "policy_server", DROPPED),
            to_server(tcp(C, SY, "S", seq=ISN, options=TAG), "policy_server", DROPPED),
            net(tcp(C, SY, "S", seq=ISN, options=option(REDIRECT)), "policy_server", DROPPED),
        ],
        pods=SERVER_IN,
    ),
    Vector(
        "a server that a policy selects is dialled at its service port as if that were none",
        [
            to_server(tcp(C, SY, "S", seq=ISN), "policy_untranslated"),
            net(tcp(C, SY, "S", seq=ISN), "policy_untranslated"),
            to_server(tcp(C, SY, "A", **AFTER), "policy_untranslated"),
            net(tcp(C, SY, "A", **AFTER), "policy_untranslated"),
            server(tcp(SP, C, "A", **BACK), "not_ours"),
        ],
        pods=SERVER_IN,
    ),
    Vector(
        "a server that a policy selects is dialled directly as ever",
        [
            to_server(tcp(C, SP, "S", seq=ISN), "not_ours"),
            net(tcp(C, SP, "S", seq=ISN), "not_ours"),
            server(tcp(SP, C, "SA", **NUMBERS), "not_ours"),
            to_server(tcp(C, SX, "S", seq=ISN, options=option(REDIRECT, scope=99)), "not_ours"),
        ],
        pods=SERVER_IN,
    ),
    Vector("a server whose egress alone is selected is aware", [*SETTLED], pods={**PODS, SERVER: ("s", Role.SERVER | OUT)}),
    Vector("a connection goes on when a policy comes to select its server", [*SETTLED, Change(pods=SERVER_IN), *GOES_ON]),
    Vector(
        "a connection under a substitute goes on when a policy comes to select its server",
        [
            SYN_PLACED,
            ANSWER_FROM_PLACE,
            Change(pods=SERVER_IN),
            net(JOIN.out, "net_service_port"),
            JOIN_PLACED,
            net(tcp(C, SY, "A", **AFTER), "net_service_port"),
            to_server(tcp(C, SY, "A", **AFTER), "server_receives", tcp(S, SP, "A", **AFTER)),
        ],
        held=TAKEN,
    ),
    Vector(
        "a handshake whose SYN arrived before a policy came to select its server is completed",
        [*OPENED, Change(pods=SERVER_IN), JOIN, net(JOIN.out, "net_service_port"), JOIN_ARRIVES],
    ),
    Vector(
        "a packet to another service port than its connection's is not translated",
        [*ESTABLISHED, Change(pods=SERVER_IN), to_server(tcp(C, SY2, "A", **AFTER), "policy_untranslated")],
        slices=TWINS,
    ),
    Vector("a server is aware again when the policy is gone", [Change(pods=PODS), *SETTLED], pods=SERVER_IN),
    Vector(
        "a server of this node that a policy selects is not chosen, whatever the sets say",
        [client(tcp(f"{CLIENT}:{port}", VX, "S", seq=ISN), "client_syn", tcp(f"{CLIENT}:{port}", f"{OTHER}:80", "S", seq=ISN, options=TAG))
         for port in range(40_000, 40_016)],
        slices=TWO,
        pods=SERVER_IN,
    ),
    Vector(
        "a set whose servers are all selected leaves its clients unaware",
        [client(PLAIN, "no_server"), client(tcp(C, f"{VIRTUAL}:{Y}", "S", seq=ISN), "no_server")],
        pods=SERVER_IN,
    ),
]
VECTORS = [*CLIENTS, *HOSTILE, *SERVERS]

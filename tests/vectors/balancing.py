"""The balancer: which server, by the tables alone."""

from __future__ import annotations

from support.packets import REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from vectors.vector import CLIENT, ISN, OTHER, SERVER, SX, SYN, TAG, VX, C, Change, Step, Vector, X, client
from wharfinger_dataplane._records import SETTING_FULL

BOTH = {"a": SERVER, "b": OTHER}
O_SYN = tcp(C, f"{OTHER}:{X}", "S", seq=ISN, options=TAG)
O_C, O_VX = f"{OTHER}:50000", VX


def dial(number: int, out: bytes | tuple[bytes, ...]) -> Step:
    """The SYN of another connection."""
    return client(tcp(f"{CLIENT}:{number}", VX, "S", seq=ISN), "client_syn", out)


def reaches(number: int, server: str) -> bytes:
    return tcp(f"{CLIENT}:{number}", f"{server}:{X}", "S", seq=ISN, options=TAG)


def either(number: int) -> tuple[bytes, ...]:
    return reaches(number, SERVER), reaches(number, OTHER)


def from_other(frame: bytes, reason: str, out: bytes | None = None, **more: object) -> Step:
    return Step("from_pod", "o", frame, reason, out, **more)


VECTORS = [
    Vector(
        "p08 round robin takes the servers in turn",
        [dial(1, reaches(1, SERVER)), dial(2, reaches(2, OTHER)), dial(3, reaches(3, SERVER)), dial(4, reaches(4, OTHER))],
        slices=(pool_slice(BOTH, policy="RoundRobin"),),
    ),
    Vector(
        "p08 a hash chooses the same server for a connection in both hosts",
        [dial(number, either(number)) for number in range(1, 9)],
        slices=(pool_slice(BOTH),),
    ),
    Vector(
        "p08 a random policy with one server chooses it",
        [dial(1, reaches(1, SERVER))],
        slices=(pool_slice({"a": SERVER}, policy="Random"),),
    ),
    Vector(
        "a draining server is not chosen",
        [dial(number, reaches(number, OTHER)) for number in range(1, 6)],
        slices=(pool_slice(BOTH, states={"a": "Draining"}),),
    ),
    Vector(
        "a set whose servers all drain has none",
        [client(SYN.frame, "no_server")],
        slices=(pool_slice(BOTH, states={"a": "Draining", "b": "Draining"}),),
    ),
    Vector("a set without servers has none", [client(SYN.frame, "no_server")], slices=(pool_slice({}),)),
    Vector(
        "a server that rests is not chosen and its service port is not declared",
        [client(SYN.frame, "no_server"), client(tcp(C, f"{VIRTUAL}:20001", "S", seq=ISN), "unknown_port")],
        slices=(pool_slice({"a": SERVER}, states={"a": "Resting"}),),
    ),
    Vector(
        "a draining server still answers at its service port",
        [client(tcp(C, f"{VIRTUAL}:20001", "S", seq=ISN), "client_syn_service", tcp(C, f"{SERVER}:20001", "S", seq=ISN, options=TAG))],
        slices=(pool_slice({"a": SERVER}, states={"a": "Draining"}),),
    ),
    Vector(
        "a server that begins to drain is not chosen again",
        [
            SYN,
            Change(slices=(pool_slice(BOTH, states={"a": "Draining"}, generation=2),)),
            dial(2, reaches(2, OTHER)),
            dial(3, reaches(3, OTHER)),
        ],
    ),
    Vector(
        "a pod is never the server of its own connection",
        [from_other(tcp(O_C, VX, "S", seq=ISN), "client_syn", tcp(O_C, SX, "S", seq=ISN, options=TAG))],
        slices=(pool_slice(BOTH, policy="RoundRobin"),),
    ),
    Vector(
        "a pod that is the only server stays unaware",
        [from_other(tcp(O_C, VX, "S", seq=ISN), "own_server")],
        slices=(pool_slice({"b": OTHER}),),
    ),
    Vector(
        "a pod that dials its own service port stays unaware",
        [from_other(tcp(O_C, f"{VIRTUAL}:20001", "S", seq=ISN), "own_server")],
        slices=(pool_slice({"b": OTHER}),),
    ),
    Vector(
        "p06 a port that no pool declares is unknown",
        [client(tcp(C, f"{VIRTUAL}:81", "S", seq=ISN), "unknown_port"), client(tcp(C, f"{VIRTUAL}:50000", "S", seq=ISN), "unknown_port")],
    ),
    Vector("an address of no pool is not virtual", [client(tcp(C, "10.96.0.99:80", "S", seq=ISN), "not_virtual")]),
    Vector(
        "two pools share an address by their ports",
        [
            SYN,
            client(
                tcp(C, f"{VIRTUAL}:81", "S", seq=ISN), "client_syn", tcp(C, f"{OTHER}:81", "S", seq=ISN, options=option(REDIRECT, scope=9))
            ),
        ],
        slices=(pool_slice({"a": SERVER}), pool_slice({"b": OTHER}, ports={"b": [30_001]}, redirect=[81], scope=9, name="other")),
    ),
    Vector(
        "nearly full tables make new connections unaware, and SYNs that went before go on",
        [SYN, Change(settings={SETTING_FULL: 1}), client(tcp(f"{CLIENT}:2", VX, "S", seq=ISN), "table_full"), SYN],
    ),
]

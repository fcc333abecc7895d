"""What a packet vector is: a sentence, the tables and pods it runs on, and what each packet shall become. Data only; `twins` runs it.

The interfaces: `c`, `s`, `o` of three pods, `u` the uplink. There is a way past the stack only to 10.99.2.0/24, by `u`, whose MTU is
1400. A packet to 10.99.1.0/24 is rewritten and then left to the stack, since its way is by `o`, which bears no program there; to all else
there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from support.packets import CONFIRM, NOP, PORT, REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from wharfinger_api import ServicePortSlice
from wharfinger_dataplane._records import Role

INTERFACES = ("c", "s", "o", "u")
UNCHANGED = None
DROPPED = b""
REDIRECTED = "redirected"  # a way: straight to the next interface, past the stack

CLIENT, SERVER, OTHER, REMOTE = "10.99.1.10", "10.99.1.20", "10.99.1.30", "10.99.2.20"
ROUTER = "10.99.2.1"  # by the uplink; of errors, for the programs look for a way back to it
X, Y, P, SCOPE = 80, 20_001, 8080, 7
ISN, SERVER_ISN = 1000, 5_000_000
C = f"{CLIENT}:40000"  # the client
VX = f"{VIRTUAL}:{X}"  # what it dials
SX, SY, SP = f"{SERVER}:{X}", f"{SERVER}:{Y}", f"{SERVER}:{P}"  # the server on the wire, then on the wire, and to its stack
TAG = option(REDIRECT, scope=SCOPE)
NAMES_Y = option(CONFIRM | PORT, Y)
HINT = option(CONFIRM | PORT, X)

PODS: Mapping[str, tuple[str, Role]] = {CLIENT: ("c", Role.CLIENT), SERVER: ("s", Role.SERVER), OTHER: ("o", Role.CLIENT | Role.SERVER)}
ALONE: Mapping[str, tuple[str, Role]] = {SERVER: ("s", Role.SERVER)}
"""Of all the pods only the server is at this node."""


@dataclass(frozen=True)
class Step:
    """One frame through a hook. `out`: the frame as it leaves, UNCHANGED, DROPPED, or a tuple of those it may be (a policy's choice).
    `way`: what becomes of a packet that is forwarded, a reason of outcome `stack` or REDIRECTED. `tells`: whether telemetry learns of
    something by it; None: no matter."""

    hook: str
    interface: str
    frame: bytes
    reason: str
    out: bytes | tuple[bytes, ...] | None = UNCHANGED
    way: str = "stack_no_hook"
    malformed: bool = False
    tells: bool | None = None


@dataclass(frozen=True)
class Change:
    """Between two packets: other slices or pods, connections that are forgotten, sockets of the pods' stacks, settings, or time. `seen`:
    the stacks of `pods` can be asked."""

    slices: Sequence[ServicePortSlice] | None = None
    pods: Mapping[str, tuple[str, Role]] = field(default_factory=dict)
    forget: Sequence[str] = ()
    held: Sequence[tuple] = ()
    settings: Mapping[int, int] = field(default_factory=dict)
    pause_s: float = 0
    seen: bool = True


@dataclass(frozen=True)
class Vector:
    """`held`: connections that the pods' stacks have, as (local, peer), or (local, peer, number expected, number sent next) where those
    are not ISN + 1 and SERVER_ISN + 1."""

    sentence: str
    steps: Sequence[Step | Change]
    slices: Sequence[ServicePortSlice] = (pool_slice({"a": SERVER}),)
    pods: Mapping[str, tuple[str, Role]] = field(default_factory=lambda: PODS)
    capacity: Mapping[str, int] = field(default_factory=dict)
    held: Sequence[tuple] = ()


def client(frame: bytes, reason: str, out: bytes | None = UNCHANGED, **more: object) -> Step:
    """The client's stack sends."""
    return Step("from_pod", "c", frame, reason, out, **more)


def to_client(frame: bytes, reason: str, out: bytes | None = UNCHANGED, **more: object) -> Step:
    return Step("to_pod", "c", frame, reason, out, **more)


def server(frame: bytes, reason: str, out: bytes | None = UNCHANGED, **more: object) -> Step:
    """The server's stack sends."""
    return Step("from_pod", "s", frame, reason, out, **more)


def to_server(frame: bytes, reason: str, out: bytes | None = UNCHANGED, **more: object) -> Step:
    return Step("to_pod", "s", frame, reason, out, **more)


def blank(length: int) -> bytes:
    """What is left of an option when the stack sees it."""
    return NOP * length


# The establishing, step by step, as docs/protocol.md tabulates it.
SYN = client(tcp(C, VX, "S", seq=ISN), "client_syn", tcp(C, SX, "S", seq=ISN, options=TAG))
SYN_ARRIVES = to_server(SYN.out, "server_syn", tcp(C, SP, "S", seq=ISN, options=blank(12)))
NUMBERS = {"seq": SERVER_ISN, "ack": ISN + 1}
ANSWER = server(tcp(SP, C, "SA", **NUMBERS), "server_answers", tcp(SX, C, "SA", **NUMBERS, options=NAMES_Y))
ANSWER_ARRIVES = to_client(ANSWER.out, "client_redirected", tcp(VX, C, "SA", **NUMBERS, options=blank(8)))
AFTER = {"seq": ISN + 1, "ack": SERVER_ISN + 1}
JOIN = client(tcp(C, VX, "A", **AFTER), "client_joins", tcp(C, SY, "A", **AFTER, options=HINT))
JOIN_ARRIVES = to_server(JOIN.out, "server_joined", tcp(C, SP, "A", **AFTER, options=blank(8)))
BACK = {"seq": SERVER_ISN + 1, "ack": ISN + 1}
OPENED = (SYN, SYN_ARRIVES, ANSWER, ANSWER_ARRIVES)
ESTABLISHED = (*OPENED, JOIN, JOIN_ARRIVES)
# Y answers, so the hint is not repeated.
SETTLED = (
    *ESTABLISHED,
    server(tcp(SP, C, "A", **BACK), "server_sends", tcp(SY, C, "A", **BACK)),
    to_client(tcp(SY, C, "A", **BACK), "client_receives", tcp(VX, C, "A", **BACK)),
)

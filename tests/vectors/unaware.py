"""What stays unaware, and what is no packet of ours: rules, options, malformed and short headers."""

from __future__ import annotations

from support.packets import END, MSS, NOP, REDIRECT, option, tcp, udp
from vectors.vector import (
    AFTER,
    DROPPED,
    ISN,
    NUMBERS,
    SCOPE,
    SETTLED,
    SP,
    SX,
    SY,
    SYN,
    SYN_ARRIVES,
    TAG,
    VX,
    C,
    Step,
    Vector,
    blank,
    client,
    server,
    to_server,
)

FAST_OPEN_COOKIE = b"\x22\x0a" + bytes(8) + NOP * 2
FAST_OPEN_ASKS = b"\x22\x02" + NOP * 2
MPTCP = b"\x1e\x04\x00\x81"
MD5 = b"\x13\x12" + bytes(16) + NOP * 2
AO = b"\x1d\x10" + bytes(14)


def unaware(sentence: str, reason: str, options: bytes = b"", payload: bytes = b"", *, malformed: bool = False) -> Vector:
    return Vector(sentence, [client(tcp(C, VX, "S", seq=ISN, options=options, payload=payload), reason, malformed=malformed)])


RULES = [
    unaware("a SYN with data is unaware", "fast_open", payload=b"early"),
    unaware("a SYN with a Fast Open cookie is unaware", "fast_open", FAST_OPEN_COOKIE),
    Vector(
        "a SYN that only asks for a Fast Open cookie is aware",
        [client(tcp(C, VX, "S", seq=ISN, options=FAST_OPEN_ASKS), "client_syn", tcp(C, SX, "S", seq=ISN, options=FAST_OPEN_ASKS + TAG))],
    ),
    unaware("a Multipath TCP SYN is unaware", "mptcp", MPTCP),
    unaware("a SYN signed by TCP-MD5 is unaware", "signed_segment", MD5),
    unaware("a SYN signed by TCP-AO is unaware", "signed_segment", AO),
    Vector("a SYN that routers may fragment is unaware", [client(tcp(C, VX, "S", seq=ISN, flags_ip=""), "may_fragment")]),
    Vector(
        "a server whose packets routers may fragment does not answer an aware SYN",
        [
            SYN_ARRIVES,
            server(tcp(SP, C, "SA", **NUMBERS, flags_ip=""), "server_may_fragment", DROPPED),
            to_server(tcp(C, SP, "S", seq=ISN), "not_ours"),
            server(tcp(SP, C, "SA", **NUMBERS, flags_ip=""), "not_ours"),
        ],
    ),
    unaware("a SYN whose options leave eight octets is unaware", "no_room", MSS * 8),
    unaware("a SYN full of options is unaware", "no_room", MSS * 10),
    unaware("a SYN whose options are ended is unaware", "no_room", MSS + END * 4),
    unaware("a SYN with more padding than is walked is unaware", "no_room", NOP * 20),
    unaware("a SYN with an option of no length is unaware", "no_room", b"\x02\x00\x00\x00", malformed=True),
]


def malformed(sentence: str, options: bytes) -> Vector:
    """At the server: a SYN to a redirect port with a malformed option is as one without."""
    return Vector(
        sentence,
        [
            to_server(tcp(C, SX, "S", seq=ISN, options=options), "not_ours", malformed=True),
            to_server(
                tcp(C, SY, "S", seq=ISN, options=options), "server_syn_service", tcp(C, SP, "S", seq=ISN, options=options), malformed=True
            ),
        ],
    )


MALFORMED = [
    malformed("an option of another version is absent", option(REDIRECT, scope=SCOPE, version=2)),
    malformed("an option of version zero is absent", option(REDIRECT, scope=SCOPE, version=0)),
    malformed("an option that says ten octets is absent", option(REDIRECT, scope=SCOPE, length=10)),
    malformed("an option of four octets is absent", option(REDIRECT, scope=SCOPE, length=4)),
    malformed("an option longer than the header is absent", option(REDIRECT, scope=SCOPE, length=16)),
    malformed("an option of one octet is absent", option(REDIRECT, scope=SCOPE, length=1)),
    malformed("an option off its boundary is absent", NOP + option(REDIRECT, scope=SCOPE) + NOP * 3),
    malformed("an option cut by the header's end is absent", NOP * 3 + b"\xfd"),
    Vector(
        "of two options the second is absent",
        [
            to_server(
                tcp(C, SX, "S", seq=ISN, options=TAG + option(REDIRECT, scope=9)),
                "server_syn",
                tcp(C, SP, "S", seq=ISN, options=blank(12) + option(REDIRECT, scope=9)),
                malformed=True,
            )
        ],
    ),
    Vector(
        "another experiment's option is none of ours",
        [to_server(tcp(C, SX, "S", seq=ISN, options=b"\xfd\x0c\x12\x34" + bytes(8)), "not_ours")],
    ),
    Vector("an option behind the end of the list is not read", [to_server(tcp(C, SX, "S", seq=ISN, options=END * 4 + TAG), "not_ours")]),
    Vector(
        "an option behind NOPs is read",
        [to_server(tcp(C, SX, "S", seq=ISN, options=NOP * 4 + TAG), "server_syn", tcp(C, SP, "S", seq=ISN, options=NOP * 16))],
    ),
]

SHORT_TCP = tcp(C, VX, "S", seq=ISN, options=MSS * 2)
LONG_HEADER = tcp(C, SX, "S", seq=ISN, options=TAG)
SHORT = [
    Vector(
        "p06 a frame too short for an IP header is not IPv4",
        [client(SYN.frame[:12] + b"\x08\x06" + SYN.frame[14:length], "not_ip") for length in range(14, 34)],
    ),
    Vector(
        "p06 a frame that ends within its headers is truncated",
        [client(SHORT_TCP[:length], "truncated") for length in range(34, len(SHORT_TCP))],
    ),
    Vector(
        "p06 a frame that ends within our option is truncated at the server too",
        [to_server(LONG_HEADER[:length], "truncated") for length in range(34, len(LONG_HEADER))],
    ),
    Vector(
        "p06 a TCP header shorter than twenty octets is truncated",
        [client(SYN.frame[:46] + bytes([words << 4]) + SYN.frame[47:], "truncated") for words in range(5)],
    ),
    Vector(
        "p06 a TCP header longer than its packet is truncated",
        [client(SYN.frame[:46] + bytes([words << 4]) + SYN.frame[47:], "truncated") for words in range(6, 16)],
    ),
    Vector(
        "p06 an IP header shorter than twenty octets is truncated",
        [client(SYN.frame[:14] + bytes([0x40 | words]) + SYN.frame[15:], "truncated") for words in range(5)],
    ),
    Vector(
        "p06 an IP header longer than its packet is truncated",
        [client(SYN.frame[:14] + bytes([0x40 | words]) + SYN.frame[15:], "truncated") for words in (11, 15)],
    ),
    Vector("p06 a total length beyond the frame is truncated", [client(SYN.frame[:16] + b"\x00\x29" + SYN.frame[18:], "truncated")]),
    Vector(
        "p06 another version of IP is not IPv4",
        [
            client(SYN.frame[:14] + b"\x65" + SYN.frame[15:], "not_ip"),
            client(SYN.frame[:12] + b"\x86\xdd" + SYN.frame[14:], "not_ip"),
            client(SYN.frame[:12] + b"\x08\x06" + SYN.frame[14:], "not_ip"),
        ],
    ),
    Vector(
        "p06 another protocol is not TCP",
        [
            client(SYN.frame[:23] + b"\x84" + SYN.frame[24:], "not_tcp"),
            client(udp(C, VX, b"x"), "not_tcp"),
            to_server(udp(C, SY, b"x"), "not_tcp"),
            Step("from_net", "u", udp(C, SY, b"x"), "not_tcp"),
        ],
    ),
    Vector(
        "p16 fragments are left alone",
        [
            client(tcp(C, VX, "S", seq=ISN, flags_ip="MF"), "fragment"),
            client(tcp(C, VX, "S", seq=ISN, frag=100), "fragment"),
            *SETTLED,
            to_server(tcp(C, SY, "A", **AFTER, frag=100), "fragment"),
        ],
    ),
    Vector(
        "a packet that must not be fragmented is no fragment",
        [client(tcp(C, VX, "S", seq=ISN, flags_ip="DF"), "client_syn", tcp(C, SX, "S", seq=ISN, options=TAG, flags_ip="DF")), SYN_ARRIVES],
    ),
]
VECTORS = [*RULES, *MALFORMED, *SHORT]

"""Headers that are cut or lie about their lengths, in every length: the programs and the engine agree, and change only what is well formed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.lab import inside
from support.packets import MSS, NOP, icmp, option, tcp
from support.slices import VIRTUAL
from vectors.vector import AFTER, ANSWER, BACK, CLIENT, ROUTER, SERVER, SETTLED, SP, SX, SY, VX, C, Vector

LINK, IP, TCP = 14, 20, 20
LEAST = LINK + IP  # the kernel refuses to test-run a shorter frame that says it is IPv4
FULL = MSS + NOP * 24  # with our option of 12 bytes a header of 60
Place = tuple[str, str, bytes]
PLACES: list[Place] = [
    ("from_pod", "c", tcp(C, VX, "S", seq=7, options=FULL)),
    ("from_pod", "c", tcp(C, VX, "PA", **AFTER, options=FULL, payload=b"12345678")),
    ("from_pod", "s", ANSWER.frame),
    ("to_pod", "s", tcp(C, SX, "S", seq=7, options=FULL + option(1, scope=7))),
    ("to_pod", "s", tcp(C, SY, "PA", **AFTER, options=FULL, payload=b"12345678")),
    ("to_pod", "c", tcp(SY, C, "PA", **BACK, options=FULL, payload=b"12345678")),
    ("from_net", "u", tcp(C, SX, "S", seq=7, options=FULL + option(1, scope=7))),
]
ERRORS: list[Place] = [
    ("to_pod", "c", icmp(ROUTER, CLIENT, tcp(C, SY, "PA", **AFTER, payload=b"x" * 40), keep=72)),
    ("to_pod", "s", icmp(ROUTER, SERVER, tcp(SY, C, "PA", **BACK, payload=b"x" * 40), keep=72)),
    ("from_pod", "c", icmp(CLIENT, VIRTUAL, tcp(VX, C, "PA", **BACK, payload=b"x" * 40), keep=72)),
    ("from_pod", "s", icmp(SERVER, CLIENT, tcp(C, SP, "PA", **AFTER, payload=b"x" * 40), keep=72)),
    ("from_net", "u", icmp(ROUTER, CLIENT, tcp(C, SY, "PA", **AFTER, payload=b"x" * 40), keep=72)),
]


def put(frame: bytes, at: int, octets: bytes) -> bytes:
    return frame[:at] + octets + frame[at + len(octets) :]


def cuts(frame: bytes) -> Iterator[bytes]:
    """The frame ended after each of its octets, by the IP header's word and without it."""
    for length in range(LEAST, len(frame) + 1):
        yield frame[:length]
        yield put(frame, LINK + 2, (length - LINK).to_bytes(2, "big"))[:length]


def tcp_lengths() -> Iterator[Place]:
    for hook, interface, frame in PLACES:
        for words in range(16):
            for cut in cuts(put(frame, LINK + IP + 12, bytes([words << 4]))):
                yield hook, interface, cut


def ip_lengths() -> Iterator[Place]:
    for hook, interface, frame in PLACES:
        for words in range(16):
            for cut in cuts(put(frame, LINK, bytes([0x40 | words]))):
                yield hook, interface, cut


def total_lengths() -> Iterator[Place]:
    for hook, interface, frame in (*PLACES, *ERRORS):
        for total in (*range(len(frame) + 20), 0x7FFF, 0xFFFF):
            yield hook, interface, put(frame, LINK + 2, total.to_bytes(2, "big"))


def option_lengths() -> Iterator[Place]:
    """Our option's length octet in every value at every place of a full header, behind padding and behind another option."""
    for hook, interface, src, dst, flags, numbers in (
        ("to_pod", "s", C, SX, "S", {"seq": 7}),
        ("to_pod", "c", SY, C, "A", BACK),
        ("from_pod", "c", C, VX, "A", AFTER),
    ):
        for at in range(0, 40, 4):
            for before in (NOP, b"\x08\x02"):
                options = ((before * 20)[:at] + option(1, scope=7) + NOP * 40)[:40]
                frame = tcp(src, dst, flags, **numbers, options=options)
                for length in range(256):
                    yield hook, interface, put(frame, LINK + IP + TCP + at + 1, bytes([length]))


def embedded() -> Iterator[Place]:
    """Errors that embed as little as they can, with each length that the embedded header may claim."""
    for hook, interface, frame in ERRORS:
        for words in range(16):
            for cut in cuts(put(frame, LINK + IP + 8, bytes([0x40 | words]))):
                yield hook, interface, cut


def is_whole(frame: bytes) -> bool:
    """Whether every header is there and has the length that it says: this test's own reading of RFC 791, 9293 and 792."""
    end, header = LINK + int.from_bytes(frame[16:18], "big"), (frame[LINK] & 15) * 4
    inner = LINK + header
    if frame[LINK] >> 4 != 4 or header < IP or end > len(frame) or end < inner + 8:
        return False
    if frame[LINK + 9] == 1:
        claimed = (frame[inner + 8] & 15) * 4
        return claimed >= IP and end >= inner + 8 + claimed + 8
    return end >= inner + TCP and TCP <= (frame[inner + 12] >> 4) * 4 <= end - inner


def has_option(frame: bytes) -> bool:
    """Whether the TCP header has our option whole, on a boundary of four, behind options that are whole themselves."""
    start = LINK + (frame[LINK] & 15) * 4
    raw, at = frame[start + TCP : start + (frame[start + 12] >> 4) * 4], 0
    while at < len(raw) and raw[at] != 0:
        if raw[at] == 1:
            at += 1
            continue
        if at + 1 >= len(raw) or raw[at + 1] < 2 or at + raw[at + 1] > len(raw):
            return False
        if raw[at : at + 1] + raw[at + 2 : at + 4] == b"\xfd\x57\x46" and raw[at + 1] in (8, 12, 16) and raw[at + 5] == 1 and at % 4 == 0:
            return True
        at += raw[at + 1]
    return False


@pytest.mark.parametrize("frames", [tcp_lengths, ip_lengths, total_lengths, option_lengths, embedded], ids=lambda make: make.__name__)
def test_only_what_is_well_formed_is_changed(load, namespace, frames: Callable[[], Iterator[Place]]):
    def work() -> list:
        twins.play(Vector("a live connection", SETTLED))
        return twins.sweep(frames())

    twins = load({})
    swept = inside(namespace, work)
    changed = [frame for frame, result in swept if result.packet != frame]
    assert changed
    assert len(changed) < len(swept)
    assert [frame.hex() for frame in changed if not is_whole(frame)] == []
    refused = [frame for frame, result in swept if result.reason.name == "forged_option"]
    assert [frame.hex() for frame in refused if not has_option(frame)] == []
    if frames is option_lengths:
        blanked = [frame for frame, result in swept if b"\xfd" in frame[54:] and b"\xfd" not in result.packet[54:]]
        assert blanked
        assert refused
        assert [frame.hex() for frame in blanked if not has_option(frame)] == []

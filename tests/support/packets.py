"""Frames by Scapy, which computes every checksum; TCP options as bytes, ours among them, so that malformed ones can be written."""

from __future__ import annotations

import struct

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

REDIRECT, CONFIRM, PORT, IMPERMISSIBLE = 0x01, 0x02, 0x04, 0x08
NOP, END = b"\x01", b"\x00"
MSS = b"\x02\x04\x05\xb4"
SACK_OK_STAMPS = b"\x04\x02\x08\x0a" + bytes(8)  # SACK permitted and time stamps: 12 bytes
MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


def option(
    flags: int,
    port: int = 0,
    *,
    scope: int | None = None,
    origin: int | None = None,
    version: int = 1,
    length: int | None = None,
) -> bytes:
    """The redirection option (docs/protocol.md, "The option"). `length`: what its length octet says, if not the truth."""
    tail = b"" if scope is None else struct.pack("!I", scope)
    tail += b"" if origin is None else struct.pack("!I", origin)
    true = 8 + len(tail)
    return struct.pack("!BBHBBH", 253, true if length is None else length, 0x5746, flags, version, port) + tail


def ends(src: str, dst: str) -> tuple[str, int, str, int]:
    """ "10.0.0.1:80" twice, apart."""
    (source, sport), (target, dport) = src.split(":"), dst.split(":")
    return source, int(sport), target, int(dport)


def tcp(
    src: str,
    dst: str,
    flags: str,
    *,
    seq: int = 0,
    ack: int = 0,
    options: bytes = b"",
    payload: bytes = b"",
    ttl: int = 64,
    ip: bytes = b"",
    flags_ip: str = "DF",
    window: int = 8192,
    **fields: object,
) -> bytes:
    """A TCP frame. `options` and `ip` (IP options) are whole words of bytes; `fields` are Scapy's, of the IP header."""
    source, sport, target, dport = ends(src, dst)
    network = IP(src=source, dst=target, ttl=ttl, id=1, ihl=5 + len(ip) // 4, flags=flags_ip, **fields)
    transport = TCP(sport=sport, dport=dport, flags=flags, seq=seq & 0xFFFFFFFF, ack=ack & 0xFFFFFFFF, window=window, dataofs=5 + len(options) // 4)
    if ip:
        return with_ip_options(Ether(**MACS) / network / transport / Raw(options + payload), ip)
    return bytes(Ether(**MACS) / network / transport / Raw(options + payload))


def answer(src: str, dst: str, flags: str, *, seq: int, ack: int = 0, window: int = 0, options: bytes = b"") -> bytes:
    """The segment by which a frame is answered, on its way back."""
    made = tcp(src, dst, flags, seq=seq, ack=ack, window=window, options=options)
    return made[6:12] + made[:6] + made[12:]


def reset(src: str, dst: str, seq: int) -> bytes:
    """The bare RST by which a frame is answered, on its way back."""
    return answer(src, dst, "R", seq=seq)


def with_ip_options(packet: Ether, options: bytes) -> bytes:
    """Scapy sums the TCP header under an IP header without options; the IP header itself is summed again over its options."""
    packet[IP].ihl = 5
    plain = bytes(packet)
    head = bytearray(plain[14:34])
    head[0] = 0x45 + len(options) // 4
    head[2:4] = struct.pack("!H", len(plain) - 14 + len(options))
    again = IP(bytes(head) + options)
    del again.chksum
    return plain[:14] + bytes(again) + plain[34:]


def udp(src: str, dst: str, payload: bytes = b"") -> bytes:
    source, sport, target, dport = ends(src, dst)
    return bytes(Ether(**MACS) / IP(src=source, dst=target, id=1) / UDP(sport=sport, dport=dport) / Raw(payload))


def icmp(src: str, dst: str, inner: bytes, *, kind: int = 3, code: int = 4, mtu: int = 1300, keep: int = 28) -> bytes:
    """An error about the frame `inner`, of whose packet `keep` bytes are embedded."""
    error = ICMP(type=kind, code=code, nexthopmtu=mtu) if kind == 3 else ICMP(type=kind, code=code)
    return bytes(Ether(**MACS) / IP(src=src, dst=dst, id=1) / error / Raw(inner[14 : 14 + keep]))


def at_hop(frame: bytes) -> bytes:
    """The frame one hop further: its time to live one less."""
    packet = Ether(frame)
    packet[IP].ttl -= 1
    del packet[IP].chksum
    return frame[:14] + bytes(packet[IP])[: (packet[IP].ihl) * 4] + frame[14 + packet[IP].ihl * 4 :]


def sums_right(frame: bytes) -> bool:
    """Whether the IP and TCP checksums are what Scapy makes of the bytes."""
    packet = Ether(frame)
    size = packet[IP].ihl * 4
    fresh = IP(frame[14 : 14 + packet[IP].len])
    del fresh.chksum
    head = bytes(fresh)[:size]
    body = frame[14 + size : 14 + packet[IP].len]
    blank = body[:16] + bytes(2) + body[18:]
    pseudo = frame[26:34] + struct.pack("!HH", 6, len(body))
    return head == frame[14 : 14 + size] and internet_sum(pseudo + blank) == struct.unpack("!H", body[16:18])[0]


def internet_sum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\x00" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

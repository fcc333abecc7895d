"""A capture of an interface, read back as the few things that tests ask of a packet."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scapy.layers.inet import IP, TCP
from scapy.packet import Packet
from scapy.utils import rdpcap

FLAGS = {0x01: "REDIRECT", 0x02: "CONFIRM", 0x04: "PORT", 0x08: "IMPERMISSIBLE"}


@dataclass(frozen=True)
class Option:
    """The redirection option (docs/protocol.md, "The option")."""

    flags: set[str]
    port: int
    scope: int | None


@dataclass(frozen=True)
class Segment:
    src: str
    dst: str
    sport: int
    dport: int
    flags: str
    option: Option | None
    payload: int
    checksums_right: bool


def redirection_option(raw: bytes) -> Option | None:
    """From a TCP header's option bytes; None when it is not there."""
    at = 0
    while at < len(raw) and raw[at] != 0:
        if raw[at] == 1:
            at += 1
            continue
        length = raw[at + 1]
        if raw[at] == 253 and raw[at + 2:at + 4] == b"\x57\x46":
            flags = {name for bit, name in FLAGS.items() if raw[at + 4] & bit}
            scope = int.from_bytes(raw[at + 8:at + 12], "big") if length >= 12 else None
            return Option(flags, int.from_bytes(raw[at + 6:at + 8], "big"), scope)
        at += length
    return None


def segment(packet: Packet) -> Segment:
    ip, tcp = packet[IP], packet[TCP]
    raw = bytes(ip)
    header = raw[ip.ihl * 4:]
    fresh = ip.copy()
    del fresh.chksum
    del fresh[TCP].chksum
    again = IP(bytes(fresh))
    return Segment(ip.src, ip.dst, tcp.sport, tcp.dport, str(tcp.flags), redirection_option(header[20:tcp.dataofs * 4]),
                   len(tcp.payload), (again.chksum, again[TCP].chksum) == (ip.chksum, tcp.chksum))


class Capture:
    """`with Capture(command, interface) as capture: ...` then capture.tcp(). `command`: how to run tcpdump where the interface is."""

    def __init__(self, command: Sequence[str], interface: str, *options: str) -> None:
        self._file = Path(tempfile.mkdtemp(prefix="wharf-capture-"), "capture.pcap")
        self._command = [*command, "--immediate-mode", "-U", "-i", interface, *options, "-w", "-", "tcp"]

    def __enter__(self) -> Capture:
        with self._file.open("wb") as file:
            self._process = subprocess.Popen(self._command, stdout=file, stderr=subprocess.PIPE, text=True)
        assert "listening" in self._process.stderr.readline(), "tcpdump did not start"
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)  # the kernel hands tcpdump what it has every so often
        self._process.terminate()
        self._process.wait()
        self._process.stderr.close()

    def tcp(self) -> list[Segment]:
        """The TCP segments, in order of time."""
        return [segment(packet) for packet in rdpcap(str(self._file)) if TCP in packet]

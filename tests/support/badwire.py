"""The lab's wire made bad on purpose: rules that lose, repeat, hold back or strip the packets that a test names (badwire.bpf.c).

It stands at the switch's ports, so it sees what goes from node to node, once, and nothing that stays on a node. Only `full_options` is a pod's.
"""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from wharfinger_dataplane import _bpf

from support.lab import Lab, Pod, inside, sh

SOURCE = Path(__file__).with_name("badwire.bpf.c")
SHAPE = struct.Struct("=4s4s2s2sBBBBIIIIII2048s")
FLAGS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, "A": 0x10}
WITHOUT, WITH = 1, 2
ALWAYS = 0xFFFFFFFF


class Deed(IntEnum):
    """What happens to a packet. HOLD: it goes on behind the next one of the rule's direction."""

    LOSE = 1
    REPEAT = 2
    HOLD = 3
    STRIP = 4


@dataclass(frozen=True)
class Rule:
    """`deed` happens to matches number `first` to `first` + `count` - 1, to `percent` of them. `src`, `dst`: "address" or "address:port",
    "" for any. `flags`: those that are set among S, F, R and, when it is named, A; None for any. `load`: WITH or WITHOUT data, 0 for any."""

    deed: Deed
    src: str = ""
    dst: str = ""
    flags: str | None = None
    load: int = 0
    first: int = 1
    count: int = 1
    percent: int = 100

    def pack(self) -> bytes:
        (src, sport), (dst, dport) = _end(self.src), _end(self.dst)
        mask = 0 if self.flags is None else sum(FLAGS[flag] for flag in "SFRA")
        flags = sum(FLAGS[flag] for flag in self.flags or "")
        return SHAPE.pack(src, dst, sport, dport, mask, flags, self.load, self.deed, self.first, self.count, self.percent, 0, 0, 0, b"")


def _end(text: str) -> tuple[bytes, bytes]:
    address, _, port = text.partition(":")
    return socket.inet_aton(address) if address else bytes(4), struct.pack("!H", int(port or 0))


class Wire:
    """The wire between the lab's first two nodes."""

    def __init__(self, lab: Lab, loaded: _bpf.Object) -> None:
        self._rules = loaded.maps["rules"]
        self._full_options = loaded.programs["full_options"]
        ports = [int(sh(f"ip -n {lab.switch} -o link show port{number}").split(":")[0]) for number in (1, 2)]
        for arrives, leaves in (ports, ports[::-1]):
            loaded.maps["ways"].put(arrives.to_bytes(4, "little"), leaves.to_bytes(4, "little"))
        self._links = inside(lab.switch, lambda: [_bpf.Link.create(loaded.programs["bad_wire"], port) for port in ports])

    def obey(self, *rules: Rule) -> None:
        """These rules from now on, and none of before; the first that applies to a packet is obeyed."""
        for number in range(self._rules.max_entries):
            self._rules.put(number.to_bytes(4, "little"), rules[number].pack() if number < len(rules) else bytes(SHAPE.size))

    def done(self, number: int = 0) -> int:
        """To how many packets the rule has happened."""
        return SHAPE.unpack(self._rules.get(number.to_bytes(4, "little")))[12]

    def seen(self, number: int = 0) -> int:
        """How many packets the rule named, whether it was their turn or not."""
        return SHAPE.unpack(self._rules.get(number.to_bytes(4, "little")))[11]

    @contextmanager
    def full_options(self, pod: Pod) -> Iterator[None]:
        """The pod's SYNs leave it with all 40 bytes of options, by one that is unknown to everybody. It has no segmentation offload."""
        link = inside(pod.name, lambda: _bpf.Link.create(self._full_options, socket.if_nametoindex("eth0")))
        try:
            yield
        finally:
            link.close()

    def close(self) -> None:
        for link in self._links:
            link.close()


@contextmanager
def bad_wire(lab: Lab, folder: Path) -> Iterator[Wire]:
    """`folder`: for what is compiled; maps are pinned nowhere."""
    target = folder / "badwire.bpf.o"
    subprocess.run(["clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", "-I/usr/include/x86_64-linux-gnu",
                    "-I/usr/include/aarch64-linux-gnu", "-c", str(SOURCE), "-o", str(target)], check=True)
    loaded = _bpf.Object(target, folder / "pins")
    wire = Wire(lab, loaded)
    try:
        yield wire
    finally:
        wire.close()
        loaded.close()

"""What the nodes' uplinks carried: tcpdump on each, read back by Scapy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from support.capture import Capture, Segment
from testbed import Cluster


@dataclass
class Captures:
    """One capture a node."""

    each: list[Capture]

    def segments(self) -> list[Segment]:
        """Every packet once, at the uplink of the node that it left."""
        return [segment for capture in self.each for segment in capture.tcp()]


@contextmanager
def captures(cluster: Cluster, address: str) -> Iterator[Captures]:
    """Captures what leaves each node's uplink while the block runs. The virtual address itself must never be on the wire."""
    with ExitStack() as stack:
        yield Captures([stack.enter_context(Capture(cluster.exec_command(node.name, "tcpdump"), node.uplink, "-Q", "out"))
                        for node in cluster.nodes])


def report(segments: list[Segment], owners: dict[tuple[str, int], str]) -> list[str]:
    """What the protocol says of the packets (docs/protocol.md, "Establishing"), counted. AssertionError where it is not so."""
    syns = [s for s in segments if s.flags == "S" and s.option]
    answers = [s for s in segments if s.flags == "SA" and s.option]
    connections = {(s.src, s.sport) for s in syns}
    rest = [s for s in segments if s not in syns and s not in answers and ((s.src, s.sport) in connections or (s.dst, s.dport) in connections)]
    assert syns and len(answers) >= len(connections), (len(syns), len(answers))
    assert all(s.dport == 80 and s.option.flags == {"REDIRECT"} for s in syns)
    assert all(s.sport == 80 and s.option.flags == {"CONFIRM", "PORT"} and (s.src, s.option.port) in owners for s in answers)
    off = [s for s in rest if (s.src, s.sport) not in owners and (s.dst, s.dport) not in owners]
    assert not off, off[:3]
    named = Counter(s.option.port for s in answers)
    joins = sum(1 for s in rest if s.option and s.option.port == 80)
    return [
        f"{len(syns):5d}  SYN to X=80 with REDIRECT, scope {sorted({s.option.scope for s in syns})}",
        f"{len(answers):5d}  SYN+ACK from X=80 with REDIRECT_CONFIRM and REDIRECT_OPT=Y: "
        + ", ".join(f"Y={y} {n}x" for y, n in sorted(named.items())),
        f"{joins:5d}  ACK to Y with REDIRECT_CONFIRM and REDIRECT_OPT=80",
        f"{len(rest):5d}  later packets, every one of them from or to its server's own Y",
    ]

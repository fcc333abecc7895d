"""A lab of two nodes for each test, or for a file's tests, in namespaces and a bpffs of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.badwire import Wire, bad_wire
from support.lab import Lab, Pod, Role, Spares, bpffs, fall_back, inside
from support.slices import VIRTUAL, pool_slice
from support.traffic import offloads_off, server


@pytest.fixture(scope="session")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with bpffs(tmp_path_factory.mktemp("bpffs")) as path:
        yield path


@pytest.fixture(scope="session")
def spares(pins: Path) -> Iterator[Spares]:
    found = Spares(pins)
    yield found
    found.close()


@pytest.fixture
def lab(pins: Path, spares: Spares) -> Iterator[Lab]:
    lab = Lab(pins, spares=spares)
    try:
        lab.add_node()
        lab.add_node()
        yield lab
    finally:
        lab.close()


FAST_OPEN = "1027"
"""net.ipv4.tcp_fastopen (0x403): for those who ask for it as clients, and at every listener."""


@dataclass
class Stage:
    """One lab for a file's tests, which tell their connections apart by port: a client, a server `a` across the wire, and that wire. No
    segmentation offload, so a packet on the wire is a packet of TCP; and what kube-proxy does for the unaware stands behind it."""

    lab: Lab
    client: Pod
    pod: Pod
    wire: Wire
    generation: int = 0

    def serve(self, **more: object) -> None:
        """The slices of a pool of `a`, as `pool_slice` takes them."""
        self.generation += 1
        for node in self.lab.nodes:
            node.tables.apply([pool_slice({"a": self.pod.address}, generation=self.generation, **more)])

    def counting(self, node: int) -> Callable[[], Counter]:
        """From now on: calling it answers what has been counted since, by (hook, reason)."""
        before = Counter(self.lab.nodes[node].counts())
        return lambda: Counter(self.lab.nodes[node].counts()) - before


@pytest.fixture(scope="module")
def stage(pins: Path, spares: Spares, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    lab = Lab(pins, spares=spares)
    try:
        lab.add_node()
        lab.add_node()
        client, pod = lab.add_pod(lab.nodes[0], "client", Role.CLIENT), lab.add_pod(lab.nodes[1], "a", Role.SERVER)
        offloads_off(client, pod)
        for each in (client, pod):
            inside(each.name, lambda: Path("/proc/sys/net/ipv4/tcp_fastopen").write_text(FAST_OPEN))
        fall_back(lab.nodes[0], VIRTUAL, pod)
        with server(pod), bad_wire(lab, tmp_path_factory.mktemp("wire")) as wire:
            made = Stage(lab, client, pod, wire)
            made.serve()
            yield made
    finally:
        lab.close()

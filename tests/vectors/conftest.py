"""A namespace of interfaces for BPF_PROG_TEST_RUN, and the programs loaded once for every capacity that a vector asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from pyroute2 import netns
from support.lab import bpffs, inside, sh
from support.packets import MACS
from vectors import stacks
from vectors.twins import Twins
from vectors.vector import INTERFACES, PODS


@pytest.fixture(scope="session")
def namespace() -> Iterator[str]:
    name = f"wharf-vec-{os.getpid()}"
    netns.create(name)
    netns.create(f"{name}-stacks")
    try:
        for interface in INTERFACES:
            sh(f"ip -n {name} link add {interface} type veth peer name {interface}-end")
            sh(f"ip -n {name} link set {interface} address {MACS['dst']} up")
            sh(f"ip -n {name} link set {interface}-end up")
        inside(name, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        sh(f"ip -n {name} link set u mtu 1400")
        sh(f"ip -n {name} route add 10.99.2.0/24 dev u")
        for elsewhere in ("10.99.1.0/24", "10.96.0.0/16"):
            sh(f"ip -n {name} route add {elsewhere} dev o")
        stacks.make(f"{name}-stacks", name, PODS)
        yield name
    finally:
        netns.remove(f"{name}-stacks")
        netns.remove(name)


@pytest.fixture(scope="session")
def load(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Mapping[str, int]], Twins]]:
    """The twins of a capacity, loaded at its first use."""
    interfaces = {name: int(sh(f"ip -n {namespace} -o link show {name}").split(":")[0]) for name in INTERFACES}
    loaded: dict[tuple, Twins] = {}
    with bpffs(tmp_path_factory.mktemp("bpffs")) as pins:

        def twins(capacity: Mapping[str, int]) -> Twins:
            key = tuple(sorted(capacity.items()))
            if key not in loaded:
                loaded[key] = Twins(pins / str(len(loaded)), interfaces, f"{namespace}-stacks", capacity)
            return loaded[key]

        yield twins
        for each in loaded.values():
            each.close()

"""Nanoseconds a packet of each program, on the traffic of real TCP in a lab of two nodes, against programs that only forward.

The kernel's own account (BPF_ENABLE_STATS) of the same transfers, taken in turn: ours, theirs, ours, theirs.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from pathlib import Path

from support.lab import Lab, Role, bpffs, inside
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, server
from wharfinger_dataplane import _bpf

HOOKS = ("from_pod", "to_pod", "from_net")
BYTES = 60_000_000
CONNECTIONS = 400


def forward_only(folder: Path) -> _bpf.Object:
    """bench/forward.bpf.c, compiled and loaded."""
    target = folder / "forward.bpf.o"
    subprocess.run(["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu",
                    "-c", str(Path(__file__).with_name("forward.bpf.c")), "-o", str(target)], check=True)
    return _bpf.Object(target, folder / "pins")


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """hook -> {ours, forward_only, ratio}: medians over `rounds` of nanoseconds a packet."""
    with tempfile.TemporaryDirectory() as name, bpffs(Path(name, "bpffs")) as pins:
        lab = Lab(pins, "wharf-bench")
        try:
            return _measure(lab, Path(name), rounds)
        finally:
            lab.close()


def _measure(lab: Lab, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    near, far = lab.add_node(), lab.add_node()
    client, backend = lab.add_pod(near, "client", Role.CLIENT), lab.add_pod(far, "a", Role.SERVER)
    other_client, other_backend = lab.add_pod(near, "c2"), lab.add_pod(far, "b")
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": backend.address})])
    plain = forward_only(folder)
    links = []
    for pod in (other_client, other_backend):
        for hook in ("plain_from_pod", "plain_to_pod"):
            links.append(inside(pod.node.name, lambda hook=hook, pod=pod: _bpf.Link.create(plain.programs[hook], pod.ifindex)))
    uplinks = [inside(node.name, lambda node=node: _bpf.Link.create(plain.programs["plain_from_net"], lab.uplink(node))) for node in lab.nodes]
    seen: dict[str, dict[str, list[float]]] = {hook: {"ours": [], "forward_only": []} for hook in HOOKS}
    with server(backend), server(other_backend), _bpf.statistics():
        for _ in range(rounds):
            for kind, pod, address, port in (("ours", client, VIRTUAL, 80), ("forward_only", other_client, other_backend.address, 8080)):
                before = _totals(lab, plain, kind)
                _traffic(pod, address, port)
                for hook, (time_ns, runs) in _totals(lab, plain, kind).items():
                    spent, packets = time_ns - before[hook][0], runs - before[hook][1]
                    seen[hook][kind].append(spent / packets)
    for link in (*links, *uplinks):
        link.close()
    plain.close()
    return {hook: _summary(kinds) for hook, kinds in seen.items()}


def _summary(kinds: dict[str, list[float]]) -> dict[str, float]:
    ratios = [ours / theirs for ours, theirs in zip(kinds["ours"], kinds["forward_only"], strict=True)]
    medians = {f"{kind}_ns": statistics.median(values) for kind, values in kinds.items()}
    return {**medians, "ratio": statistics.median(ratios)}


def _totals(lab: Lab, plain: _bpf.Object, kind: str) -> dict[str, tuple[int, int]]:
    objects = [plain] if kind == "forward_only" else [node.bpf for node in lab.nodes]
    prefix = "plain" if kind == "forward_only" else "wharf"
    return {hook: tuple(map(sum, zip(*(each.programs[f"{prefix}_{hook}"].totals() for each in objects), strict=True))) for hook in HOOKS}


def _traffic(pod, address: str, port: int) -> None:
    for _ in range(CONNECTIONS):
        with Client(pod, address, port) as connection:
            connection.ask()
    with Client(pod, address, port, timeout=60) as connection:
        assert connection.get(BYTES) == checksum(BYTES)

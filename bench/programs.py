"""Nanoseconds a packet of each program in a lab of two nodes, against programs that only forward, taken in turn.

- `measure`: the traffic of real TCP, handshakes among it, by the kernel's own account (BPF_ENABLE_STATS), which itself costs some
  90 ns a run.
- `established`: one data packet of an established connection, by BPF_PROG_TEST_RUN. Each run changes the packet, so there are two
  records, each of which makes of the packet what the other knows.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from pathlib import Path

from support.lab import Lab, Pod, Role, bpffs, inside, sh
from support.packets import tcp
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, server
from wharfinger_dataplane import _bpf
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._records import FlowState

HOOKS = ("from_pod", "to_pod", "from_net")
BYTES = 60_000_000
CONNECTIONS = 400
REPEAT, SLICES = 100, 30
"""Runs of one packet at a time (its time to live ends after 254), and how often a round does that."""
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(8)


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


def established(rounds: int) -> dict[str, dict[str, float]]:
    """hook -> {ours, forward_only, ratio}: medians over `rounds` of nanoseconds an established data packet."""
    with tempfile.TemporaryDirectory() as name, bpffs(Path(name, "bpffs")) as pins:
        lab = Lab(pins, "wharf-bench")
        try:
            return _established(lab, Path(name), rounds)
        finally:
            lab.close()


def _established(lab: Lab, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    near, far = lab.add_node(), lab.add_node()
    client, backend = lab.add_pod(near, "client", Role.CLIENT), lab.add_pod(far, "a", Role.SERVER)
    near.tables.apply([pool_slice({"a": backend.address})])
    sh(f"ip -n {near.name} route add {VIRTUAL}/32 via {far.address}")
    for address, interface in ((far.address, "uplink"), (client.address, "cni0")):
        sh(f"ip -n {near.name} neigh replace {address} lladdr 02:00:00:00:00:09 dev {interface} nud permanent")
    _both_ways(near, client, (VIRTUAL, 80), (backend.address, 20_001))
    link = bytes.fromhex(sh(f"ip -n {near.name} -o link show uplink").split("link/ether ")[1].split()[0].replace(":", ""))
    plain, ours, uplink = forward_only(folder), near.bpf.programs, lab.uplink(near)

    def frame(src: str, dst: str) -> bytes:
        made = tcp(src, dst, "A", seq=5, ack=6, ttl=255, options=TIMESTAMPS, payload=bytes(1000))
        return link + made[len(link):]

    out, back = frame(f"{client.address}:40000", f"{VIRTUAL}:80"), frame(f"{backend.address}:20001", f"{client.address}:40000")
    packets = {"from_pod": (out, client.ifindex), "to_pod": (back, client.ifindex), "from_net": (back, uplink)}
    seen: dict[str, dict[str, list[float]]] = {hook: {"ours": [], "forward_only": []} for hook in HOOKS}

    def run() -> None:
        for _ in range(rounds * SLICES):
            for hook, (packet, ifindex) in packets.items():
                for kind, program in (("ours", ours[f"wharf_{hook}"]), ("forward_only", plain.programs[f"plain_{hook}"])):
                    seen[hook][kind].append(program.run(packet, ifindex=ifindex, repeat=REPEAT)[2])

    inside(near.name, run)
    plain.close()
    counts = near.counts()
    for hook, reason in (("from_pod", "client_sends"), ("to_pod", "client_receives"), ("from_net", "net_client")):
        assert counts[hook, reason] == rounds * SLICES * REPEAT, counts
    return {hook: _summary(kinds) for hook, kinds in seen.items()}


def _both_ways(node, pod: Pod, virtual: tuple[str, int], server_: tuple[str, int]) -> None:
    """Records of an established connection, and of another that leads back."""
    for seen, behind in ((virtual, server_), (server_, virtual)):
        flow = records.pack_flow(state=FlowState.CLIENT_ESTABLISHED, server=behind[0], wire_port=behind[1], scope=7, isn=1)
        wire = records.pack_wire(state=FlowState.CLIENT_ESTABLISHED, ifindex=pod.ifindex, peer=seen[0], local_port=40_000,
                                 peer_port=seen[1], isn=1)
        node.bpf.maps["flows"].put(records.pack_flow_key(pod.address, 40_000, *seen, pod.ifindex), flow)
        node.bpf.maps["wires"].put(records.pack_flow_key(pod.address, 40_000, *behind), wire)

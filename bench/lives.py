"""Nanoseconds that the programs of a node take for a connection's whole life, from the first SYN to the last acknowledgement, packet by packet,
against programs that only forward: at the client's node and at the server's. Each packet is a test run of its own, so its caches are not
as warm as those of a packet that is repeated; the run itself costs some 150 ns.

`python bench/lives.py [CONNECTIONS]` prints each packet's median.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("tests", "tests/cluster")]

from programs import forward_only  # noqa: E402
from support.lab import Lab, Node, Role, bpffs, inside, sh  # noqa: E402
from support.packets import CONFIRM, PORT, REDIRECT, option, tcp  # noqa: E402
from support.slices import VIRTUAL, pool_slice  # noqa: E402

CONNECTIONS, FIRST_PORT = 1500, 10_000
SYN_OPTIONS = b"\x02\x04\x05\xb4\x04\x02\x08\x0a" + bytes(8) + b"\x01\x03\x03\x07"
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(8)
X, SCOPE = 80, 7
REMOTE_Y, Y = 20_001, 20_002
"""Service ports: of the server elsewhere, of the one here."""
REMOTE_SERVER, REMOTE_CLIENT = "10.99.2.77", "10.99.2.55"
DATA = b"x" * 50
ISN, SERVER_ISN = 1000, 5000

Packet = tuple[str, str, bytes]
"""What it is, the hook, the frame."""


def client_life(client: str, port: int) -> list[Packet]:
    """The packets of a connection to a server elsewhere as the client's node meets them; the server closes first."""
    stack, wire = (f"{client}:{port}", f"{VIRTUAL}:{X}"), (f"{REMOTE_SERVER}:{REMOTE_Y}", f"{client}:{port}")

    def out(what: str, flags: str, seq: int, ack: int, data: bytes = b"", options: bytes = TIMESTAMPS) -> list[Packet]:
        return [(what, "from_pod", tcp(*stack, flags, seq=ISN + seq, ack=SERVER_ISN + ack, options=options, payload=data))]

    def back(what: str, flags: str, seq: int, ack: int, data: bytes = b"") -> list[Packet]:
        frame = tcp(*wire, flags, seq=SERVER_ISN + seq, ack=ISN + ack, options=TIMESTAMPS, payload=data)
        return [(what, "from_net", frame), (what, "to_pod", frame)]

    answer = tcp(f"{REMOTE_SERVER}:{X}", wire[1], "SA", seq=SERVER_ISN, ack=ISN + 1, options=SYN_OPTIONS + option(CONFIRM | PORT, REMOTE_Y))
    return [
        ("SYN", "from_pod", tcp(*stack, "S", seq=ISN, options=SYN_OPTIONS)),
        ("SYN+ACK", "from_net", answer), ("SYN+ACK", "to_pod", answer),
        *out("step 3", "A", 1, 1), *out("request", "PA", 1, 1, DATA), *back("reply", "PA", 1, 51, DATA), *out("ACK", "A", 51, 51),
        *back("server's FIN", "FA", 51, 51), *out("client's FIN", "FA", 51, 52), *back("last ACK", "A", 52, 52),
    ]


def server_life(server: str, port: int) -> list[Packet]:
    """The same at the server's node, of a client elsewhere."""
    wire, stack = (f"{REMOTE_CLIENT}:{port}", f"{server}:{Y}"), (f"{server}:8080", f"{REMOTE_CLIENT}:{port}")

    def come(what: str, flags: str, seq: int, ack: int, data: bytes = b"", options: bytes = TIMESTAMPS) -> list[Packet]:
        frame = tcp(*wire, flags, seq=ISN + seq, ack=SERVER_ISN + ack, options=options, payload=data)
        return [(what, "from_net", frame), (what, "to_pod", frame)]

    def out(what: str, flags: str, seq: int, ack: int, data: bytes = b"") -> list[Packet]:
        return [(what, "from_pod", tcp(*stack, flags, seq=SERVER_ISN + seq, ack=ISN + ack, options=TIMESTAMPS, payload=data))]

    syn = tcp(wire[0], f"{server}:{X}", "S", seq=ISN, options=SYN_OPTIONS + option(REDIRECT, scope=SCOPE))
    return [
        ("SYN", "from_net", syn), ("SYN", "to_pod", syn),
        ("SYN+ACK", "from_pod", tcp(*stack, "SA", seq=SERVER_ISN, ack=ISN + 1, options=SYN_OPTIONS)),
        *come("step 3", "A", 1, 1, options=TIMESTAMPS + option(CONFIRM | PORT, X)), *come("request", "PA", 1, 1, DATA),
        *out("reply", "PA", 1, 51, DATA), *come("ACK", "A", 51, 51), *out("server's FIN", "FA", 51, 51),
        *come("client's FIN", "FA", 51, 52), *out("last ACK", "A", 52, 52),
    ]


def lives(connections: int = CONNECTIONS) -> dict[str, dict]:
    """`client` and `server` -> {ours_ns, forward_only_ns, packets: "what, hook" -> ns}: medians, and the sums of a life."""
    with tempfile.TemporaryDirectory() as name, bpffs(Path(name, "bpffs")) as pins:
        lab = Lab(pins, "wharf-bench")
        try:
            near, far = lab.add_node(), lab.add_node()
            client, server = lab.add_pod(near, "client", Role.CLIENT), lab.add_pod(near, "a", Role.SERVER)
            near.tables.apply([pool_slice({"b": REMOTE_SERVER, "a": server.address}, scope=SCOPE, states={"a": "Draining"})])
            sh(f"ip -n {near.name} route replace {VIRTUAL}/32 via {far.address}")
            for address, interface in ((far.address, "uplink"), (client.address, "cni0"), (server.address, "cni0")):
                sh(f"ip -n {near.name} neigh replace {address} lladdr 02:00:00:00:00:09 dev {interface} nud permanent")
            plain = forward_only(Path(name))
            try:
                return {
                    end: _life(near, plain, lab.uplink(near), pod.ifindex, [of(pod.address, FIRST_PORT + n) for n in range(connections)])
                    for end, pod, of in (("client", client, client_life), ("server", server, server_life))
                }
            finally:
                plain.close()
        finally:
            lab.close()


def _life(node: Node, plain: object, uplink: int, pod: int, played: list[list[Packet]]) -> dict:
    link = bytes.fromhex(sh(f"ip -n {node.name} -o link show uplink").split("link/ether ")[1].split()[0].replace(":", ""))
    ours: dict[str, list[int]] = defaultdict(list)
    theirs: dict[str, list[int]] = defaultdict(list)

    def run() -> None:
        for packets in played:
            for what, hook, frame in packets:
                frame, ifindex = link + frame[len(link):], uplink if hook == "from_net" else pod
                for program, seen in ((node.bpf.programs[f"wharf_{hook}"], ours), (plain.programs[f"plain_{hook}"], theirs)):
                    seen[f"{what}, {hook}"].append(program.run(frame, ifindex=ifindex)[2])

    inside(node.name, run)
    left = {table: len(node.bpf.maps[table].items()) for table in ("flows", "wires", "opening_flows", "opening_wires")}
    assert set(left.values()) == {0}, f"connections that did not end: {left}"
    medians = {packet: statistics.median(found) for packet, found in ours.items()}
    return {"ours_ns": sum(medians.values()), "forward_only_ns": sum(map(statistics.median, theirs.values())), "packets": medians}


if __name__ == "__main__":
    for side, of in lives(*map(int, sys.argv[1:2])).items():
        for what, ns in of["packets"].items():
            print(f"{side}: {what:24} {ns:6.0f} ns")
        print(f"{side}: all {of['ours_ns']:,.0f} ns, forward only {of['forward_only_ns']:,.0f} ns")

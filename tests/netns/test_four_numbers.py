"""A client's address and port and a server's are four numbers that several connections may want at once: of
one pool by two of its redirect ports or virtual addresses, of two pools, by a direct dial, by kube-proxy.
Whatever the target port, all live."""

from __future__ import annotations

import itertools
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.badwire import Deed, Rule, bad_wire
from support.lab import Lab, Pod, Role, Spares, inside
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, server
from wharfinger_dataplane.attach import Mode

TWIN, OTHER, PLAIN = "10.96.0.11", "10.96.0.12", "10.96.0.13"
"""Virtual addresses: a second one of the pool, one of another pool, and one of no pool, which kube-proxy
alone knows. It knows the others, too, and all ports that are dialled."""
AT_ONCE_S = 0.9
"""Before a SYN would be repeated."""
BOUND_S = 20
BYTES = 200_000


@dataclass
class Scene:
    """A client, a server across the wire that listens on `target`, and kube-proxy's rules behind."""

    lab: Lab
    client: Pod
    pod: Pod
    target: int
    ports: Iterator[int] = field(default_factory=lambda: itertools.count(41_000))
    """Client ports that no test has had."""

    def where(self, kind: str) -> tuple[str, int]:
        """What is dialled for a connection of that kind."""
        return {
            "aware": (VIRTUAL, 80), "service port": (VIRTUAL, 20_001), "other redirect port": (VIRTUAL, 81),
            "other address": (TWIN, 80), "other pool": (OTHER, 80), "direct": (self.pod.address, self.target),
            "kube-proxy": (PLAIN, 80),
        }[kind]

    def counted(self, hook: str, reason: str) -> int:
        """At the client's node."""
        return self.lab.nodes[0].counts().get((hook, reason), 0)

    def dial(self, kind: str, port: int, timeout: float = AT_ONCE_S) -> Client:
        connection = Client(self.client, *self.where(kind), source_port=port, timeout=timeout)
        connection.socket.settimeout(BOUND_S)
        return connection


KINDS = ("aware", "service port", "other redirect port", "other address", "other pool", "direct",
         "kube-proxy")


PAIRS = list(itertools.permutations(KINDS, 2))
pairs = pytest.mark.parametrize(("first", "second"), PAIRS,
                                ids=[f"{one}, then {other}" for one, other in PAIRS])


@pytest.fixture(scope="module", params=[8080, 80],
                ids=["target is another port", "target is the port dialled"])
def target(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module", params=[Mode.TCX, Mode.CLSACT], ids=str)
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


@pytest.fixture(scope="module")
def scene(pins: Path, spares: Spares, target: int, mode: Mode) -> Iterator[Scene]:
    """One for all tests of its target port and mode, which tell their connections apart by client port."""
    with closing(Lab(pins, spares=spares, mode=mode)) as lab:
        lab.add_node()
        lab.add_node()
        client = lab.add_pod(lab.nodes[0], "client", Role.CLIENT)
        pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
        made, servers = Scene(lab, client, pod, target), {"a": pod.address}
        for node in lab.nodes:
            node.tables.apply([pool_slice(servers, redirect=(80, 81), virtual=(VIRTUAL, TWIN), target=target),
                               pool_slice(servers, virtual=(OTHER,), scope=9, name="other",
                                          ports={"a": [20_009]}, target=target)])
        rules = ("add table ip proxy; add chain ip proxy p { type nat hook prerouting priority dstnat; };"
                 f"add rule ip proxy p ip daddr {{ {VIRTUAL}, {TWIN}, {OTHER}, {PLAIN} }} "
                 f"tcp dport {{ 80, 81, 20001 }} dnat to {made.pod.address}:{target}")
        subprocess.run(["nsenter", f"--net=/run/netns/{lab.nodes[0].name}", "nft", rules], check=True)
        with server(made.pod, target):
            yield made


def carries(*connections: Client) -> None:
    for each in connections:
        assert each.get(BYTES) == checksum(BYTES)
        assert each.put(BYTES) == checksum(BYTES)


def end(connection: Client, closer: str) -> None:
    """The server's end is orderly and leaves TIME_WAIT there; the client's is a RST and leaves nothing."""
    connection.bye() if closer == "server" else connection.reset()


def test_a_connection_whose_first_two_syns_are_lost_is_established_by_the_third(scene, tmp_path):
    before = scene.counted("from_pod", "third_syn")
    with bad_wire(scene.lab, tmp_path) as wire:
        wire.obey(Rule(Deed.LOSE, src=scene.client.address, flags="S", count=2))
        with scene.dial("aware", next(scene.ports), timeout=20) as connection:
            assert (wire.done(), wire.seen()) == (2, 3)
            carries(connection)
    assert scene.counted("from_pod", "third_syn") == before + 1


@pairs
def test_two_connections_of_one_client_port_to_one_server_are_both_established_at_once(scene, first, second):
    port = next(scene.ports)
    with scene.dial(first, port) as one, scene.dial(second, port) as other:
        carries(one, other, one)


@pytest.mark.parametrize("closer", ["server", "client"])
@pairs
def test_of_two_connections_one_begins_again_while_the_other_lives(scene, first, second, closer):
    port = next(scene.ports)
    with scene.dial(first, port) as one, scene.dial(second, port) as other:
        carries(one, other)
        for _ in range(2):
            end(other, closer)
            carries(one)
            other = scene.dial(second, port)
            carries(other, one)
        end(one, closer)
        carries(other)
        with scene.dial(first, port) as again:
            carries(again, other)
            end(other, closer)
            carries(again)


@pairs
def test_a_client_port_goes_from_one_connection_to_the_next_at_once(scene, first, second):
    """The server closes, so that its stack has the pair of ports in TIME_WAIT."""
    for _ in range(8):
        port = next(scene.ports)
        for kind in (first, second):
            connection = scene.dial(kind, port)
            assert connection.ask()[0] == "a"
            connection.bye()


@contextmanager
def few_ports(pod: Pod, count: int) -> Iterator[None]:
    """The pod's stack chooses its client ports among so many."""
    file = Path("/proc/sys/net/ipv4/ip_local_port_range")
    before = inside(pod.name, file.read_text)
    inside(pod.name, lambda: file.write_text(f"50000 {50_000 + count - 1}"))
    try:
        yield
    finally:
        inside(pod.name, lambda: file.write_text(before))


def test_many_direct_connections_live_while_aware_ones_come_and_go_on_the_same_client_ports(scene):
    """The stack chooses all ports; it knows no reason not to use one for two servers' addresses."""
    def dial(kind: str) -> socket.socket:
        return socket.create_connection(scene.where(kind), timeout=BOUND_S)

    def dial_and_reset() -> tuple[int, float]:
        began = time.monotonic()
        with dial("aware") as short:
            took = time.monotonic() - began
            short.sendall(b"hello\n")
            assert short.recv(100).startswith(b"a ")
            short.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return short.getsockname()[1], took

    with few_ports(scene.client, 400), ExitStack() as stack:
        direct = scene.client.run(lambda: [stack.enter_context(dial("direct")) for _ in range(200)])
        shorts = scene.client.run(lambda: [dial_and_reset() for _ in range(1500)])
        common = {each.getsockname()[1] for each in direct} & {port for port, _ in shorts}
        assert len(common) > 50
        assert max(took for _, took in shorts) < AT_ONCE_S
        for each in direct:
            each.sendall(b"hello\n")
        for each in direct:
            assert each.recv(100).startswith(b"a ")

"""Sockets that are not where a program and the agent look for them: bound to a device, behind a redirection
inside the pod, or in a namespace of its own there. Not seen is not gone: their connections live, whatever
strangers say and however long they are silent."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.flood import to_node
from support.lab import Lab, Node, Pod, Role, inside, sh
from support.packets import tcp
from support.slices import VIRTUAL, pool_slice
from support.wire import send
from wharfinger_dataplane import netlink
from wharfinger_dataplane._records import unpack_flow_key
from wharfinger_dataplane.agent.flows import FLOWS, Collector, Pass

HOUR_NS = 3600 * 10**9
BOUND_S = 20
SMALL = {"flows": 8, "wires": 8}
INNER = "172.20.0.2"
"""Of what is in a namespace inside a pod."""


@dataclass
class End:
    """Where one end's application is, and at what address; `listens`: at what port, if it is the server's."""

    namespace: str
    address: str
    listens: int = 8080
    device: bytes = b""


class Diag:
    """The pods' namespaces as the agent's `Namespaces` opens them."""

    def __init__(self, *pods: Pod) -> None:
        self._pods = {pod.address: pod for pod in pods}

    def diag(self, address: str) -> socket.socket | None:
        pod = self._pods.get(address)
        return inside(pod.name, netlink.diag_socket) if pod else None


def nft(namespace: str, rules: str) -> None:
    subprocess.run(["nsenter", f"--net=/run/netns/{namespace}", "nft", rules], check=True)


def seen(lab: Lab, pod: Pod) -> End:
    """The control."""
    return End(pod.name, pod.address)


def bound(lab: Lab, pod: Pod) -> End:
    return End(pod.name, pod.address, device=b"eth0")


def redirected(lab: Lab, pod: Pod) -> End:
    """As service meshes have it: the application's port leads to a proxy's."""
    nft(pod.name, "add table ip mesh; add chain ip mesh p { type nat hook prerouting priority dstnat; };"
                  "add rule ip mesh p tcp dport 8080 redirect to :15006")
    return End(pod.name, pod.address, listens=15_006)


def nested(lab: Lab, pod: Pod) -> End:
    """As containers inside a pod have it: a namespace with addresses of its own, and NAT between."""
    inner = lab.namespace(f"in-{pod.short}")
    sh(f"ip -n {pod.name} link add inner type veth peer name eth0 netns {inner}")
    sh(f"ip -n {pod.name} addr add 172.20.0.1/24 dev inner")
    sh(f"ip -n {pod.name} link set inner up")
    sh(f"ip -n {inner} addr add {INNER}/24 dev eth0")
    sh(f"ip -n {inner} link set eth0 up")
    sh(f"ip -n {inner} route add default via 172.20.0.1")
    inside(pod.name, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
    nft(pod.name, "add table ip in; add chain ip in p { type nat hook prerouting priority dstnat; };"
                  f"add rule ip in p iifname eth0 tcp dport 8080 dnat to {INNER}:8080;"
                  "add chain ip in s { type nat hook postrouting priority srcnat; };"
                  "add rule ip in s oifname eth0 masquerade")
    return End(inner, INNER)


@dataclass
class Scene:
    lab: Lab
    client: Pod
    pod: Pod
    near: socket.socket
    far: socket.socket
    listener: socket.socket

    def ends(self, node: Node) -> tuple[str, str]:
        """(client's end, server's) as the wire has them at that node's pod: by its flow's record."""
        port = next(key.local_port if node is self.client.node else key.peer_port
                    for key in map(unpack_flow_key, dict(node.bpf.maps[FLOWS].items())))
        return f"{self.client.address}:{port}", f"{self.pod.address}:20001"

    def spoof(self, flags: str) -> None:
        """A stranger, in the name of each end, with numbers of its own."""
        outside = self.lab.add_outside()
        for node in self.lab.nodes:
            client, server = self.ends(node)
            one, other = (server, client) if node is self.client.node else (client, server)
            frames = [tcp(one, other, flags, seq=n << 30, ack=9) for n in range(4)]
            send(outside, [to_node(frame, node, "uplink") for frame in frames])
        time.sleep(0.3)

    def collect(self, hours: int) -> list[Pass]:
        return [Collector(node.tables._store, Diag(self.client, self.pod), lambda address: True, HOUR_NS)
                .collect(time.monotonic_ns() + hours * HOUR_NS) for node in self.lab.nodes]

    def flows(self) -> list[int]:
        return [len(node.bpf.maps[FLOWS].items()) for node in self.lab.nodes]

    def speak(self, who: str) -> None:
        """First that end, then the other."""
        both = (self.near, self.far) if who == "client" else (self.far, self.near)
        for sender, reader in (both, both[::-1]):
            sender.sendall(b"x" * 3000)
            left = 3000
            while left:
                chunk = reader.recv(left)
                assert chunk
                left -= len(chunk)


@contextmanager
def opened(lab: Lab, where: str, how) -> Iterator[Scene]:
    client = lab.add_pod(lab.nodes[0], "client", Role.CLIENT)
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address})])
    one = how(lab, client) if where == "client" else seen(lab, client)
    other = how(lab, pod) if where == "server" else seen(lab, pod)

    def made(end: End) -> socket.socket:
        fresh = socket.socket()
        fresh.settimeout(BOUND_S)
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if end.device:
            fresh.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, end.device)
        return fresh

    def listen() -> socket.socket:
        listener = made(other)
        listener.bind((other.address, other.listens))
        listener.listen()
        return listener

    def dial() -> socket.socket:
        dialling = made(one)
        dialling.connect((VIRTUAL, 80))
        return dialling

    with ExitStack() as stack:
        listener = stack.enter_context(inside(other.namespace, listen))
        near = stack.enter_context(inside(one.namespace, dial))
        far = stack.enter_context(listener.accept()[0])
        far.settimeout(BOUND_S)
        scene = Scene(lab, client, pod, near, far, listener)
        scene.speak("client")
        assert scene.flows() == [1, 1]
        yield scene


@pytest.fixture
def small(pins: Path) -> Iterator[Lab]:
    """Nodes whose tables of connections have little room."""
    with closing(Lab(pins)) as lab:
        lab.add_node(capacity=SMALL)
        lab.add_node(capacity=SMALL)
        yield lab


KINDS = [("client", seen), ("client", bound), ("client", nested), ("server", seen), ("server", bound),
         ("server", redirected), ("server", nested)]
kinds = pytest.mark.parametrize(("where", "how"), KINDS,
                                ids=[f"{where}-{how.__name__}" for where, how in KINDS])
speakers = pytest.mark.parametrize("who", ["client", "server"])


@speakers
@kinds
def test_a_connection_lives_after_hours_of_silence(lab, where, how, who):
    with opened(lab, where, how) as scene:
        assert [done.nominated for done in scene.collect(hours=30)] == [1, 1]
        assert scene.flows() == [1, 1]
        scene.speak(who)


@speakers
@pytest.mark.parametrize("flags", ["R", "RA", "FA"])
@kinds
def test_a_connection_lives_though_a_stranger_says_that_it_is_over(lab, where, how, flags, who):
    with opened(lab, where, how) as scene:
        scene.spoof(flags)
        scene.collect(hours=0)
        assert scene.flows() == [1, 1]
        scene.speak(who)


@speakers
@kinds
def test_a_connection_that_is_moved_aside_for_room_is_taken_back_by_its_next_packet(small, where, how, who):
    with opened(small, where, how) as scene:
        for node in small.nodes:
            fill(node)
        scene.collect(hours=30)
        scene.speak(who)
        for pod in (scene.client, scene.pod):
            flows = map(unpack_flow_key, dict(pod.node.bpf.maps[FLOWS].items()))
            assert pod.address in {key.local for key in flows}


def fill(node: Node) -> None:
    """Leaves little room: flows of a pod that is none of the lab's, so that nobody is asked for them."""
    [(key, value)] = node.bpf.maps[FLOWS].items()
    for number in range(SMALL["flows"] // 2):
        node.bpf.maps[FLOWS].put(key[:4] + bytes([10, 77, 0, number]) + key[8:], value)


def test_a_direct_dial_from_the_port_of_a_connection_to_a_mesh_is_a_connection_of_its_own(lab):
    with opened(lab, "server", redirected) as scene:
        port = scene.near.getsockname()[1]

        def dial() -> socket.socket:
            made = socket.socket()
            made.settimeout(BOUND_S)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((scene.client.address, port))
            made.connect((scene.pod.address, 8080))
            return made

        began = time.monotonic()
        with ExitStack() as stack:
            near = stack.enter_context(scene.client.run(dial))
            far = stack.enter_context(scene.listener.accept()[0])
            assert time.monotonic() - began < 0.9
            for sender, reader in ((near, far), (far, near)):
                sender.sendall(b"hello")
                assert reader.recv(5) == b"hello"
        scene.speak("server")


def test_a_strangers_packet_keeps_no_reset_from_a_direct_client_of_a_mesh(lab):
    client = lab.add_pod(lab.nodes[0], "client", Role.CLIENT)
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address})])
    where = redirected(lab, pod)
    with ExitStack() as stack:
        listener = stack.enter_context(pod.run(lambda: socket.create_server((pod.address, where.listens))))
        near = stack.enter_context(client.run(lambda: socket.create_connection((pod.address, 8080), timeout=BOUND_S)))
        far = stack.enter_context(listener.accept()[0])
        near.sendall(b"hello")
        assert far.recv(5) == b"hello"
        blind = tcp(f"{client.address}:{near.getsockname()[1]}", f"{pod.address}:20001", "A", seq=77, ack=5)
        send(lab.add_outside(), [to_node(blind, pod.node, "uplink")])
        time.sleep(0.2)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        with pytest.raises(ConnectionResetError):
            near.recv(1)

"""What only the node's stack may do: fragment, read VLAN tags, take frames for other link addresses."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.flood import link_address
from support.lab import Lab, Node, Pod, Role, Spares, sh
from support.packets import tcp
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, offloads_off, server, sockets
from support.wire import numbers, send
from wharfinger_dataplane.attach import Mode

BOUND_S = 20
BYTES = 50_000
FORGED = b"forged\n"
SMALLER_MTU = 1300
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0  # linux/in.h: packets without DF
STRANGER, BROADCAST = "02:00:00:00:00:77", "ff:ff:ff:ff:ff:ff"
BESIDE = ("not_ip", "not_tcp", "other_host")
"""Reasons of what stacks and switches say of themselves."""
QUIET_S = 0.3
"""In which what was sent arrives, if anything does."""


@dataclass
class Scene:
    """A client, a server across the wire that listens on `target`, and kube-proxy's rule behind."""

    lab: Lab
    client: Pod
    pod: Pod
    target: int

    def counting(self, node: Node) -> Callable[[], Counter]:
        """From now on: it answers what has been counted since, by (hook, reason), less what is BESIDE."""
        before = Counter(node.counts())

        def since() -> Counter:
            found = Counter(node.counts()) - before
            return Counter({key: count for key, count in found.items() if key[1] not in BESIDE})
        return since


@pytest.fixture(scope="module", params=[8080, 80],
                ids=["target is another port", "target is the port dialled"])
def target(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module", params=[Mode.TCX, Mode.CLSACT], ids=str)
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


@pytest.fixture
def scene(pins: Path, spares: Spares, target: int, mode: Mode) -> Iterator[Scene]:
    with closing(Lab(pins, spares=spares, mode=mode)) as lab:
        lab.add_node()
        lab.add_node()
        client = lab.add_pod(lab.nodes[0], "client", Role.CLIENT)
        pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
        made = Scene(lab, client, pod, target)
        offloads_off(made.client, made.pod)
        for node in lab.nodes:
            node.tables.apply([pool_slice({"a": made.pod.address}, target=target)])
        rules = ("add table ip proxy; add chain ip proxy p { type nat hook prerouting priority dstnat; };"
                 f"add rule ip proxy p ip daddr {VIRTUAL} tcp dport 80 dnat to {made.pod.address}:{target}")
        subprocess.run(["nsenter", f"--net=/run/netns/{lab.nodes[0].name}", "nft", rules], check=True)
        yield made


# fragments

def narrow_uplinks(lab: Lab) -> None:
    for node in lab.nodes:
        sh(f"ip -n {node.name} link set uplink mtu {SMALLER_MTU}")
        sh(f"ip -n {lab.switch} link set port{node.number} mtu {SMALLER_MTU}")


def fragmenting(made: socket.socket) -> socket.socket:
    made.settimeout(BOUND_S)
    made.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    return made


@contextmanager
def pair(scene: Scene, who: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection whose client sends without DF, or both ends: the client's socket and the server's."""
    def listen() -> socket.socket:
        made = socket.create_server((scene.pod.address, scene.target))
        return fragmenting(made) if who == "both" else made

    def dial() -> socket.socket:
        made = fragmenting(socket.socket())
        made.connect((VIRTUAL, 80))
        return made

    with scene.pod.run(listen) as listener, scene.client.run(dial) as near, listener.accept()[0] as far:
        far.settimeout(BOUND_S)
        yield near, far


@pytest.mark.parametrize("who", ["client", "both"])
def test_a_connection_that_may_be_fragmented_is_unaware_and_carries_all_over_a_smaller_mtu(scene, who):
    narrow_uplinks(scene.lab)
    counted = scene.counting(scene.lab.nodes[0])
    with pair(scene, who) as both:
        for sender, reader in (both, both[::-1]):
            sender.sendall(bytes(BYTES))
            left = BYTES
            while left:
                chunk = reader.recv(left)
                assert chunk
                left -= len(chunk)
    assert counted()["from_pod", "may_fragment"] == 1
    assert not counted()["to_pod", "client_redirected"]


# VLAN tags

def framed(to: str, packet: bytes) -> bytes:
    return bytes.fromhex(to.replace(":", "")) + packet[6:]


def tagged(frame: bytes) -> bytes:
    return frame[:12] + struct.pack("!HH", 0x8100, 66) + frame[12:]


def test_a_tagged_frame_of_a_pod_is_left_to_the_stack(scene):
    counted = scene.counting(scene.client.node)
    bridge = link_address(scene.client.node.name, "cni0")
    with server(scene.pod, scene.target), Client(scene.client, VIRTUAL, 80, timeout=BOUND_S) as connection:
        connection.ask()
        port, (expected, following) = connection.socket.getsockname()[1], numbers(connection.socket)
        before = counted()
        own = scene.client.address
        for frame in (
                tcp(f"{own}:40001", f"{VIRTUAL}:80", "S", seq=77),
                tcp(f"{own}:{port}", f"{VIRTUAL}:80", "PA", seq=following, ack=expected, payload=FORGED)):
            send(scene.client.name, [tagged(framed(bridge, frame))])
        time.sleep(QUIET_S)
        since = counted() - before
        assert [(reason, n) for (hook, reason), n in since.items() if hook == "from_pod"] == [("vlan", 2)]
        assert connection.ask("plain")[2] == "plain"


def test_a_tagged_frame_from_the_network_is_left_to_the_stack(scene):
    counted = scene.counting(scene.pod.node)
    uplink = link_address(scene.pod.node.name, "uplink")
    with server(scene.pod, scene.target), Client(scene.client, VIRTUAL, 80, timeout=BOUND_S) as connection:
        connection.ask()
        port, (expected, following) = connection.socket.getsockname()[1], numbers(connection.socket)
        before = counted()
        for frame in (tcp(f"{scene.client.address}:40003", f"{scene.pod.address}:20001", "S", seq=77),
                      tcp(f"{scene.client.address}:{port}", f"{scene.pod.address}:20001", "PA", seq=following,
                          ack=expected, payload=FORGED)):
            send(scene.lab.switch, [tagged(framed(uplink, frame))], "port2")
        time.sleep(QUIET_S)
        assert counted() - before == {("from_net", "vlan"): 2}
        assert sockets(scene.pod, "state", "syn-recv") == ""
        assert connection.ask("plain")[2] == "plain"


# link addresses

@pytest.mark.parametrize("to", [STRANGER, BROADCAST], ids=["another's", "broadcast"])
def test_a_frame_for_another_link_address_reaches_no_pod(scene, to):
    """A switch floods what it does not know the way of."""
    outside = scene.lab.add_outside()
    counted = scene.counting(scene.pod.node)
    with server(scene.pod, scene.target), Client(scene.client, VIRTUAL, 80, timeout=BOUND_S) as connection:
        assert connection.get(BYTES) == checksum(BYTES)
        port, (expected, following) = connection.socket.getsockname()[1], numbers(connection.socket)
        before, others = counted(), scene.pod.node.counts().get(("from_net", "other_host"), 0)
        here, there = f"{scene.client.address}:{port}", f"{scene.pod.address}:20001"
        send(outside, [framed(to, frame) for frame in (
            tcp(f"{scene.client.address}:40004", there, "S", seq=9),
            tcp(f"{scene.client.address}:40005", f"{scene.pod.address}:{scene.target}", "S", seq=9),
            tcp(here, there, "PA", seq=following, ack=expected, payload=FORGED))])
        time.sleep(QUIET_S)
        assert scene.pod.node.counts()["from_net", "other_host"] >= others + 3
        assert counted() == before
        assert sockets(scene.pod, "state", "syn-recv") == ""
        assert connection.ask("plain")[2] == "plain"

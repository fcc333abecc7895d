"""ICMP errors through the translation: each arrives at the stack whose packet it is about, and that stack does as it would without us.
Those that a pod itself sends are in test_pods_errors.py."""

from __future__ import annotations

import errno
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.lab import Node, Role, inside, sh
from support.slices import VIRTUAL
from support.traffic import Client, checksum, offloads_off, sockets

IP_RECVERR = 11  # linux/in.h
NARROW, LENGTH = 1300, 2_000_000
SEGMENTS = LENGTH // 1448
"""Of `LENGTH` bytes at least, in packets of 1500 bytes."""


@contextmanager
def route(node: Node, kind: str, address: str) -> Iterator[None]:
    """The node's routing table refuses packets to the address, and the node's agent has heard of it."""
    sh(f"ip -n {node.name} route add {kind} {address}/32")
    node.tables._store.outdate()
    try:
        yield
    finally:
        sh(f"ip -n {node.name} route del {kind} {address}/32")


@contextmanager
def rejecting(node: Node, address: str, how: str) -> Iterator[None]:
    """A firewall on the node refuses packets to the address."""
    nft = ["nsenter", f"--net=/run/netns/{node.name}", "nft"]
    rules = ("add table ip wall; add chain ip wall f { type filter hook forward priority 0; };"
             f"add rule ip wall f ip daddr {address} meta l4proto tcp reject with {how}")
    subprocess.run([*nft, rules], check=True)
    try:
        yield
    finally:
        subprocess.run([*nft, "delete table ip wall"], check=True)


@contextmanager
def narrow_uplinks(stage) -> Iterator[None]:
    """The sender's own node has a link of `NARROW` bytes."""
    def set_mtu(mtu: int) -> None:
        for node in stage.lab.nodes:
            sh(f"ip -n {node.name} link set uplink mtu {mtu}")
            sh(f"ip -n {stage.lab.switch} link set port{node.number} mtu {mtu}")
    set_mtu(NARROW)
    try:
        yield
    finally:
        set_mtu(1500)


@pytest.fixture(scope="module")
def router(stage) -> str:
    """A host on the nodes' wire that forwards by ways of `NARROW` bytes. It tells nobody that there is a shorter one."""
    name = stage.lab.add_outside()
    for node in stage.lab.nodes:
        sh(f"ip -n {name} route add 10.99.{node.number}.0/24 via {node.address} mtu lock {NARROW}")
    for setting, value in (("ip_forward", 1), ("conf/all/send_redirects", 0), ("conf/eth0/send_redirects", 0)):
        inside(name, lambda setting=setting, value=value: Path("/proc/sys/net/ipv4", setting).write_text(str(value)))
    return name


@contextmanager
def narrow_further_on(stage) -> Iterator[None]:
    """The nodes send to each other's pods by the router."""
    def lead(*gateways: str) -> None:
        for node, other, gateway in zip(stage.lab.nodes, stage.lab.nodes[::-1], gateways, strict=True):
            sh(f"ip -n {node.name} route replace 10.99.{other.number}.0/24 via {gateway}")
            node.tables._store.outdate()
    lead(*["172.31.0.254"] * 2)
    try:
        yield
    finally:
        lead(*(node.address for node in stage.lab.nodes[::-1]))


@pytest.fixture
def forgetful(stage) -> None:
    """The pods' stacks know nothing of what they learnt in another test."""
    for pod in (stage.client, stage.pod):
        sh(f"ip -n {pod.name} route flush cache")


@pytest.fixture(params=["off", "on"])
def offloads(stage, request) -> Iterator[str]:
    """Segmentation by the pods' stacks, or by a device below them, as is their default."""
    if request.param == "on":
        for pod in (stage.client, stage.pod):
            sh(f"nsenter --net=/run/netns/{pod.name} ethtool -K eth0 tx on tso on gso on")
    yield request.param
    offloads_off(stage.client, stage.pod)


@pytest.mark.parametrize("way", ["get", "put"])
@pytest.mark.parametrize("where", [narrow_uplinks, narrow_further_on], ids=lambda where: where.__name__)
@pytest.mark.usefixtures("forgetful", "router")
def test_a_smaller_mtu_is_discovered_by_whoever_sends(stage, offloads, where, way):
    number, pod, peer, sends = {"get": (1, stage.pod, stage.client.address, "server_sends"), "put": (0, stage.client, VIRTUAL, "client_sends")}[way]
    told = stage.counting(number)
    with where(stage), Client(stage.client, VIRTUAL, 80, timeout=60) as connection:
        assert getattr(connection, way)(LENGTH) == checksum(LENGTH)
    assert told()["to_pod", "icmp_translated"] >= 1
    assert bool(told()["from_pod", "stack_too_big"]) == (where is narrow_uplinks)
    assert f" mtu {NARROW} " in sh(f"ip -n {pod.name} route get {peer}")
    assert (told()["from_pod", sends] < SEGMENTS) == (offloads == "on")


@pytest.mark.parametrize("where", [0, 1])
def test_a_dial_fails_at_once_when_there_is_no_route_to_its_server(stage, where):
    """On the client's node our own program finds no way and the stack answers; on the server's the pod is none of ours any more."""
    told = stage.counting(0)
    if where == 1:
        stage.pod.node.tables.remove_pod(stage.pod.address)
    try:
        with route(stage.lab.nodes[where], "unreachable", stage.pod.address), pytest.raises(OSError) as failed:
            Client(stage.client, VIRTUAL, 80, timeout=60)
    finally:
        stage.lab.know(stage.pod, Role.SERVER)
    assert failed.value.errno == errno.EHOSTUNREACH
    assert told()["to_pod", "icmp_translated"] == 1


@pytest.mark.parametrize(("how", "number"), [("icmp type port-unreachable", errno.ECONNREFUSED), ("icmp type admin-prohibited", errno.EHOSTUNREACH)])
def test_a_dial_fails_at_once_when_a_firewall_refuses_it(stage, how, number):
    told = stage.counting(0)
    stage.pod.node.tables.remove_pod(stage.pod.address)
    try:
        with rejecting(stage.lab.nodes[1], stage.pod.address, how), pytest.raises(OSError) as failed:
            Client(stage.client, VIRTUAL, 80, timeout=60)
    finally:
        stage.lab.know(stage.pod, Role.SERVER)
    assert failed.value.errno == number
    assert told()["to_pod", "icmp_translated"] == 1


def test_an_error_about_an_open_connection_is_seen_by_who_asks_for_it_and_ends_nothing(stage):
    told = stage.counting(0)
    with Client(stage.client, VIRTUAL, 80, timeout=60) as connection:
        assert connection.ask()[0] == "a"
        connection.socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        with route(stage.lab.nodes[0], "unreachable", stage.pod.address):
            connection.socket.sendall(b"hello\n")
            deadline = time.monotonic() + 30
            while not told()["to_pod", "icmp_translated"]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EHOSTUNREACH
        assert connection.answer()[2] == "hello"


def test_an_error_about_an_answer_from_a_redirect_port_ends_the_half_open_connection(stage):
    told = stage.counting(1)
    with route(stage.lab.nodes[1], "unreachable", stage.client.address), pytest.raises(TimeoutError):
        Client(stage.client, VIRTUAL, 80, timeout=0.7)
    assert told()["to_pod", "server_syn"] == 1
    assert told()["to_pod", "icmp_translated"] == 1
    assert sockets(stage.pod, "state", "syn-recv") == ""

"""ICMP errors through the translation: each arrives at the stack whose packet it is about, and that stack does as it would without us."""

from __future__ import annotations

import errno
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.lab import Node, Role, sh
from support.slices import VIRTUAL
from support.traffic import Client, checksum, sockets

IP_RECVERR = 11  # linux/in.h


@contextmanager
def route(node: Node, kind: str, address: str) -> Iterator[None]:
    """The node's routing table refuses packets to the address."""
    sh(f"ip -n {node.name} route add {kind} {address}/32")
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


@pytest.fixture
def narrow(stage) -> Iterator[None]:
    """A link of 1300 bytes between the nodes, which the pods do not know of."""
    def set_mtu(mtu: int) -> None:
        for node in stage.lab.nodes:
            sh(f"ip -n {node.name} link set uplink mtu {mtu}")
            sh(f"ip -n {stage.lab.switch} link set port{node.number} mtu {mtu}")
    set_mtu(1300)
    for pod in (stage.client, stage.pod):
        sh(f"ip -n {pod.name} route flush cache")  # what it learnt in another test
    yield
    set_mtu(1500)


@pytest.mark.parametrize("way", ["get", "put"])
@pytest.mark.usefixtures("narrow")
def test_a_smaller_mtu_is_discovered_by_whoever_sends(stage, way):
    told = stage.counting({"get": 1, "put": 0}[way])
    with Client(stage.client, VIRTUAL, 80, timeout=60) as connection:
        assert getattr(connection, way)(2_000_000) == checksum(2_000_000)
    assert told()["to_pod", "icmp_translated"] >= 1


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
            while not told()["to_pod", "icmp_translated"]:
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

"""ICMP errors that a pod itself sends about what it received, be it a container engine's in it or its firewall's: each reaches the stack
at the other end as it would without us."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.lab import Lab, Pod, Role, inside
from support.layouts import judging, nested, nft
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, arrives, offloads_off, server

NARROW = 1300
LENGTH = 20_000
"""Of several packets."""
BOUND_S = 5
AT_ONCE_S = 0.9
"""Before a SYN comes again."""
WHERE = pytest.mark.parametrize("where", [0, 1], ids=["same node", "other node"])


def client_and_server(lab: Lab, where: int) -> tuple[Pod, Pod]:
    """On nodes whose firewalls drop half of a connection, and errors about what is no connection to them."""
    client, pod = lab.add_pod(lab.nodes[0], "client", Role.CLIENT), lab.add_pod(lab.nodes[where], "a", Role.SERVER)
    offloads_off(client, pod)
    judging(*lab.nodes)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address})])
    return client, pod


@contextmanager
def connected(client: str, where: str, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's socket and the server's, by their namespaces; the server listens at the address."""
    with (
        inside(where, lambda: socket.create_server((address, 8080))) as listener,
        inside(client, lambda: socket.create_connection((VIRTUAL, 80), timeout=BOUND_S)) as near,
        listener.accept()[0] as far,
    ):
        far.settimeout(BOUND_S)
        yield near, far


@WHERE
def test_a_smaller_mtu_inside_the_servers_pod_is_discovered(lab, where):
    client, pod = client_and_server(lab, where)
    inner = nested(lab, pod, NARROW)
    with connected(client.name, inner, "172.20.0.2") as (near, far):
        assert arrives(near, far, LENGTH)
    assert pod.node.counts()["from_pod", "icmp_sent"] >= 1
    assert client.node.counts()["to_pod", "icmp_translated"] >= 1


@WHERE
def test_a_smaller_mtu_inside_the_clients_pod_is_discovered(lab, where):
    client, pod = client_and_server(lab, where)
    inner = nested(lab, client, NARROW)
    with connected(inner, pod.name, pod.address) as (near, far):
        assert arrives(far, near, LENGTH)
    assert client.node.counts()["from_pod", "icmp_sent"] >= 1
    assert pod.node.counts()["to_pod", "icmp_translated"] >= 1


@WHERE
def test_a_dial_that_the_servers_pod_rejects_fails_at_once(lab, where):
    client, pod = client_and_server(lab, where)
    nft(pod, "add table ip wall; add chain ip wall i { type filter hook input priority 0; };"
        "add rule ip wall i tcp dport 8080 reject")
    with server(pod):
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            Client(client, VIRTUAL, 80, timeout=BOUND_S)
    assert time.monotonic() - began < AT_ONCE_S
    assert pod.node.counts()["from_pod", "icmp_sent"] == 1
    assert client.node.counts()["to_pod", "icmp_translated"] == 1

"""docs/protocol.md, invariant 5: what a client feels of a server that is gone is a reset, at once, and never a time-out."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from support.lab import Lab, Pod, Role, sh
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, offloads_off, server

BOUND_S = 60
"""For what takes a retransmission; a time-out of TCP would be minutes."""


@pytest.fixture
def client(lab: Lab) -> Pod:
    return lab.add_pod(lab.nodes[0], "client", Role.CLIENT)


def serve(lab: Lab, *slices) -> None:
    for node in lab.nodes:
        node.tables.apply(slices)


def vanish(lab: Lab, pod: Pod, **states: str) -> None:
    """The pod goes without a word, and then its ports rest."""
    sh(f"ip -n {pod.node.name} link del v-{pod.short}")
    pod.node.tables.remove_pod(pod.address)
    serve(lab, pool_slice({"a": pod.address}, states={"a": "Resting"}, generation=2))


def write(connection: Client) -> None:
    connection.socket.sendall(b"hello\n")


def end(connection: Client) -> None:
    connection.socket.shutdown(socket.SHUT_WR)


def wait_for_keepalive(connection: Client) -> None:
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("act", [write, end, wait_for_keepalive])
def test_a_client_of_a_server_that_is_gone_is_reset_by_its_next_packet(lab: Lab, client: Pod, act: Callable[[Client], None], node: int):
    pod = lab.add_pod(lab.nodes[node], "a", Role.SERVER)
    with server(pod):
        serve(lab, pool_slice({"a": pod.address}))
        with Client(client, VIRTUAL, 80, timeout=BOUND_S) as connection:
            assert connection.ask()[0] == "a"
            vanish(lab, pod)
            act(connection)
            with pytest.raises(ConnectionResetError):
                connection.socket.recv(1)
    assert lab.nodes[0].counts()["from_pod", "client_server_gone"] == 1


@pytest.mark.parametrize("offloads", [True, False])
def test_a_transfer_to_a_server_that_vanishes_ends_with_a_reset(lab: Lab, client: Pod, offloads: bool):
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    if not offloads:
        offloads_off(client, pod)
    with server(pod):
        serve(lab, pool_slice({"a": pod.address}))
        with Client(client, VIRTUAL, 80, timeout=BOUND_S) as connection:
            connection.socket.sendall(b"x" * 300_000)
            vanish(lab, pod)
            with pytest.raises(ConnectionResetError):
                while True:
                    connection.socket.sendall(b"x" * 300_000)


def test_the_clients_of_other_servers_feel_nothing(lab: Lab, client: Pod):
    pods = [lab.add_pod(lab.nodes[1], name, Role.SERVER) for name in ("a", "b")]
    with server(pods[0]), server(pods[1]):
        serve(lab, pool_slice({pod.short: pod.address for pod in pods}))
        connections = [Client(client, VIRTUAL, 80) for _ in range(30)]
        owners = [connection.ask()[0] for connection in connections]
        assert set(owners) == {"a", "b"}
        serve(lab, pool_slice({pod.short: pod.address for pod in pods}, states={"a": "Resting"}, generation=2))
        for connection, owner in zip(connections, owners, strict=True):
            with connection:
                if owner == "b":
                    assert connection.get(100_000) == checksum(100_000)
                else:
                    with pytest.raises(ConnectionResetError):
                        connection.ask()

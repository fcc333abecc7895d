"""docs/protocol.md, "State of the ends", over the life of real connections: idle for long, kept alive, half closed, closed by both at once, reset."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from support.badwire import WITHOUT, Deed, Rule
from support.lab import inside
from support.slices import VIRTUAL
from support.traffic import Client, checksum, sockets
from wharfinger_dataplane import netlink
from wharfinger_dataplane._records import unpack_flow_key, wire_key_of
from wharfinger_dataplane.agent.flows import CLOSED_FLOWS, CLOSED_WIRES, FLOWS, Collector

T = TypeVar("T")
PORT = 8081
"""At which a test's own server listens, beside the stage's."""
HOUR_NS = 3600 * 10**9
BOUND_S = 30


@contextmanager
def pair(stage) -> Iterator[tuple[socket.socket, socket.socket]]:
    """An aware connection: the client's socket and the server's."""
    def connect() -> socket.socket:
        return socket.create_connection((VIRTUAL, 80), timeout=BOUND_S)

    stage.serve(target=PORT)
    try:
        with stage.pod.run(lambda: socket.create_server((stage.pod.address, PORT))) as listener:
            with stage.client.run(connect) as near:
                far, _ = listener.accept()
                with far:
                    far.settimeout(BOUND_S)
                    near.sendall(b"hello")
                    assert far.recv(5) == b"hello"
                    yield near, far
    finally:
        stage.serve()


class Diag:
    """The pods' namespaces as the agent's `Namespaces` opens them."""

    def __init__(self, *pods) -> None:
        self._pods = {pod.address: pod for pod in pods}

    def diag(self, address: str) -> socket.socket:
        return inside(self._pods[address].name, netlink.diag_socket)


def ends(stage, near: socket.socket) -> list[tuple]:
    """(node's map of flows, the key of this connection's) at the client's end and at the server's."""
    port, found = near.getsockname()[1], []
    for node in stage.lab.nodes:
        flows = node.bpf.maps[FLOWS]
        found += [(flows, key) for key, _ in flows.items() if port in unpack_flow_key(key)]
    assert len(found) == 2
    return found


def stacks(found: list[tuple]) -> tuple[netlink.Connection, ...]:
    """The connection of `ends` as the client's stack knows it, and as the server's does."""
    return tuple(unpack_flow_key(key)[:4] for _, key in found)


def present(found: list[tuple]) -> list[bool]:
    """At which ends the connection has its room among the established ones."""
    return [flows.get(key) is not None for flows, key in found]


def closed(stage, found: list[tuple]) -> list[bool]:
    """At which ends it is among the closed ones, with its wire."""
    out = []
    for node, (_, key) in zip(stage.lab.nodes, found, strict=True):
        flow = node.bpf.maps[CLOSED_FLOWS].get(key)
        out.append(flow is not None and node.bpf.maps[CLOSED_WIRES].get(wire_key_of(key, flow)) is not None)
    return out


def state(pod, connection: netlink.Connection) -> str:
    """What the pod's stack says of it; "" when it has no such socket."""
    local, local_port, peer, peer_port = connection
    return " ".join(line.split()[0] for line in sockets(pod, f"( src {local}:{local_port} and dst {peer}:{peer_port} )").splitlines())


def collect(stage, hours: int) -> list:
    """A pass of each node's collection as if `hours` had gone by."""
    return [Collector(node.tables._store, Diag(stage.client, stage.pod), lambda address: True, HOUR_NS).collect(time.monotonic_ns() + hours * HOUR_NS)
            for node in stage.lab.nodes]


def either_way(pair: tuple[T, T], side: str) -> tuple[T, T]:
    """Of the client's and the server's, that of `side` first."""
    return pair if side == "client" else pair[::-1]


def directions(stage, both: tuple[socket.socket, socket.socket], **what: object) -> tuple[Rule, Rule]:
    """Rules that lose what the client sends of this connection, and what the server sends."""
    client = f"{stage.client.address}:{both[0].getsockname()[1]}"
    return Rule(Deed.LOSE, src=client, **what), Rule(Deed.LOSE, dst=client, **what)


def exchange(one: socket.socket, other: socket.socket) -> None:
    for sender, reader in ((one, other), (other, one)):
        sender.sendall(b"x" * 50_000)
        read(reader, 50_000)


def read(reader: socket.socket, length: int) -> None:
    while length:
        chunk = reader.recv(length)
        assert chunk
        length -= len(chunk)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


sides = pytest.mark.parametrize("side", ["client", "server"])


@sides
def test_a_connection_that_was_idle_for_hours_is_used_from_either_side(stage, side):
    with pair(stage) as both:
        before = ends(stage, both[0])
        for done in collect(stage, hours=30):
            assert done.nominated >= 1
        assert ends(stage, both[0]) == before
        exchange(*either_way(both, side))


@sides
def test_a_connection_that_was_reset_gives_its_room_back_at_once(stage, side):
    with pair(stage) as both:
        one, other = either_way(both, side)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        found = ends(stage, both[0])
        one.close()
        with pytest.raises(ConnectionResetError):
            other.recv(1)
        other.close()
        assert (present(found), closed(stage, found)) == ([False, False], [True, True])


@sides
def test_keepalives_of_either_side_are_answered_and_disturb_nothing(stage, side):
    with pair(stage) as both:
        one, _ = either_way(both, side)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        stage.wire.obey(*either_way(directions(stage, both, flags="A", load=WITHOUT, percent=0), side))
        wait_for(lambda: stage.wire.seen(0) >= 4)  # two unanswered ones would have ended it
        assert stage.wire.seen(1) >= 3
        exchange(*both)


@sides
def test_a_half_closed_connection_carries_what_the_other_side_still_says(stage, side):
    with pair(stage) as both:
        one, other = either_way(both, side)
        one.shutdown(socket.SHUT_WR)
        assert other.recv(1) == b""
        for _ in range(4):
            other.sendall(b"x" * 50_000)
            read(one, 50_000)
        other.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""


@sides
def test_an_orderly_end_gives_the_room_back_at_both_ends_and_lets_the_stacks_finish(stage, side):
    """The end that closes first has FIN_WAIT and TIME_WAIT to go through, the other LAST_ACK."""
    with pair(stage) as both:
        found = ends(stage, both[0])
        one, other = either_way(both, side)
        (first, last), (pod, peer) = either_way(stacks(found), side), either_way((stage.client, stage.pod), side)
        one.shutdown(socket.SHUT_WR)
        assert other.recv(1) == b""
        wait_for(lambda: (state(pod, first), state(peer, last)) == ("FIN-WAIT-2", "CLOSE-WAIT"))
        collect(stage, hours=30)
        assert present(found) == [True, True]
        other.close()
        assert one.recv(1) == b""
        wait_for(lambda: (state(pod, first), state(peer, last)) == ("TIME-WAIT", ""))
        assert (present(found), closed(stage, found)) == ([False, False], [True, True])


def close_at_once(stage, both: tuple[socket.socket, socket.socket]) -> None:
    stage.wire.obey(*directions(stage, both, flags="FA"))  # neither sees the other's in time
    for each in both:
        each.shutdown(socket.SHUT_WR)
    for each in both:
        assert each.recv(1) == b""
    assert stage.wire.done(0) == stage.wire.done(1) == 1


def test_when_both_close_at_once_both_stacks_finish_though_the_room_is_given_back(stage):
    """Each FIN is lost once, and repeated by a connection that is closed already as far as the node is concerned."""
    with pair(stage) as both:
        found = ends(stage, both[0])
        near, far = stacks(found)
        close_at_once(stage, both)
        wait_for(lambda: state(stage.client, near) == state(stage.pod, far) == "TIME-WAIT")
        assert (present(found), closed(stage, found)) == ([False, False], [True, True])


@sides
def test_an_orderly_end_of_either_side_leaves_its_time_wait_in_peace(stage, side):
    """The same client port is used again while the stack that closed first still waits."""
    for _ in range(3):
        connection = Client(stage.client, VIRTUAL, 80, source_port=43_000, timeout=BOUND_S)
        assert connection.get(20_000) == checksum(20_000)
        if side == "server":
            connection.bye()
            continue
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.socket.recv(1) == b""
        connection.close()

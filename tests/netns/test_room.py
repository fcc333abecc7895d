"""Room in the tables of connections: what opens and what is closed takes none of the established ones'."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.badwire import Deed, Rule, bad_wire
from support.flood import compile_flood, flood, to_node
from support.lab import Lab, Node, Pod, Role
from support.packets import REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, offloads_off, server, sockets
from wharfinger_dataplane._records import SETTING_FULL
from wharfinger_dataplane.attach import Mode

BOUND_S = 20
SHORT = 1000
"""Connections that come and go, one after the other: several times the room of what is open or opens."""
ESTABLISHED, BOUNDED, CLOSED = 64, 256, 2 * SHORT
"""Those that are closed have room for all. A FIN may need its record again: Linux drops the peer's when it comes
while close() makes a socket one of TIME_WAIT, and it comes again after a fifth of a second."""
CAPACITY = {"flows": ESTABLISHED, "wires": ESTABLISHED, "opening_flows": BOUNDED, "opening_wires": BOUNDED,
            "closed_flows": CLOSED, "closed_wires": CLOSED}
FULL = {"table_full", "client_no_room", "server_no_room", "server_full"}


@pytest.fixture(params=[8080, 80], ids=["target is another port", "target is the port dialled"])
def target(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=[Mode.TCX, Mode.CLSACT], ids=str)
def small(pins: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Nodes whose tables have little room."""
    with closing(Lab(pins, mode=request.param)) as lab:
        lab.add_node(capacity=CAPACITY)
        lab.add_node(capacity=CAPACITY)
        yield lab


def pair(lab: Lab, target: int) -> tuple[Pod, Pod]:
    """A client and a server across the wire."""
    client = lab.add_pod(lab.nodes[0], "client", Role.CLIENT)
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address}, target=target)])
    proxy(lab.nodes[0], pod, target)
    return client, pod


def proxy(node: Node, pod: Pod, target: int) -> None:
    """What kube-proxy does for the unaware."""
    rules = ("add table ip proxy; add chain ip proxy p { type nat hook prerouting priority dstnat; };"
             f"add rule ip proxy p ip daddr {VIRTUAL} tcp dport 80 dnat to {pod.address}:{target}")
    subprocess.run(["nsenter", f"--net=/run/netns/{node.name}", "nft", rules], check=True)


def sizes(node: Node) -> dict[str, int]:
    return {table: len(node.bpf.maps[table].items()) for table in CAPACITY}


def fill(node: Node) -> None:
    """Takes all the room that there is, with flows and wires of a pod that is none of the lab's."""
    for table in ("flows", "wires"):
        entries = node.bpf.maps[table]
        for number in range(ESTABLISHED - len(entries.items())):
            entries.put(struct.pack("=IIIHH", 1, number + 1, 2, 3, 4), bytes(entries.value_size))
        assert len(entries.items()) == ESTABLISHED


def test_a_flood_takes_no_established_connection_though_the_table_is_full(small, target, tmp_path):
    """One connection was there before the table was full; one came after and lives among the closed ones."""
    client, pod = pair(small, target)
    outside, program = small.add_outside(), compile_flood(tmp_path)
    with server(pod, target), Client(client, VIRTUAL, 80, timeout=BOUND_S) as old:
        old.ask()
        fill(small.nodes[1])
        with Client(client, VIRTUAL, 80, timeout=BOUND_S) as late:
            late.ask()
            assert small.nodes[1].counts()["to_pod", "server_no_room"] == 1
            for port, options in ((20_001, b""), (80, option(REDIRECT, scope=7))):
                syn = tcp("100.64.0.1:1024", f"{pod.address}:{port}", "S", options=options)
                flood(program, outside, to_node(syn, small.nodes[1], "uplink"), 3000, 3000)
            assert sizes(small.nodes[1])["opening_flows"] <= BOUNDED
            for each in (old, late):
                assert each.get(100_000) == checksum(100_000)
                assert each.put(100_000) == checksum(100_000)


def test_an_established_connection_that_is_silent_is_not_forgotten_for_a_flood(small, target, tmp_path):
    """Its server speaks first when the flood is over, so that no packet of its client's rebuilds anything."""
    client, pod = pair(small, target)
    outside, program = small.add_outside(), compile_flood(tmp_path)
    def dial() -> socket.socket:
        return socket.create_connection((VIRTUAL, 80), timeout=BOUND_S)

    with ExitStack() as stack:
        listener = stack.enter_context(pod.run(lambda: socket.create_server((pod.address, target))))
        near = stack.enter_context(client.run(dial))
        far = stack.enter_context(listener.accept()[0])
        for sender, reader in ((near, far), (far, near)):
            sender.sendall(b"hello")
            assert reader.recv(5) == b"hello"
        for node, to in ((small.nodes[1], pod), (small.nodes[0], client)):
            for port in (20_001, near.getsockname()[1]):
                syn = tcp("100.64.0.1:1024", f"{to.address}:{port}", "S", options=option(REDIRECT, scope=7))
                flood(program, outside, to_node(syn, node, "uplink"), 1000, 1000)
        assert [sizes(node)["flows"] for node in small.nodes] == [1, 1]
        for sender, reader in ((far, near), (near, far)):
            sender.sendall(b"again")
            assert reader.recv(5) == b"again"


@pytest.mark.parametrize("closer", ["client", "server", "client's reset"])
def test_short_connections_leave_no_record_among_the_established_and_few_elsewhere(small, target, closer):
    client, pod = pair(small, target)
    with server(pod, target), Client(client, VIRTUAL, 80, timeout=BOUND_S) as lasting:
        lasting.ask()
        for _ in range(SHORT):
            connection = Client(client, VIRTUAL, 80, timeout=BOUND_S)
            if closer == "server":
                connection.bye()
            elif closer == "client":
                connection.ask()
                connection.socket.shutdown(socket.SHUT_WR)
                assert connection.socket.recv(1) == b""
                connection.close()
            else:
                connection.ask()
                connection.reset()
        until(lambda: [sizes(node)["flows"] for node in small.nodes] == [1, 1])
        for node in small.nodes:
            found = sizes(node)
            assert found.pop("flows") == found.pop("wires") == 1
            assert max(found["opening_flows"], found["opening_wires"]) <= BOUNDED
            assert max(found["closed_flows"], found["closed_wires"]) <= SHORT
            assert not {reason for _, reason in node.counts()} & FULL
        assert lasting.get(100_000) == checksum(100_000)
    assert small.nodes[1].counts()["to_pod", "server_joined"] == SHORT + 1


def test_a_server_that_is_nearly_full_has_new_connections_go_unaware_and_a_silent_one_lives(small, target):
    """However many come and go, and though the server speaks first afterwards."""
    client, pod = pair(small, target)
    with ExitStack() as stack:
        listener = stack.enter_context(pod.run(lambda: socket.create_server((pod.address, target))))

        def dial() -> tuple[socket.socket, socket.socket]:
            near = client.run(lambda: socket.create_connection((VIRTUAL, 80), timeout=BOUND_S))
            far = listener.accept()[0]
            near.sendall(b"hello")
            assert far.recv(5) == b"hello"
            return near, far

        near, far = map(stack.enter_context, dial())
        small.nodes[1].tables._store.set(SETTING_FULL, 1)  # as the agent does when it has seen that
        for end in dial():
            end.close()
        assert small.nodes[1].counts()["to_pod", "server_full"] == 2
        assert sizes(small.nodes[1])["flows"] == 1
        far.sendall(b"again")
        assert near.recv(5) == b"again"


def cork(made: socket.socket) -> socket.socket:
    """What it sends goes out when it is shut down, with the FIN."""
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    made.settimeout(BOUND_S)
    made.connect((VIRTUAL, 80))
    made.send(b"hello", socket.MSG_MORE)
    made.shutdown(socket.SHUT_WR)
    return made


@pytest.mark.parametrize("defers", [False, True], ids=["", "the listener defers"])
def test_a_connection_whose_first_packet_is_its_last_leaves_no_record(small, target, defers):
    client, pod = pair(small, target)
    offloads_off(client, pod)

    def listen() -> socket.socket:
        made = socket.create_server((pod.address, target))
        made.settimeout(BOUND_S)
        if defers:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        return made

    with pod.run(listen) as listener:
        for _ in range(10):
            with client.run(lambda: cork(socket.socket())) as near, listener.accept()[0] as far:
                assert (far.recv(5), far.recv(5)) == (b"hello", b"")
                far.sendall(b"world")
                far.shutdown(socket.SHUT_WR)
                assert (near.recv(5), near.recv(5)) == (b"world", b"")
        until(lambda: [sizes(node)[table] for node in small.nodes for table in ("flows", "wires")] == [0] * 4)


def test_a_probe_whose_step_3_is_lost_leaves_no_record(small, target, tmp_path):
    """It connects and closes, as health checks do, so that its FIN is the first that arrives."""
    client, pod = pair(small, target)
    with bad_wire(small, tmp_path) as wire, server(pod, target):
        for _ in range(5):
            wire.obey(Rule(Deed.LOSE, src=client.address, flags="A", load=1, count=1))
            Client(client, VIRTUAL, 80).close()
            assert wire.done() == 1
        until(lambda: [sizes(node)[table] for node in small.nodes for table in ("flows", "wires")] == [0] * 4)


def waiting(pod: Pod) -> int:
    """How many of the pod's connections have ended on its side alone."""
    return len(sockets(pod, "state", "fin-wait-2").splitlines())


@pytest.mark.parametrize("ends", ["with a FIN", "with a reset"])
@pytest.mark.parametrize("first", ["client", "server"])
def test_a_connection_leaves_no_record_though_its_ends_close_far_apart(small, target, first, ends):
    """By then the first end's stack keeps no whole socket of it."""
    client, pod = pair(small, target)
    def dial() -> socket.socket:
        return socket.create_connection((VIRTUAL, 80), timeout=BOUND_S)

    with ExitStack() as stack:
        listener = stack.enter_context(pod.run(lambda: socket.create_server((pod.address, target))))
        nears, fars = [], []
        for _ in range(20):
            nears.append(stack.enter_context(client.run(dial)))
            fars.append(stack.enter_context(listener.accept()[0]))
        firsts, others, where = (nears, fars, client) if first == "client" else (fars, nears, pod)
        for each in firsts:
            each.close()
        until(lambda: waiting(where) == len(firsts))
        assert [sizes(node)["flows"] for node in small.nodes] == [20, 20]
        for each in others:
            if ends == "with a reset":
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        until(lambda: [sizes(node)[table] for node in small.nodes for table in ("flows", "wires")] == [0] * 4)


def until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.02)

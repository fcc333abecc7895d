"""docs/protocol.md, "State of the ends": a record of the server's end that is lost is rebuilt as what it was."""

from __future__ import annotations

import time

import pytest
from support.badwire import ALWAYS, Deed, Rule, bad_wire
from support.lab import Lab, Node, Pod, Role
from support.layouts import judged, judging
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, offloads_off, server, stream

Y, PORT = 20_001, 41_001
BOUND_S = 8


@pytest.fixture
def client(lab: Lab) -> Pod:
    return lab.add_pod(lab.nodes[0], "client", Role.CLIENT)


def add_server(lab: Lab, node: Node, *others: Pod) -> Pod:
    """The one server of a pool, at `node`; real segments and whole checksums, here and at the others."""
    pod = lab.add_pod(node, "a", Role.SERVER)
    offloads_off(pod, *others)
    for each in lab.nodes:
        each.tables.apply([pool_slice({"a": pod.address})])
    return pod


def forget(node: Node) -> None:
    """As if the node had forgotten its connections."""
    for table in ("flows", "wires"):
        for key, _ in node.bpf.maps[table].items():
            node.bpf.maps[table].delete(key)


def test_p09_a_lost_record_of_a_connection_that_has_a_substitute_is_rebuilt_there(lab, client):
    """A direct connection has its place."""
    pod = add_server(lab, lab.nodes[1], client)
    with server(pod), Client(client, pod.address, 8080, source_port=PORT) as direct, \
            Client(client, VIRTUAL, 80, source_port=PORT, timeout=BOUND_S) as aware:
        assert (direct.ask()[0], aware.ask()[0]) == ("a", "a")
        forget(lab.nodes[1])
        for each in (aware, direct, aware):
            each.socket.settimeout(BOUND_S)
            assert each.ask()[0] == "a"
            assert each.get(100_000) == checksum(100_000)


def test_p09_a_lost_record_of_a_connection_that_takes_the_stack_is_rebuilt_so(lab, client):
    pod = add_server(lab, lab.nodes[0], client)
    judging(lab.nodes[0])
    with server(pod), Client(client, pod.address, Y, source_port=PORT, timeout=BOUND_S) as connection:
        connection.socket.settimeout(BOUND_S)
        assert connection.get(200_000) == checksum(200_000)
        forget(lab.nodes[0])
        for _ in range(3):
            assert connection.get(200_000) == checksum(200_000)
            assert connection.put(200_000) == checksum(200_000)
    assert judged(lab.nodes[0]) == 0


def test_p09_a_lost_record_is_rebuilt_by_what_the_client_repeats(lab, client, tmp_path):
    """The server has all of it and its acknowledgements are lost; the client repeats the first segment."""
    pod = add_server(lab, lab.nodes[1], client)
    with server(pod), bad_wire(lab, tmp_path) as wire, Client(client, VIRTUAL, 80, source_port=PORT) as connection:
        connection.socket.settimeout(BOUND_S)
        assert connection.ask()[0] == "a"
        wire.obey(Rule(Deed.LOSE, src=pod.address, count=ALWAYS))
        whole = b"".join(stream(20_000))
        connection.socket.sendall(b"put 20000\n" + whole[:10_000])
        time.sleep(1)  # the probe of the last segment is over, and repeating has begun
        forget(lab.nodes[1])
        wire.obey()
        connection.socket.sendall(whole[10_000:])
        assert connection._read.readline().decode().strip() == checksum(20_000)
        assert connection.ask()[0] == "a"

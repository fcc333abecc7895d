"""docs/protocol.md, "State of the ends": no two connections may share what a stack sees. One client port, several ways to one server."""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.lab import Lab, Pod, Role, fall_back, inside, sh
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, fast_opened, offloads_off, server, sockets

TWIN = "10.96.0.11"
PORTS = range(41_000, 41_060)
BOUND_S, AT_ONCE_S = 8, 0.9
"""AT_ONCE_S: before a SYN comes again."""


@pytest.fixture
def client(lab: Lab) -> Pod:
    return lab.add_pod(lab.nodes[0], "client", Role.CLIENT)


@pytest.fixture
def pod(lab: Lab):
    """The server."""
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    with server(pod):
        yield pod


def serve(lab: Lab, *slices) -> None:
    for node in lab.nodes:
        node.tables.apply(slices)


def ask_at_once(pod: Pod, address: str, port: int, source: int) -> str:
    """The server's name, from a connection that must come up by its first SYN."""
    with Client(pod, address, port, source_port=source, timeout=AT_ONCE_S) as connection:
        return connection.ask()[0]


def test_ports_in_time_wait_at_the_server_do_not_delay_a_connection(lab, client, pod):
    serve(lab, pool_slice({"a": pod.address}))
    for port in PORTS:
        connection = Client(client, pod.address, 8080, source_port=port)
        connection.bye()
    # Rarely one is missing: an ACK that comes when the client's socket is gone is reset, which ends TIME_WAIT (RFC 1337).
    deadline = time.monotonic() + 5
    while (waiting := sockets(pod).count("TIME-WAIT")) < len(PORTS) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert waiting > 0.9 * len(PORTS)
    assert {ask_at_once(client, VIRTUAL, 80, port) for port in PORTS} == {"a"}
    assert lab.nodes[1].counts()["to_pod", "server_joined"] == len(PORTS)


def test_one_client_port_to_two_virtual_addresses_of_one_server_is_two_connections(lab, client, pod):
    serve(lab, pool_slice({"a": pod.address}),
          pool_slice({"a": pod.address}, virtual=[TWIN], redirect=[81], scope=9, name="twin", ports={"a": [20_009]}))
    with Client(client, VIRTUAL, 80, source_port=41_000) as first, Client(client, TWIN, 81, source_port=41_000, timeout=AT_ONCE_S) as second:
        assert first.ask()[1] == f"{client.address}:41000"
        assert second.ask()[1] != f"{client.address}:41000"
        assert [each.get(2_000_000) for each in (first, second, first)] == [checksum(2_000_000)] * 3
        assert second.socket.getpeername() == (TWIN, 81)
    assert lab.nodes[1].counts()["to_pod", "server_joined"] == 2


def test_a_server_in_two_pools_with_the_same_redirect_port_serves_both(lab, client, pod):
    serve(lab, pool_slice({"a": pod.address}), pool_slice({"a": pod.address}, virtual=[TWIN], scope=9, name="twin", ports={"a": [20_009]}))
    with Client(client, VIRTUAL, 80) as first, Client(client, TWIN, 80) as second:
        assert (first.ask()[0], second.ask()[0]) == ("a", "a")
        assert [each.get(2_000_000) for each in (first, second, first)] == [checksum(2_000_000)] * 3
    assert lab.nodes[0].counts()["to_pod", "client_redirected"] == 2


def test_one_client_port_to_one_redirect_port_of_two_pools_of_a_server_is_two_connections(lab, client, pod):
    serve(lab, pool_slice({"a": pod.address}), pool_slice({"a": pod.address}, virtual=[TWIN], scope=9, name="twin", ports={"a": [20_009]}))
    fall_back(lab.nodes[0], TWIN, pod)
    with Client(client, VIRTUAL, 80, source_port=41_000) as first, Client(client, TWIN, 80, source_port=41_000, timeout=AT_ONCE_S) as second:
        assert (first.ask()[0], second.ask()[0]) == ("a", "a")
        assert [each.get(2_000_000) for each in (first, second, first)] == [checksum(2_000_000)] * 3
    assert lab.nodes[0].counts()["to_pod", "client_redirected"] == 2


def test_a_direct_dial_from_the_port_of_an_aware_connection_is_a_connection_of_its_own(lab, client, pod):
    serve(lab, pool_slice({"a": pod.address}))
    with Client(client, VIRTUAL, 80, source_port=41_000) as aware, Client(client, pod.address, 8080, source_port=41_000, timeout=AT_ONCE_S) as direct:
        assert [each.get(2_000_000) for each in (aware, direct, aware)] == [checksum(2_000_000)] * 3
        direct.bye()
        assert aware.get(2_000_000) == checksum(2_000_000)


def test_an_aware_dial_from_the_port_of_a_direct_connection_is_a_connection_of_its_own(lab, client, pod):
    serve(lab, pool_slice({"a": pod.address}))
    with Client(client, pod.address, 8080, source_port=41_000) as direct, Client(client, VIRTUAL, 80, source_port=41_000, timeout=AT_ONCE_S) as aware:
        assert [each.get(2_000_000) for each in (aware, direct, aware)] == [checksum(2_000_000)] * 3
        aware.bye()
        assert direct.get(2_000_000) == checksum(2_000_000)


@pytest.mark.parametrize("closer", ["client", "server"])
def test_a_client_port_is_used_again_at_once(lab, client, pod, closer):
    serve(lab, pool_slice({"a": pod.address}))
    for _ in range(20):
        connection = Client(client, VIRTUAL, 80, source_port=41_000, timeout=AT_ONCE_S)
        assert connection.ask()[0] == "a"
        if closer == "server":
            connection.bye()
        else:
            connection.reset()


def test_direct_and_aware_connections_take_turns_on_one_port(lab, client, pod):
    serve(lab, pool_slice({"a": pod.address}))
    for _ in range(10):
        for address, port in ((VIRTUAL, 80), (pod.address, 8080)):
            connection = Client(client, address, port, source_port=41_000, timeout=AT_ONCE_S)
            assert connection.get(100_000) == checksum(100_000)
            connection.bye()


def test_a_pod_calls_its_own_service_unaware(lab):
    both = lab.add_pod(lab.nodes[0], "both", Role.CLIENT | Role.SERVER)
    serve(lab, pool_slice({"both": both.address}))
    fall_back(lab.nodes[0], VIRTUAL, both)
    sh(f"ip -n {lab.nodes[0].name} link set v-both type bridge_slave hairpin on")
    with server(both), Client(both, VIRTUAL, 80) as connection:
        assert connection.ask()[0] == "both"
    assert lab.nodes[0].counts()["from_pod", "own_server"] > 0


def test_a_server_that_is_a_client_of_another_pool_does_both(lab, client, pod):
    middle = lab.add_pod(lab.nodes[0], "middle", Role.CLIENT | Role.SERVER)
    serve(lab, pool_slice({"middle": middle.address}), pool_slice({"a": pod.address}, virtual=[TWIN], scope=9, name="twin", ports={"a": [20_009]}))
    with server(middle), Client(client, VIRTUAL, 80) as front, Client(middle, TWIN, 80) as back:
        assert (front.ask()[0], back.ask()[0]) == ("middle", "a")
        assert [each.get(2_000_000) for each in (front, back, front)] == [checksum(2_000_000)] * 3
    assert lab.nodes[0].counts()["to_pod", "client_redirected"] == 2


def test_a_server_may_dial_from_a_port_that_is_one_of_its_service_ports(lab, pod):
    middle = lab.add_pod(lab.nodes[1], "middle", Role.CLIENT | Role.SERVER)
    serve(lab, pool_slice({"middle": middle.address}), pool_slice({"a": pod.address}, virtual=[TWIN], scope=9, name="twin", ports={"a": [20_009]}))
    fall_back(lab.nodes[1], TWIN, pod)
    with server(middle):
        for address, port in ((TWIN, 80), (pod.address, 8080)):
            with Client(middle, address, port, source_port=20_001) as connection:
                assert connection.get(2_000_000) == checksum(2_000_000)


def reached(pod: Pod, client: Pod, where: tuple[str, int], *ports: int) -> int:
    """At which of the server's ports, where applications listen, a dial arrives."""
    with ExitStack() as stack:
        listeners = {stack.enter_context(pod.run(lambda port=port: socket.create_server((pod.address, port)))): port for port in ports}
        stack.enter_context(client.run(lambda: socket.create_connection(where, timeout=5)))
        (ready,) = select.select(listeners, [], [], 5)[0]
        ready.accept()[0].close()
        return listeners[ready]


def test_a_redirect_port_that_is_another_pools_service_port_leads_to_its_own_target(lab, client):
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    serve(lab, pool_slice({"a": pod.address}, redirect=[20_009]),
          pool_slice({"a": pod.address}, virtual=[TWIN], scope=9, name="twin", ports={"a": [20_009]}, target=8081))
    assert reached(pod, client, (VIRTUAL, 20_009), 8080, 8081) == 8080
    assert reached(pod, client, (TWIN, 20_009), 8080, 8081) == 8081
    assert reached(pod, client, (pod.address, 20_009), 8080, 8081) == 8081


def test_what_listens_at_the_number_of_a_service_port_is_reached_there_by_who_is_unaware(lab, client):
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    serve(lab, pool_slice({"a": pod.address}))
    assert reached(pod, client, (pod.address, 20_001), 8080) == 8080
    assert reached(pod, client, (pod.address, 20_001), 8080, 20_001) == 20_001
    assert reached(pod, client, (VIRTUAL, 20_001), 8080, 20_001) == 8080
    assert reached(pod, client, (VIRTUAL, 80), 8080, 20_001) == 8080


@pytest.mark.parametrize("where", ["service port", "target port, whose place an aware connection has", "virtual address, whose place is closing"])
def test_a_fast_open_is_answered_at_once(lab, where):
    client, pod = lab.add_pod(lab.nodes[0], "client", Role.CLIENT), lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    offloads_off(client, pod)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address})])
    fall_back(lab.nodes[0], VIRTUAL, pod)
    for each in (client, pod):
        inside(each.name, lambda: Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1027"))

    def dial(address: str, port: int, source: int) -> bytes:
        with socket.socket() as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", BOUND_S, 0))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((client.address, source))
            made.sendto(b"hello\n", socket.MSG_FASTOPEN, (address, port))
            return made.recv(1000)

    with server(pod), ExitStack() as stack:
        to = {"service port": (pod.address, 20_001), "virtual address, whose place is closing": (VIRTUAL, 80)}.get(where, (pod.address, 8080))
        assert client.run(lambda: dial(*to, PORTS[1])).startswith(b"a ")  # gives the cookie
        if where != "service port":
            aware = stack.enter_context(Client(client, VIRTUAL, 80, source_port=PORTS[0]))
            assert aware.ask()[0] == "a"
            if to == (VIRTUAL, 80):
                aware.bye()
        opened, began = fast_opened(pod), time.monotonic()
        assert client.run(lambda: dial(*to, PORTS[0])).startswith(b"a ")
        assert fast_opened(pod) - opened == 1
        assert time.monotonic() - began < AT_ONCE_S

"""Blind packets of a stranger's, who guesses no sequence number, end, delay and redirect nobody's connection, whatever they claim."""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.badwire import ALWAYS, WITH, WITHOUT, Deed, Rule, bad_wire
from support.flood import to_node
from support.lab import Lab, Node, Pod, Role, inside
from support.packets import REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, offloads_off, server, sockets
from support.wire import send

OTHER_VIRTUAL, OTHER_Y = "10.96.0.12", 20_009
Y, PORT = 20_001, 41_001
BOUND_S = 8


@pytest.fixture
def client(lab: Lab) -> Pod:
    return lab.add_pod(lab.nodes[0], "client", Role.CLIENT)


@pytest.fixture
def pod(lab: Lab, client: Pod) -> Pod:
    """The server, which another pool has as well."""
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address}),
                           pool_slice({"a": pod.address}, virtual=[OTHER_VIRTUAL], scope=9, name="other", ports={"a": [OTHER_Y]})])
    return pod


@pytest.fixture
def stranger(lab: Lab):
    """Sends a frame to a node from the wire."""
    outside = lab.add_outside()

    def sends(node: Node, frame: bytes) -> None:
        send(outside, [to_node(frame, node, "uplink")])
        time.sleep(0.2)

    return sends


def listen(stack: ExitStack, pod: Pod) -> socket.socket:
    listener = stack.enter_context(pod.run(lambda: socket.create_server((pod.address, 8080))))
    listener.settimeout(BOUND_S)
    return listener


def dial(stack: ExitStack, client: Pod, where: tuple[str, int], port: int = PORT) -> socket.socket:
    return stack.enter_context(client.run(lambda: socket.create_connection(where, timeout=BOUND_S, source_address=(client.address, port))))


def converse(stack: ExitStack, near: socket.socket, listener: socket.socket) -> socket.socket:
    """Both directions carry; the server's end."""
    near.sendall(b"hello")
    far = stack.enter_context(listener.accept()[0])
    far.settimeout(BOUND_S)
    assert far.recv(5) == b"hello"
    far.sendall(b"world")
    assert near.recv(5) == b"world"
    return far


@pytest.mark.parametrize("cookies", ["1", "2"])
@pytest.mark.parametrize("kind", ["direct", "aware"])
def test_a_syn_during_a_handshake_ends_nothing(lab, client, pod, stranger, tmp_path, cookies, kind):
    """Step 3 is lost, and the stranger comes before the next packet."""
    inside(pod.name, lambda: Path("/proc/sys/net/ipv4/tcp_syncookies").write_text(cookies))
    where, port = ((pod.address, 8080), 8080) if kind == "direct" else ((VIRTUAL, 80), 20_001)
    with bad_wire(lab, tmp_path) as wire, ExitStack() as stack:
        listener = listen(stack, pod)
        wire.obey(Rule(Deed.LOSE, src=client.address, dst=f"{pod.address}:{port}", flags="A", load=1, count=1))
        near = dial(stack, client, where)
        assert wire.done() == 1
        stranger(lab.nodes[1], tcp(f"{client.address}:{PORT}", f"{pod.address}:{port}", "S", seq=77))
        converse(stack, near, listener)


def test_a_packet_to_another_service_port_during_a_handshake_ends_nothing(lab, client, pod, stranger, tmp_path):
    with bad_wire(lab, tmp_path) as wire, ExitStack() as stack:
        listener = listen(stack, pod)
        wire.obey(Rule(Deed.LOSE, src=client.address, dst=f"{pod.address}:20001", flags="A", load=1, count=1))
        near = dial(stack, client, (VIRTUAL, 80))
        stranger(lab.nodes[1], tcp(f"{client.address}:{PORT}", f"{pod.address}:{OTHER_Y}", "A", seq=77, ack=5))
        time.sleep(2.5)  # the SYN+ACK is repeated
        converse(stack, near, listener)


def test_an_aware_syn_keeps_no_later_reset_from_the_client(lab, client, pod, stranger, tmp_path):
    """The server has closed and its RST is lost; the client's next packet is answered with another."""
    with bad_wire(lab, tmp_path) as wire, ExitStack() as stack:
        listener = listen(stack, pod)
        near = dial(stack, client, (VIRTUAL, 80))
        far = converse(stack, near, listener)
        stranger(lab.nodes[1], tcp(f"{client.address}:{PORT}", f"{pod.address}:80", "S", seq=77, options=option(REDIRECT, scope=7)))
        wire.obey(Rule(Deed.LOSE, src=pod.address, flags="RA", count=1))
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        time.sleep(0.2)
        assert wire.done() == 1
        near.sendall(b"more")
        with pytest.raises(ConnectionResetError):
            near.recv(1)


@pytest.fixture
def both(lab: Lab, client: Pod, pod: Pod) -> Pod:
    """A client that is a server as well."""
    both = lab.add_pod(lab.nodes[0], "both", Role.CLIENT | Role.SERVER)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address}, generation=2),
                           pool_slice({"both": both.address}, virtual=["10.96.0.13"], scope=10, name="third", ports={"both": [20_017]})])
    return both


@pytest.mark.parametrize("beside", ["alone", "with a direct dial from the same port"])
def test_a_syn_to_the_port_of_a_client_that_is_a_server_too_ends_nothing(lab, both, pod, stranger, beside):
    with ExitStack() as stack:
        for port in (8080, 80):
            stack.enter_context(server(pod, port))
        one = stack.enter_context(Client(both, VIRTUAL, 80, source_port=PORT))
        one.ask()
        one.ask()
        if beside != "alone":
            stack.enter_context(Client(both, pod.address, 80, source_port=PORT)).ask()
        for source in (f"{pod.address}:20001", f"{VIRTUAL}:80"):
            stranger(lab.nodes[0], tcp(source, f"{both.address}:{PORT}", "S", seq=77))
        assert one.ask("again")[2] == "again"
        one.bye()


def test_a_syn_while_a_client_that_is_a_server_too_dials_delays_nothing(lab, both, pod, stranger, tmp_path):
    """Its first SYN is lost."""
    def begin() -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.bind((both.address, PORT))
        made.connect_ex((VIRTUAL, 80))
        return made

    with ExitStack() as stack, bad_wire(lab, tmp_path) as wire:
        stack.enter_context(server(pod))
        wire.obey(Rule(Deed.LOSE, src=both.address, flags="S", count=1))
        began = time.monotonic()
        near = stack.enter_context(both.run(begin))
        for source in (f"{pod.address}:80", f"{pod.address}:20001"):  # from VIRTUAL it would be TCP's simultaneous open
            stranger(lab.nodes[0], tcp(source, f"{both.address}:{PORT}", "S", seq=77))
        assert select.select([], [near], [], BOUND_S)[1]
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert time.monotonic() - began < 2


def test_a_packet_takes_no_direct_connection_where_the_pods_namespace_is_not_known(lab, client, pod, stranger):
    pod.node.tables.put_pod(pod.address, pod.ifindex, Role.SERVER, -1)
    with server(pod), Client(client, pod.address, 8080, source_port=PORT) as connection:
        connection.ask()
        stranger(lab.nodes[1], tcp(f"{client.address}:{PORT}", f"{pod.address}:20001", "A", seq=77, ack=5))
        assert connection.ask("again")[2] == "again"


@pytest.mark.parametrize("to", ["service port", "redirect port"])
def test_a_blind_syn_ends_no_connection_whose_last_data_is_on_its_way(lab, client, pod, stranger, tmp_path, to):
    """The client has closed its half; of what the server sends before its own end, and of that, some is lost at first."""
    offloads_off(client, pod)
    port, options = (Y, b"") if to == "service port" else (80, option(REDIRECT, scope=7))
    blind = tcp(f"{client.address}:{PORT}", f"{pod.address}:{port}", "S", seq=77, options=options)
    with server(pod), bad_wire(lab, tmp_path) as wire, Client(client, VIRTUAL, 80, source_port=PORT) as connection:
        assert connection.ask()[0] == "a"
        wire.obey(Rule(Deed.LOSE, src=pod.address, load=WITH, first=3, count=ALWAYS))
        connection.socket.sendall(b"get 8000\n")
        connection.socket.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + BOUND_S
        while "LAST-ACK" not in sockets(pod) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "LAST-ACK" in sockets(pod)
        stranger(lab.nodes[1], blind)
        wire.obey()
        connection.socket.settimeout(BOUND_S)
        left = 8000
        while left and (chunk := connection.socket.recv(left)):
            left -= len(chunk)
        assert not left


@pytest.mark.parametrize(("speaker", "then"), [("client", "another SYN"), ("server", "another SYN"), ("server", "an ACK")])
def test_two_blind_packets_around_a_handshake_end_nothing(lab, client, pod, stranger, tmp_path, then, speaker):
    """One before the client's SYN, one before its step 3, which is lost once so that there is time."""
    here, there = f"{client.address}:{PORT}", f"{pod.address}:{Y}"

    with ExitStack() as stack, bad_wire(lab, tmp_path) as wire:
        listener = listen(stack, pod)
        stranger(lab.nodes[1], tcp(here, f"{pod.address}:80", "S", seq=77, options=option(REDIRECT, scope=7)))
        assert "SYN-RECV" not in sockets(pod)  # the client's node has refused it
        wire.obey(Rule(Deed.LOSE, src=client.address, dst=there, flags="A", load=WITHOUT, count=1))
        near = dial(stack, client, (VIRTUAL, 80))
        assert wire.done() == 1
        stranger(lab.nodes[1], tcp(here, there, "S", seq=99) if then == "another SYN" else tcp(here, there, "A", seq=99, ack=5))
        if speaker == "server":
            time.sleep(2.5)  # the SYN+ACK is repeated
        converse(stack, near, listener)

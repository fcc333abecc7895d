"""Packets that a stranger sends in the name of either end of a live connection, with numbers that its stack does not expect."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import pytest
from support.flood import link_address, to_node
from support.lab import Lab, Node, Pod, Role
from support.packets import CONFIRM, PORT, REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, server, sockets
from support.wire import numbers, send
from wharfinger_dataplane import _bpf
from wharfinger_dataplane._records import COMPARABLE, EventKind, unpack_event

WILD = [(n << 30) + 77 for n in range(4)]  # three of them are far from any window
NAMES = [option(REDIRECT, scope=7), option(REDIRECT | PORT, 20_002), option(CONFIRM | PORT, 20_002), option(REDIRECT | CONFIRM | PORT, 20_002)]


@pytest.fixture
def client(lab: Lab) -> Pod:
    return lab.add_pod(lab.nodes[0], "client", Role.CLIENT)


@pytest.fixture
def pod(lab: Lab) -> Iterator[Pod]:
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address})])
    with server(pod):
        yield pod


def flows(lab: Lab) -> list[dict[bytes, bytes]]:
    """The tables of connections, times aside."""
    return [{key: value[:COMPARABLE] for key, value in node.bpf.maps["flows"].items()} for node in lab.nodes]


def told(lab: Lab, rings: list[_bpf.Ring]) -> list[EventKind]:
    return [unpack_event(record).kind for ring in rings for record in ring.drain()]


def until(so: Callable[[], bool]) -> None:
    """Frames of a raw socket arrive when the kernel has time for them."""
    deadline = time.monotonic() + 30
    while not so():
        assert time.monotonic() < deadline, "what was sent has not arrived"
        time.sleep(0.02)


def spoofs(src: str, dst: str, flags: str) -> list[bytes]:
    """One kind of packet, with every pair of wild numbers, bare and with options of ours where they may ride."""
    options = [b"", *NAMES] if flags in ("S", "SA", "A") else [b""]
    payload = b"x" * 10 if flags == "PA" else b""
    return [tcp(src, dst, flags, seq=seq, ack=ack, options=each, payload=payload) for seq in WILD for ack in WILD for each in options]


def taken_for(number: int, port: int, flags: str) -> Counter[str]:
    """As what the hook of the pod on that node counts each packet of `spoofs` that has the server's `port`, by reason."""
    every, scoped = len(WILD) ** 2 * (len(NAMES) + 1 if flags in ("S", "SA", "A") else 1), len(WILD) ** 2
    if number == 0 and port == 20_001:  # a question to move among them, in a pool that does not
        asks = 2 * scoped if flags == "A" else 0
        return Counter(client_receives=every - asks, client_stays=asks)
    if number == 0:  # a SYN+ACK that names a port is a translator's, and this one's port is nobody's
        named = 2 * scoped if flags == "SA" else 0
        return Counter(client_unsure=named, not_ours=every - named)
    if flags != "S":
        return Counter({"server_receives" if port == 20_001 else "not_ours": every})
    return {
        80: Counter(server_syn=scoped, not_ours=every - scoped),
        20_001: Counter(server_syn_service=every),
        8080: Counter(server_direct=every - 1, not_ours=1),  # the first has the number of an aware SYN at port 80: it comes again
    }[port]


def at_pods(node: Node, reasons: Iterable[str]) -> Counter[str]:
    """What the hook of the node's pods has counted by these reasons."""
    counts = node.counts()
    return Counter({reason: counts.get(("to_pod", reason), 0) for reason in reasons})


def is_quiet(*pods: Pod) -> bool:
    """Whether all that the stacks have sent is acknowledged, so that neither has more to say."""
    return all(line.split()[2] == "0" for pod in pods for line in sockets(pod).splitlines() if line.startswith("ESTAB"))


@pytest.mark.parametrize("flags", ["R", "RA", "FA", "S", "SA", "A", "PA"])
def test_spoofed_packets_with_wild_numbers_change_nothing(lab, client, pod, flags):
    outside = lab.add_outside()
    rings = [_bpf.Ring(node.bpf.maps["events"]) for node in lab.nodes]
    with Client(client, VIRTUAL, 80, timeout=20) as connection:
        assert connection.get(100_000) == checksum(100_000)
        told(lab, rings)
        before, here = flows(lab), f"{client.address}:{connection.socket.getsockname()[1]}"
        until(lambda: is_quiet(client, pod))
        for number, port in itertools.product((0, 1), (80, 20_001, 8080)):
            node, ends = lab.nodes[number], (f"{pod.address}:{port}", here)
            expected = taken_for(number, port, flags)
            expected += at_pods(node, expected)
            send(outside, [to_node(frame, node, "uplink") for frame in spoofs(*(ends if number == 0 else ends[::-1]), flags)])
            until(lambda node=node, expected=expected: at_pods(node, expected) >= expected)
            assert at_pods(node, expected) == expected
        assert connection.get(100_000) == checksum(100_000)
        assert connection.ask()[0] == "a"
        assert flows(lab) == before
        assert told(lab, rings) == []
    assert lab.nodes[0].counts()["to_pod", "client_redirected"] == 1


def test_a_direct_connection_is_not_taken_by_packets_to_a_service_port(lab, client, pod):
    outside = lab.add_outside()
    with Client(client, pod.address, 8080, timeout=20) as connection:
        assert connection.get(100_000) == checksum(100_000)
        here, strays = f"{client.address}:{connection.socket.getsockname()[1]}", Counter(server_stray=0)
        for flags in ("A", "PA", "FA", "R"):
            until(lambda: is_quiet(client, pod))
            frames = spoofs(here, f"{pod.address}:20001", flags)
            strays["server_stray"] += len(frames)
            send(outside, [to_node(frame, lab.nodes[1], "uplink") for frame in frames])
            until(lambda: at_pods(lab.nodes[1], strays) == strays)
            assert connection.get(100_000) == checksum(100_000)
    assert flows(lab) == [{}, {}]


def test_the_redirect_port_cannot_end_what_has_left_it(lab, client, pod):
    outside = lab.add_outside()
    with Client(client, VIRTUAL, 80, timeout=20) as connection:
        assert connection.ask()[0] == "a"
        here = f"{client.address}:{connection.socket.getsockname()[1]}"
        expects, sends = client.run(lambda: numbers(connection.socket))
        frames = [tcp(f"{pod.address}:80", here, flags, seq=expects, ack=sends) for flags in ("RA", "R", "FA")]
        before = at_pods(lab.nodes[0], ["not_ours"])["not_ours"]
        send(outside, [to_node(frame, lab.nodes[0], "uplink") for frame in frames])
        until(lambda: at_pods(lab.nodes[0], ["not_ours"])["not_ours"] >= before + len(frames))
        assert connection.ask()[0] == "a"


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_with_the_number_that_the_stack_expects_is_told_as_the_end(lab, client, pod, side):
    outside, rings = lab.add_outside(), [_bpf.Ring(node.bpf.maps["events"]) for node in lab.nodes]
    with Client(client, VIRTUAL, 80, timeout=20) as connection:
        assert connection.ask()[0] == "a"
        until(lambda: is_quiet(client, pod))
        told(lab, rings)
        here, there = f"{client.address}:{connection.socket.getsockname()[1]}", f"{pod.address}:20001"
        expects, sends = client.run(lambda: numbers(connection.socket))
        number, victim, frame = {
            "client": (0, client, tcp(there, here, "R", seq=expects)),
            "server": (1, pod, tcp(here, there, "R", seq=sends)),
        }[side]
        send(outside, [to_node(frame, lab.nodes[number], "uplink")])
        until(lambda: "ESTAB" not in sockets(victim))
        assert told(lab, rings[number:number + 1]) == [EventKind.CLOSED]
        assert told(lab, rings) == []
        if side == "server":
            connection.socket.sendall(b"hello\n")
        with pytest.raises(ConnectionResetError):
            connection.socket.recv(1)


def own(pod: Pod, frames: list[bytes]) -> list[bytes]:
    """The frames as the pod's own would leave it: to its node's bridge."""
    gateway = bytes.fromhex(link_address(pod.node.name, "cni0").replace(":", ""))
    return [gateway + frame[6:] for frame in frames]


def test_a_pods_own_options_get_no_further_than_its_interface(lab, client, pod):
    with Client(client, VIRTUAL, 80, timeout=20) as connection:
        assert connection.ask()[0] == "a"
        before, here = flows(lab), f"{client.address}:{connection.socket.getsockname()[1]}"
        fresh = f"{client.address}:7"
        frames = [
            *(tcp(fresh, f"{to}:{port}", "S", seq=1, options=each) for to, port in ((VIRTUAL, 80), (pod.address, 80)) for each in NAMES),
            *(tcp(src, f"{pod.address}:20001", flags, options=each) for src in (here, fresh) for flags in ("A", "PA") for each in NAMES),
            *(tcp(f"{pod.address}:80", here, "SA", options=each) for each in NAMES),
        ]
        opened = lab.nodes[1].counts()["to_pod", "server_syn"]
        send(client.name, own(client, frames))
        until(lambda: lab.nodes[0].counts().get(("from_pod", "forged_option"), 0) == len(frames))
        assert connection.ask()[0] == "a"
        assert flows(lab) == before
        assert lab.nodes[1].counts()["to_pod", "server_syn"] == opened


def test_a_pod_without_programs_gains_nothing_by_an_option(lab, client, pod):
    plain = lab.add_pod(lab.nodes[0], "plain")
    with Client(client, VIRTUAL, 80, timeout=20) as connection:
        assert connection.ask()[0] == "a"
        before = flows(lab)
        aware, foreign = (tcp(f"{plain.address}:7", f"{pod.address}:80", "S", seq=1, options=option(REDIRECT, scope=scope)) for scope in (7, 9))
        opened = lab.nodes[1].counts()["to_pod", "server_syn"]
        answers = [tcp(f"{plain.address}:80", f"{client.address}:9", "SA", ack=2, options=each) for each in NAMES]
        send(plain.name, own(plain, [foreign, *answers, aware]))
        until(lambda: lab.nodes[1].counts()["to_pod", "server_syn"] == opened + 1)
        assert connection.ask()[0] == "a"
        assert flows(lab) == before
        assert lab.nodes[0].counts()["to_pod", "client_redirected"] == 1


def test_headers_that_lie_about_their_lengths_disturb_no_live_connection(lab, client, pod):
    outside = lab.add_outside()
    with Client(client, VIRTUAL, 80, timeout=20) as connection:
        assert connection.get(100_000) == checksum(100_000)
        before, here = flows(lab), f"{client.address}:{connection.socket.getsockname()[1]}"
        expects, sends = client.run(lambda: numbers(connection.socket))
        for node, src, dst, seq, ack in (
            (lab.nodes[0], f"{pod.address}:20001", here, expects, sends),
            (lab.nodes[1], here, f"{pod.address}:20001", sends, expects),
        ):
            frame = to_node(tcp(src, dst, "PA", seq=seq, ack=ack, options=option(CONFIRM | PORT, 80) + b"\x01" * 4, payload=b"lies"), node, "uplink")
            lies = [frame[:at] + bytes([value]) + frame[at + 1 :] for at in (14, 17, 46, 55) for value in range(256) if value != frame[at]]
            send(outside, [*lies, *(frame[:length] for length in range(34, len(frame)))])
        assert connection.get(100_000) == checksum(100_000)
        assert flows(lab) == before

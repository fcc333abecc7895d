"""Programs on an interface while packets pass: the start gate's probe comes back when, and only when, the program stands at its place."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pyroute2 import netns
from support.lab import Role, Store, inside, sh
from wharfinger_dataplane import _bpf
from wharfinger_dataplane.tables import Tables

ADDRESS, GATE = "10.99.1.10", ("169.254.87.70", 22342)
HOST, POD = f"wharf-vec-{os.getpid()}-host", f"wharf-vec-{os.getpid()}-pod"


@dataclass
class Wire:
    """A pod's interface: its index at the host's side, and a socket in the pod."""

    ifindex: int
    socket: socket.socket
    sent: int = 0

    def probe(self, wait: float = 2) -> bool:
        """Whether a probe comes back."""
        self.sent += 1
        token = self.sent.to_bytes(4, "big")
        self.socket.settimeout(wait)
        self.socket.sendto(token, GATE)
        try:
            return self.socket.recvfrom(100) == (token, GATE)
        except TimeoutError:
            return False


@pytest.fixture
def wire() -> Iterator[Wire]:
    names = (HOST, POD)
    for name in names:
        netns.create(name)
    try:
        sh(f"ip -n {HOST} link add pod type veth peer name eth0 netns {POD}")
        sh(f"ip -n {POD} addr add {ADDRESS}/24 dev eth0")
        sh(f"ip -n {POD} link set eth0 up")
        sh(f"ip -n {HOST} link set pod up")
        sh(f"ip -n {POD} route add {GATE[0]}/32 dev eth0")
        sh(f"ip -n {POD} neigh add {GATE[0]} lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
        ifindex = int(sh(f"ip -n {HOST} -o link show pod").split(":")[0])
        with inside(POD, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as opened:
            yield Wire(ifindex, opened)
    finally:
        for name in names:
            netns.remove(name)


def attach(bpf: _bpf.Object, wire: Wire) -> _bpf.Link:
    Tables(Store(bpf.maps)).put_pod(ADDRESS, wire.ifindex, Role.CLIENT)
    return inside(HOST, lambda: _bpf.Link.create(bpf.programs["wharf_from_pod"], wire.ifindex))


def test_a_link_puts_its_program_at_the_interface_until_it_is_closed(load, wire):
    assert not wire.probe(wait=0.3)
    link = attach(load(), wire)
    assert link.ifindex == wire.ifindex
    assert wire.probe()
    link.close()
    assert not wire.probe(wait=0.3)


def test_a_program_is_replaced_while_packets_pass_and_none_is_missed(load, wire):
    first, second = load(), load()
    link = attach(first, wire)
    over = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not over.is_set():
            link.update((first, second)[swaps % 2].programs["wharf_from_pod"])
            swaps += 1

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        assert all(wire.probe() for _ in range(500))
    finally:
        over.set()
        swapper.join()
    assert swaps >= 10
    link.close()


def test_a_pinned_link_outlives_its_process_and_its_successor_adopts_it(load, wire, pins):
    first = load()
    link = attach(first, wire)
    link.pin(pins / "link")
    link.close()
    first.close()
    assert wire.probe()
    adopted = _bpf.Link.adopt(pins / "link")
    assert adopted.ifindex == wire.ifindex
    adopted.update(load().programs["wharf_from_pod"])
    assert wire.probe()
    adopted.detach()
    assert not wire.probe(wait=0.3)
    assert adopted.ifindex == 0
    adopted.close()
    assert _bpf.Link.adopt(pins / "none") is None


def test_a_link_whose_interface_is_gone_says_so(load, wire):
    link = attach(load(), wire)
    sh(f"ip -n {HOST} link del pod")
    assert link.ifindex == 0
    link.close()


def test_an_interface_that_does_not_exist_is_refused_in_words(load):
    with pytest.raises(OSError, match="attaching wharf_from_pod to interface 999999"):
        _bpf.Link.create(load().programs["wharf_from_pod"], 999_999)

"""What listens at the number of a service port, beside a pool's application, is reached there by those who are unaware."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.badwire import Deed, Rule, bad_wire
from support.lab import Lab, Pod, Role, inside
from support.layouts import judged, judging
from support.slices import pool_slice
from support.traffic import Client, server

Y, PORT = 20_001, 41_001
BOUND_S = 8
OWN = "own"


@contextmanager
def own_server(pod: Pod, port: int = Y) -> Iterator[None]:
    """An application of the pod's that is no pool's, at the number of a service port; it calls itself OWN."""
    class Named(Pod):
        short = OWN

    with server(Named(pod.name, pod.node, pod.address, pod.ifindex), port):
        yield


@pytest.fixture
def client(lab: Lab) -> Pod:
    return lab.add_pod(lab.nodes[0], "client", Role.CLIENT)


@pytest.fixture
def pod(lab: Lab, client: Pod) -> Iterator[Pod]:
    """The server of a pool, with an application of its own at the number of its service port."""
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address})])
    with server(pod), own_server(pod):
        yield pod


def test_what_listens_at_the_number_of_a_service_port_is_reached_again_from_the_same_port(lab, client, pod):
    """Its end closes first, so that the pair of ports is in TIME_WAIT when the client dials again."""
    for _ in range(3):
        with Client(client, pod.address, Y, source_port=PORT, timeout=BOUND_S) as connection:
            assert connection.ask()[0] == OWN
            connection.bye()


def test_what_listens_at_the_number_of_a_service_port_is_reached_by_cookies(lab, client, pod):
    inside(pod.name, lambda: Path("/proc/sys/net/ipv4/tcp_syncookies").write_text("2"))
    with Client(client, pod.address, Y, source_port=PORT, timeout=BOUND_S) as connection:
        assert connection.ask()[0] == OWN


def test_what_listens_at_the_number_of_a_service_port_is_reached_across_a_judging_node(lab, client, pod):
    judging(*lab.nodes)
    with Client(client, pod.address, Y, source_port=PORT, timeout=BOUND_S) as connection:
        assert connection.ask()[0] == OWN
    assert judged(lab.nodes[1]) == 0


def test_what_listens_at_the_number_of_a_service_port_is_reached_when_its_answer_is_lost(lab, client, pod, tmp_path):
    with bad_wire(lab, tmp_path) as wire:
        wire.obey(Rule(Deed.LOSE, src=pod.address, flags="SA", count=1))
        with Client(client, pod.address, Y, source_port=PORT, timeout=BOUND_S) as connection:
            assert wire.done() == 1
            assert connection.ask()[0] == OWN

"""What real stacks do beside plain TCP: unaware or aware as docs/protocol.md, "The option", says, and never broken."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from support.badwire import Deed, Rule
from support.lab import Pod, inside
from support.packets import MSS, tcp
from support.slices import VIRTUAL
from support.traffic import Client, checksum

BOUND_S = 60
ALWAYS_COOKIES = 2  # net.ipv4.tcp_syncookies


@contextmanager
def setting(pod: Pod, name: str, value: int) -> Iterator[None]:
    """net.ipv4.<name> of the pod's namespace."""
    file = Path("/proc/sys/net/ipv4", name)
    before = inside(pod.name, file.read_text)
    inside(pod.name, lambda: file.write_text(str(value)))
    try:
        yield
    finally:
        inside(pod.name, lambda: file.write_text(before))


def fast_opened(pod: Pod) -> int:
    """Connections that the pod's stack took with the data of their SYN."""
    names, numbers = (line.split() for line in inside(pod.name, Path("/proc/thread-self/net/netstat").read_text).splitlines()[:2])
    return int(numbers[names.index("TCPFastOpenPassive")])


def test_the_first_fast_open_is_aware_and_those_with_data_in_the_syn_are_not(stage):
    near, far, opened = stage.counting(0), stage.counting(1), fast_opened(stage.pod)

    def dial() -> bytes:
        with socket.socket() as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", BOUND_S, 0))
            made.sendto(b"hello\n", socket.MSG_FASTOPEN, (VIRTUAL, 80))
            return made.recv(1000)

    for _ in range(3):
        assert stage.client.run(dial).startswith(b"a ")
    assert far()["to_pod", "server_joined"] == 1
    assert near()["from_pod", "fast_open"] == 2
    assert fast_opened(stage.pod) - opened == 2


def test_multipath_tcp_is_unaware(stage):
    near = stage.counting(0)

    def dial() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as made:
            made.settimeout(BOUND_S)
            made.connect((VIRTUAL, 80))
            made.sendall(b"hello\n")
            return made.recv(1000)

    assert stage.client.run(dial).startswith(b"a ")
    assert near()["from_pod", "mptcp"] == 1
    assert not near()["from_pod", "client_syn"]


def test_a_syn_whose_options_fill_its_header_is_answered_unaware(stage):
    near = stage.counting(0)
    isn = 77_000

    def dial() -> TCP:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as made:
            made.settimeout(BOUND_S)
            frame = tcp(f"{stage.client.address}:44000", f"{VIRTUAL}:80", "S", seq=isn, options=MSS * 10)
            made.sendto(frame[34:], (VIRTUAL, 0))
            while True:
                packet = IP(made.recv(1000))
                if packet.src == VIRTUAL and packet[TCP].dport == 44_000:
                    return packet[TCP]

    answer = stage.client.run(dial)
    assert (str(answer.flags), answer.ack) == ("SA", isn + 1)
    assert near()["from_pod", "no_room"] == 1


@pytest.mark.parametrize("bad", [None, Deed.REPEAT, Deed.LOSE], ids=str)
def test_a_connection_is_aware_though_both_stacks_use_syn_cookies(stage, bad):
    near, far = stage.counting(0), stage.counting(1)
    if bad:
        stage.wire.obey(Rule(bad, src=stage.client.address, flags="S"))
    with setting(stage.pod, "tcp_syncookies", ALWAYS_COOKIES), setting(stage.client, "tcp_syncookies", ALWAYS_COOKIES):
        with Client(stage.client, VIRTUAL, 80, timeout=BOUND_S) as connection:
            assert connection.get(50_000) == checksum(50_000)
            assert connection.put(50_000) == checksum(50_000)
    assert near()["to_pod", "client_redirected"] == far()["to_pod", "server_joined"] == 1

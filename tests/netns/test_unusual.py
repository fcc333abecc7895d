"""What real stacks do beside plain TCP: unaware or aware as docs/protocol.md, "The option", says, and never broken."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.badwire import Deed, Rule
from support.lab import Node, Pod, inside
from support.slices import VIRTUAL
from support.traffic import CHUNK, Client, checksum, fast_opened

BOUND_S = 60
PORT = 8081
"""At which a test's own server listens, beside the stage's."""
MPTCP_ENABLED = Path("/proc/sys/net/mptcp/enabled")
SOL_MPTCP, MPTCP_INFO = 284, 1  # linux/socket.h, linux/mptcp.h
FELL_BACK, KEY_RECEIVED = 0x1, 0x2  # MPTCP_INFO_FLAG_
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


@contextmanager
def leading_to(node: Node, pod: Pod, port: int) -> Iterator[None]:
    """What kube-proxy does for those who are unaware (lab.fall_back), with another target port."""
    nft = ["nsenter", f"--net=/run/netns/{node.name}", "nft"]
    rules = ("add table ip detour; add chain ip detour p { type nat hook prerouting priority dstnat - 1; };"
             f"add rule ip detour p ip daddr {VIRTUAL} tcp dport 80 dnat to {pod.address}:{port}")
    subprocess.run([*nft, rules], check=True)
    try:
        yield
    finally:
        subprocess.run([*nft, "delete table ip detour"], check=True)


def is_multipath(connection: socket.socket) -> bool:
    """Whether both ends have exchanged their keys and neither has fallen back to plain TCP. A socket that has does not know the question."""
    try:
        flags, = struct.unpack_from("I", connection.getsockopt(SOL_MPTCP, MPTCP_INFO, 12), 8)
    except OSError as error:
        assert error.errno in (errno.EOPNOTSUPP, errno.ENOPROTOOPT)
        return False
    return flags & (FELL_BACK | KEY_RECEIVED) == KEY_RECEIVED


def read(reader: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length and (chunk := reader.recv(length - len(found))):
        found += chunk
    return found


@pytest.mark.parametrize("protocol", [socket.IPPROTO_MPTCP, socket.IPPROTO_TCP], ids=["multipath", "plain"])
def test_a_multipath_connection_is_unaware_and_becomes_what_its_server_can(stage, protocol):
    for pod in (stage.client, stage.pod):
        enabled = inside(pod.name, lambda: MPTCP_ENABLED.exists() and MPTCP_ENABLED.read_text().strip())
        assert enabled == "1", f"the stack of {pod.name} does no Multipath TCP: {MPTCP_ENABLED} says {enabled}"
    near, far = stage.counting(0), stage.counting(1)

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
        made.settimeout(BOUND_S)
        made.bind((stage.pod.address, PORT))
        made.listen()
        return made

    def dial() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
        made.settimeout(BOUND_S)
        made.connect((VIRTUAL, 80))
        return made

    with leading_to(stage.lab.nodes[0], stage.pod, PORT), stage.pod.run(listen) as listener, stage.client.run(dial) as one:
        other, _ = listener.accept()
        with other:
            other.settimeout(BOUND_S)
            for sender, reader in ((one, other), (other, one)):
                sender.sendall(CHUNK[:50_000])
                assert read(reader, 50_000) == CHUNK[:50_000]
            assert [is_multipath(each) for each in (one, other)] == [protocol == socket.IPPROTO_MPTCP] * 2
            for closes, hears in ((one, other), (other, one)):
                closes.shutdown(socket.SHUT_WR)
                assert hears.recv(1) == b""
    assert near()["from_pod", "mptcp"] == 1
    assert not near()["from_pod", "client_syn"]
    assert not far()["to_pod", "server_syn"]


def test_a_connection_whose_syn_is_full_of_options_is_unaware_and_carries_all(stage):
    near, far = stage.counting(0), stage.counting(1)
    with stage.wire.full_options(stage.client):
        connection = Client(stage.client, VIRTUAL, 80, timeout=BOUND_S)
        assert connection.get(50_000) == checksum(50_000)
        assert connection.put(50_000) == checksum(50_000)
        connection.bye()
    assert near()["from_pod", "no_room"] == 1
    assert not near()["from_pod", "client_syn"]
    assert not far()["to_pod", "server_syn"]


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

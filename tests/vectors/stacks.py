"""The pods' stacks as far as vectors need them: one namespace with sockets that no packet made."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from support.lab import inside, sh
from support.packets import ends

NUMBER = 17
"""Of the namespace, as that of the programs numbers it."""
WINDOW = 700
"""Octets that each of the sockets has room for; it does not scale."""
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS, TCP_REPAIR_WINDOW = 19, 20, 21, 22, 29  # linux/tcp.h
WINDOW_SCALE = 3  # of the options: what follows is both ends' scale
RECEIVES, SENDS = 1, 2  # its queues


def make(namespace: str, seen_from: str, addresses: Iterable[str]) -> None:
    """Lets every address of `addresses` be the namespace's own, anything be reached from it, and its sockets be found from another."""
    sh(f"ip -n {seen_from} netns set {namespace} {NUMBER}")
    sh(f"ip -n {namespace} link set lo up")
    sh(f"ip netns exec {namespace} sysctl -qw net.ipv4.tcp_timestamps=0")  # as their peers' packets have none
    for address in addresses:
        sh(f"ip -n {namespace} addr add {address}/32 dev lo")
    sh(f"ip -n {namespace} route add default dev lo")


def repaired(local: str, peer: str, expects: int, sends: int) -> socket.socket:
    """An established connection, of which no packet tells; `expects`, `sends`: the next sequence numbers of its peer's and of its own."""
    address, port, other, other_port = ends(local, peer)
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for queue, number in ((RECEIVES, expects), (SENDS, sends)):
        made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        made.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("I", number))
    made.bind((address, port))
    made.connect((other, other_port))
    window = struct.pack("5I", expects, WINDOW, WINDOW, WINDOW, expects)  # struct tcp_repair_window
    made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_OPTIONS, struct.pack("II", WINDOW_SCALE, 0))
    made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, window)
    return made


@contextmanager
def sockets(namespace: str, held: Iterable[tuple[str, str, int, int]]) -> Iterator[None]:
    """Connections of the namespace's stack, as `repaired` has them."""
    with ExitStack() as open_sockets:
        for each in held:
            open_sockets.enter_context(inside(namespace, lambda each=each: repaired(*each)))
        yield

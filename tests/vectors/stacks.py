"""The pods' stacks as far as vectors need them: one namespace with sockets that no packet made."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from support.lab import inside, sh
from support.packets import ends

NUMBER = 17
"""Of the namespace, as that of the programs numbers it."""
TCP_REPAIR = 19  # linux/tcp.h


def make(namespace: str, seen_from: str, addresses: Iterable[str]) -> None:
    """Lets every address of `addresses` be the namespace's own, anything be reached from it, and its sockets be found from another."""
    sh(f"ip -n {seen_from} netns set {namespace} {NUMBER}")
    sh(f"ip -n {namespace} link set lo up")
    for address in addresses:
        sh(f"ip -n {namespace} addr add {address}/32 dev lo")
    sh(f"ip -n {namespace} route add default dev lo")


def repaired(local: str, peer: str) -> socket.socket:
    """An established connection, of which no packet tells."""
    address, port, other, other_port = ends(local, peer)
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.connect((other, other_port))
    return made


@contextmanager
def sockets(namespace: str, pairs: Iterable[tuple[str, str]]) -> Iterator[None]:
    """Connections (local, peer) of the namespace's stack."""
    with ExitStack() as open_sockets:
        for local, peer in pairs:
            open_sockets.enter_context(inside(namespace, lambda local=local, peer=peer: repaired(local, peer)))
        yield

"""Frames straight onto an interface, and the numbers that a stack would say nothing of."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from support.lab import inside

ETH_P_IP = 0x0800
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21  # linux/tcp.h
RECEIVES, SENDS = 1, 2  # a socket's queues
OFF_SILENTLY = -1  # TCP_REPAIR_OFF_NO_WP: without a window probe


def send(namespace: str, frames: Iterable[bytes], interface: str = "eth0") -> None:
    """Past every rule of the namespace's own stack."""

    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((interface, ETH_P_IP))
            for frame in frames:
                raw.send(frame)

    inside(namespace, work)


def numbers(connection: socket.socket) -> tuple[int, int]:
    """(the next number that the socket expects, the next that it sends)."""
    found = []
    connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    try:
        for queue in (RECEIVES, SENDS):
            connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
            found.append(struct.unpack("I", connection.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, 4))[0])
    finally:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, OFF_SILENTLY)
    return found[0], found[1]

"""The gate's one socket: asks and listens until the gate has its outcome."""

from __future__ import annotations

import os
import socket
import time

from wharfinger_sidecar._gate import GATE_ADDRESS, NONCE_BYTES, Gate

RECEIVE_BYTES = 64


def wait_for_gate(timeout_s: float, address: tuple[str, int] = GATE_ADDRESS) -> Gate:
    """Ask at `address` (IPv4, UDP port) until an answer comes or `timeout_s` seconds have passed; the gate with its outcome.

    The socket is connected, so the kernel drops what any other address sends. Whatever the network says against a question
    (no route yet, port unreachable) is no answer: the next question is asked when it is due.
    """
    gate = Gate(os.urandom(NONCE_BYTES), time.monotonic(), timeout_s)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        connected = False
        while gate.outcome is None:
            question = gate.ask(time.monotonic())
            if question is not None:
                connected = connected or _connect(channel, address)
                _send(channel, question)
            _listen(channel, gate)
    return gate


def _connect(channel: socket.socket, address: tuple[str, int]) -> bool:
    """Whether the pod has a route to `address`; a network that is still being set up may get one."""
    try:
        channel.connect(address)
    except OSError:
        return False
    return True


def _send(channel: socket.socket, question: bytes) -> bool:
    """Whether the kernel took the question; it also refuses with the ICMP error that an earlier question earned."""
    try:
        channel.send(question)
    except OSError:
        return False
    return True


def _listen(channel: socket.socket, gate: Gate) -> None:
    """Hear at most one datagram, until the next question is due."""
    wait_s = gate.wait_s(time.monotonic())
    if wait_s <= 0:
        return
    channel.settimeout(wait_s)
    heard_from = time.monotonic()
    try:
        datagram = channel.recv(RECEIVE_BYTES)
    except OSError:
        # Either the time is up, or an ICMP error stands for an answer at once: then wait out the rest, or this would spin.
        time.sleep(max(0.0, wait_s - (time.monotonic() - heard_from)))
        return
    gate.hear(datagram, time.monotonic())

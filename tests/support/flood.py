"""A flood of spoofed SYNs, and connections whose throughput can be compared while it lasts."""

from __future__ import annotations

import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from support.lab import Node, sh
from support.traffic import Client

SOURCE = Path(__file__).with_suffix(".c")
FIRST = ip_address("100.64.0.1")
"""The first of the spoofed sources; they count up from it."""


def compile_flood(folder: Path) -> Path:
    """The sender of flood.c."""
    program = folder / "flood"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", str(program), str(SOURCE)], check=True)
    return program


def link_address(namespace: str, interface: str) -> str:
    words = sh(f"ip -n {namespace} -o link show {interface}").split()
    return words[words.index("link/ether") + 1]


def to_node(frame: bytes, node: Node, interface: str) -> bytes:
    """The frame as hosts at the node's interface would send it: `uplink` of the wire, `cni0` of its pods."""
    return bytes.fromhex(link_address(node.name, interface).replace(":", "")) + frame[6:]


def flood(program: Path, namespace: str, frame: bytes, count: int, addresses: int) -> float:
    """`count` copies of the frame from `addresses` sources, by eth0 of the namespace, as fast as it takes them. Packets a second."""
    command = ["nsenter", f"--net=/run/netns/{namespace}", str(program), "eth0", str(count), str(addresses)]
    done = subprocess.run(command, input=frame, capture_output=True, check=True)
    sent, seconds = done.stdout.split()
    assert int(sent) == count
    return count / float(seconds)


@dataclass
class Beat:
    """How many lines were due and how many were answered in time."""

    due: int = 0
    answered: int = 0

    def kept(self, quiet: Beat) -> float:
        """The share of the quiet time's throughput."""
        return (self.answered / self.due) / (quiet.answered / quiet.due)


class Beating:
    """Every connection asks `rate` lines a second: far less than it could, so that what it gets is its throughput and no race for processors.
    A line that is not answered when the next is due is an answer less; it is still waited for."""

    def __init__(self, groups: Sequence[Sequence[Client]], rate: float) -> None:
        self._sockets = [(client.socket, number) for number, group in enumerate(groups) for client in group]
        self._pause = 1 / rate
        self.beats = [Beat() for _ in groups]
        self._stop = False
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            waiting: dict[socket.socket, bytes] = {}
            for made, number in self._sockets:
                made.setblocking(False)
                selector.register(made, selectors.EVENT_READ, number)
            due = time.monotonic()
            while not self._stop or waiting:
                now = time.monotonic()
                if now >= due and not self._stop:
                    due = max(due + self._pause, now)
                    for made, number in self._sockets:
                        self.beats[number].due += 1
                        if made not in waiting:
                            waiting[made] = b""
                            made.send(b"beat\n")
                for key, _ in selector.select(max(due - time.monotonic(), 0) if not self._stop else 1):
                    self._read(key.fileobj, key.data, waiting, selector)

    def _read(self, made: socket.socket, number: int, waiting: dict[socket.socket, bytes], selector: selectors.BaseSelector) -> None:
        try:
            chunk = made.recv(4096)
        except OSError as error:
            chunk = b""
            self.errors.append(f"{made.getsockname()}: {error}")
        if not chunk:
            self.errors.append(f"{made}: the connection ended")
            selector.unregister(made)
            self._sockets = [pair for pair in self._sockets if pair[0] is not made]
            waiting.pop(made, None)
            return
        waiting[made] = waiting.get(made, b"") + chunk
        if waiting[made].endswith(b"\n"):
            del waiting[made]
            self.beats[number].answered += 1

    def taken(self) -> list[Beat]:
        """What there was since the last call, by group."""
        taken, self.beats = self.beats, [Beat() for _ in self.beats]
        return taken

    @contextmanager
    def going(self) -> Iterator[Beating]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop = True
            self._thread.join()
            for made, _ in self._sockets:
                made.settimeout(5)

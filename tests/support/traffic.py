"""Real TCP: a server that says who it is and streams checkable bytes, and a client that checks them. Namespaces come from lab."""

from __future__ import annotations

import hashlib
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.lab import Pod, inside, sh

CHUNK = bytes(range(256)) * 256


def stream(length: int) -> Iterator[bytes]:
    """The bytes that a server sends for `length`, by chunks."""
    while length > 0:
        yield CHUNK[:length]
        length -= len(CHUNK)


def checksum(length: int) -> str:
    digest = hashlib.sha256()
    for chunk in stream(length):
        digest.update(chunk)
    return digest.hexdigest()


def received(connection: socket.socket) -> bytes:
    """What is next; nothing at the end, which a reset from either side is as well."""
    try:
        return connection.recv(65536)
    except (ConnectionResetError, ConnectionAbortedError):
        return b""


def arrives(sender: socket.socket, reader: socket.socket, length: int) -> bool:
    """Whether so many bytes do, of which the sockets' buffers may hold less."""
    def send() -> None:
        with suppress(OSError):  # the reader tells
            sender.sendall(bytes(length))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        while length and (chunk := reader.recv(length)):
            length -= len(chunk)
    finally:
        sending.join()
    return not length


def _serve(connection: socket.socket, name: str) -> None:
    with connection:
        words, wanted, digest = b"", 0, hashlib.sha256()
        while chunk := received(connection):
            words += chunk
            while wanted or b"\n" in words:
                if wanted:
                    digest.update(words[:wanted])
                    wanted, words = wanted - len(words[:wanted]), words[wanted:]
                    if wanted:
                        break
                    connection.sendall(digest.hexdigest().encode() + b"\n")
                    continue
                line, words = words.split(b"\n", 1)
                if line == b"bye":
                    return
                if line.startswith(b"put "):
                    wanted, digest = int(line[4:]), hashlib.sha256()
                elif line.startswith(b"get "):
                    for piece in stream(int(line[4:])):
                        connection.sendall(piece)
                else:
                    peer = connection.getpeername()
                    connection.sendall(f"{name} {peer[0]}:{peer[1]} {line.decode()}\n".encode())


def fast_opened(pod: Pod) -> int:
    """Connections that the pod's stack took with the data of their SYN."""
    names, numbers = (line.split() for line in inside(pod.name, Path("/proc/thread-self/net/netstat").read_text).splitlines()[:2])
    return int(numbers[names.index("TCPFastOpenPassive")])


def offloads_off(*pods: Pod) -> None:
    """Whole checksums and real segments, as a physical wire would have them."""
    for pod in pods:
        sh(f"nsenter --net=/run/netns/{pod.name} ethtool -K eth0 tx off tso off gso off gro off")


def sockets(pod: Pod, *which: str) -> str:
    """The pod's TCP sockets as `ss` lists them, a line each; `which`: its filter."""
    return subprocess.run(["nsenter", f"--net=/run/netns/{pod.name}", "ss", "-Htan", *which], capture_output=True, text=True, check=True).stdout


@contextmanager
def server(pod: Pod, port: int = 8080) -> Iterator[None]:
    """Answers each line with its name, the client as its stack sees it, and the line; `get N` with N bytes, `put N` and
    N bytes with their checksum; `bye` by closing first."""
    def listen() -> socket.socket:
        return socket.create_server((pod.address, port), backlog=512)

    listener = pod.run(listen)
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the listener was shut down: the test is over
                return
            threads.append(threading.Thread(target=_serve, args=(connection, pod.short), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()


class Client:
    """One connection of a pod, line by line."""

    def __init__(self, pod: Pod, address: str, port: int, *, timeout: float = 5, source_port: int = 0) -> None:
        def connect() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            made.settimeout(timeout)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one port to several addresses
            try:
                made.bind((pod.address, source_port))
                made.connect((address, port))
            except OSError:
                made.close()
                raise
            return made
        self.socket = pod.run(connect)
        self._read = self.socket.makefile("rb")

    def ask(self, line: str = "hello") -> tuple[str, str, str]:
        """(server's name, the client as the server's stack sees it, the line)."""
        self.socket.sendall(line.encode() + b"\n")
        return self.answer()

    def answer(self) -> tuple[str, str, str]:
        """To the next line that was sent, as `ask` has it."""
        name, peer, said = self._read.readline().decode().split(maxsplit=2)
        return name, peer, said.strip()

    def get(self, length: int) -> str:
        """The checksum of what came for `get length`."""
        self.socket.sendall(f"get {length}\n".encode())
        digest = hashlib.sha256()
        while length:
            chunk = self._read.read(min(length, 1 << 20))
            if not chunk:
                raise EOFError(f"the stream ended {length} bytes early")
            digest.update(chunk)
            length -= len(chunk)
        return digest.hexdigest()

    def put(self, length: int) -> str:
        """The checksum that the server made of `length` bytes sent to it."""
        self.socket.sendall(f"put {length}\n".encode())
        for chunk in stream(length):
            self.socket.sendall(chunk)
        return self._read.readline().decode().strip()

    def bye(self) -> None:
        """Lets the server close first, so that its end goes to TIME_WAIT."""
        self.socket.sendall(b"bye\n")
        assert self._read.read() == b""
        self.close()

    def reset(self) -> None:
        """Ends it with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._read.close()
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

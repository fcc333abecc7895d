"""Both ends of the measurements from pod to pod; standard library only, one thread, blocking sockets: what is measured is the path.

load.py serve PORT                          answers: `c` one byte and closes; `e` echoes bytes; `b` + 8 bytes N: streams N bytes
load.py connections ADDRESS PORT COUNT      {"per_second": ...}: connect, one byte each way, close
load.py turns ADDRESS PORT                  the same over and over: a COUNT from each line of standard input
load.py latency ADDRESS PORT COUNT          {"p50_us": ..., "p99_us": ...}: one byte there and back on one connection
load.py bulk ADDRESS PORT BYTES             {"gigabits_per_second": ...}
load.py idle                                wait to be used with `kubectl exec`
"""

import json
import signal
import socket
import struct
import sys
import threading
import time

PIECE = bytes(1 << 20)


def answer(connection: socket.socket) -> None:
    with connection:
        kind = connection.recv(1)
        if kind == b"c":
            connection.sendall(b"c")
        elif kind == b"e":
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while word := connection.recv(64):
                connection.sendall(word)
        elif kind == b"b":
            (left,) = struct.unpack(">Q", connection.recv(8, socket.MSG_WAITALL))
            while left > 0:
                left -= connection.send(PIECE[: min(left, len(PIECE))])


def serve(port: int) -> None:
    with socket.create_server(("", port), backlog=4096) as listener:
        print(json.dumps({"listening": port}), flush=True)
        while True:
            connection, _ = listener.accept()
            peeked = connection.recv(1, socket.MSG_PEEK)
            if peeked == b"c":  # the short ones here, without the cost of a thread
                answer(connection)
            else:
                threading.Thread(target=answer, args=(connection,), daemon=True).start()


def connections(target: tuple[str, int], count: int) -> dict:
    began = time.perf_counter()
    for _ in range(count):
        with socket.create_connection(target, timeout=10) as connection:
            connection.sendall(b"c")
            if connection.recv(1) != b"c":
                raise OSError("the server closed without an answer")
    return {"per_second": count / (time.perf_counter() - began)}


def latency(target: tuple[str, int], count: int) -> dict:
    with socket.create_connection(target, timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"e")
        times = []
        for _ in range(count):
            began = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            times.append(time.perf_counter() - began)
    times.sort()
    return {"p50_us": times[len(times) // 2] * 1e6, "p99_us": times[len(times) * 99 // 100] * 1e6}


def bulk(target: tuple[str, int], count: int) -> dict:
    buffer, received = bytearray(1 << 20), 0
    with socket.create_connection(target, timeout=30) as connection:
        began = time.perf_counter()
        connection.sendall(b"b" + struct.pack(">Q", count))
        while got := connection.recv_into(buffer):
            received += got
    if received != count:
        raise OSError(f"{received} bytes of {count} arrived")
    return {"gigabits_per_second": received * 8 / 1e9 / (time.perf_counter() - began)}


def main(arguments: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    kinds = {"connections": connections, "latency": latency, "bulk": bulk}
    match arguments:
        case ["idle"]:
            signal.pause()
        case ["serve", port]:
            serve(int(port))
        case ["turns", address, port]:
            for line in sys.stdin:
                print(json.dumps(connections((address, int(port)), int(line))), flush=True)
        case [kind, address, port, count] if kind in kinds:
            print(json.dumps(kinds[kind]((address, int(port)), int(count))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

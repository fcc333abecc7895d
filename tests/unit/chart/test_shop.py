"""The example's server and client, which the demo and the cluster tests trust to tell the truth."""

import importlib.util
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "examples" / "shop" / "image"


def module(name):
    """One of the image's scripts, which find each other by being in one folder."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def shop(monkeypatch):
    """The URL of a running server."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("POD_NAME", "shop-0")
    monkeypatch.setenv("NODE_NAME", "node-1")
    code = module("server")
    with code.Server(("127.0.0.1", 0), code.Shop) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def client(*words):
    """The exit status, and each line that the client printed."""
    ended = subprocess.run([sys.executable, str(FOLDER / "client.py"), *words], capture_output=True, text=True, check=False, timeout=30)
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


def test_burst_counts_servers_nodes_and_the_peer_that_the_application_sees(shop):
    status, (report,) = client("burst", shop, "20")
    assert status == 0
    assert (report["servers"], report["nodes"], report["errors"], report["resets"]) == ({"shop-0": 20}, {"node-1": 20}, 0, 0)
    assert report["peers"] == {shop.removeprefix("http://").rstrip("/"): 20}


def test_download_keeps_the_pace_reports_each_second_and_checks_every_byte(shop):
    began = time.monotonic()
    status, lines = client("download", shop, "3000000", "2000000")
    assert 1.4 < time.monotonic() - began < 5
    assert len(lines) == 2
    assert (status, lines[-1]["checksum"], lines[-1]["bytes"], lines[-1]["pod"]) == (0, "right", 3000000, "shop-0")


@pytest.mark.parametrize("count", [0, 1, 65535, 65536, 65537])
def test_download_of_any_length_is_right(shop, count):
    status, lines = client("download", shop, str(count), "0")
    assert (status, lines[-1]["checksum"]) == (0, "right")


@pytest.mark.parametrize("query", ["", "bytes=x", "bytes=-1", "bytes=1&rate=-1"])
def test_download_that_makes_no_sense_is_refused(shop, query):
    with socket.create_connection(("127.0.0.1", int(shop.rsplit(":", 1)[1].rstrip("/")))) as connection:
        connection.sendall(f"GET /download?{query} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 400 ")


def liar(answer, reset):
    """The URL of a server that gives `answer` to one connection, whatever it asks, and ends it with FIN or RST."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listener, listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(answer)
            time.sleep(0.1)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    threading.Thread(target=serve).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_client_finds_out_wrong_bytes():
    status, lines = client("download", liar(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nxxxx", reset=False), "4", "0")
    assert (status, lines[-1]["checksum"], lines[-1]["resets"]) == (1, "wrong", 0)


def test_client_finds_out_that_bytes_are_missing():
    status, lines = client("download", liar(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nxx", reset=False), "4", "0")
    assert (status, lines[-1]["checksum"], lines[-1]["bytes"]) == (1, "wrong", 2)


@pytest.mark.parametrize("words", [("download", "4", "0"), ("burst", "1")])
def test_client_counts_resets(words):
    url = liar(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nxx", reset=True)
    status, lines = client(words[0], url, *words[1:])
    assert (status, lines[-1]["resets"]) == (1, 1)

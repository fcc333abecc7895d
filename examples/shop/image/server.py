"""The shop: says who it is, and streams downloads at a given pace. HTTP/1.1, a thread a connection.

GET /                                the pod's name and node, and the client's address as this end sees it (JSON)
GET /download?bytes=N&rate=R         N bytes of `stream`, at R bytes a second (0 or none: as fast as it goes)
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from stream import blocks

PORT = 8080
PIECE_S = 0.05
"""A paced download is sent in pieces of this many seconds' bytes."""


class Shop(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer; the name is http.server's."""
        url = urlsplit(self.path)
        if url.path == "/":
            self.answer_identity()
        elif url.path == "/download":
            self.answer_download(parse_qs(url.query))
        else:
            self.send_error(404)

    def answer_identity(self) -> None:
        """Who serves whom."""
        client = "{}:{}".format(*self.client_address[:2])
        identity = {"pod": os.environ.get("POD_NAME", ""), "node": os.environ.get("NODE_NAME", ""), "client": client}
        body = (json.dumps(identity) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_download(self, query: dict[str, list[str]]) -> None:
        """The stream's first bytes."""
        try:
            count = int(query["bytes"][0])
            rate = int(query.get("rate", ["0"])[0])
        except (KeyError, ValueError):
            self.send_error(400, "bytes must be given, and rate if any: whole numbers")
            return
        if count < 0 or rate < 0:
            self.send_error(400, "bytes and rate must not be negative")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(count))
        self.send_header("X-Pod", os.environ.get("POD_NAME", ""))
        self.end_headers()
        self.send_paced(count, rate)

    def send_paced(self, count: int, rate: int) -> None:
        """Keep to the pace from the start, so that a stall is made up for and the whole takes count / rate seconds."""
        piece_bytes = max(1, int(rate * PIECE_S))
        began, sent = time.monotonic(), 0
        for block in blocks(count):
            for start in range(0, len(block), piece_bytes if rate else len(block)):
                piece = block[start : start + piece_bytes] if rate else block
                self.wfile.write(piece)
                sent += len(piece)
                if rate:
                    time.sleep(max(0.0, began + sent / rate - time.monotonic()))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request: there are many."""


class Server(ThreadingHTTPServer):
    """Room for bursts of connections; its threads do not outlive it."""

    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """One line for what went wrong with a connection, such as a client that left."""
        print(json.dumps({"event": "connection failed", "client": str(client_address), "error": repr(sys.exc_info()[1])}), file=sys.stderr)


def main() -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Server(("", PORT), Shop) as server:
        print(json.dumps({"event": "listening", "port": PORT, "pod": os.environ.get("POD_NAME", "")}), file=sys.stderr, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

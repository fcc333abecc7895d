"""A server that speaks as much of the Kubernetes API as the agent's edge does: lists, watches, and a record of what was written."""

from __future__ import annotations

import json
import queue
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class ApiServer:
    """`lists`: answers to lists, in order (a dict, or a number for an error), the last one again and again. `watch`: what goes down the
    watch that is open (a dict; None ends it). `refuse`: (method, path) -> number of an error, once."""

    def __init__(self):
        self.lists, self.watch, self.refuse = [], queue.Queue(), {}
        self.queries, self.written, self.answers = [], [], {}
        self.wrote = threading.Condition()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                if url.path in api.answers:
                    return self.answer(200, api.answers[url.path])
                api.queries.append(query)
                if "watch" in query:
                    return self.stream()
                found = api.lists.pop(0) if len(api.lists) > 1 else api.lists[0]
                return self.answer(found, {"message": "as told"}) if isinstance(found, int) else self.answer(200, found)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = api.refuse.pop((self.command, self.path), 200)
                with api.wrote:
                    api.written.append((self.command, self.path, status, body))
                    api.wrote.notify_all()
                self.answer(status, {"message": "as told"} if status >= 400 else body)

            do_PATCH = do_POST

            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self):
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while (event := api.watch.get()) is not None:
                    data = json.dumps(event).encode() + b"\n"
                    half = len(data) // 2  # events do not keep to chunks
                    for part in (data[:half], data[half:]):
                        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, format, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})

    def wait_written(self, count, timeout_s=5):
        """The writes, once there are `count`."""
        with self.wrote:
            assert self.wrote.wait_for(lambda: len(self.written) >= count, timeout_s), self.written
        return self.written


@contextmanager
def running():
    api = ApiServer()
    api.thread.start()
    try:
        yield api
    finally:
        api.watch.put(None)
        api.server.shutdown()
        api.server.server_close()
        api.thread.join()


def listing(version, *names, more=""):
    """A list of pods."""
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": version, "continue": more},
            "items": [thing(name) for name in names]}


def thing(name, version="1"):
    return {"metadata": {"namespace": "n", "name": name, "resourceVersion": version}}


def change(kind, name, version):
    return {"type": kind, "object": thing(name, version)}

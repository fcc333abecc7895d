"""A collector as telemetry meets it: a real HTTP server that reads OTLP's protobuf, and answers as it is told to."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span


def spans_of(fields: list[bytes]) -> list[Span]:
    """The spans that the queue has as fields of ScopeSpans."""
    return list(ScopeSpans.FromString(b"".join(fields)).spans)


def attributes_of(span: Span) -> dict[str, str | int]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def role_of(span: Span) -> str:
    return span.name.split()[0]


class Collector:
    """Takes OTLP over HTTP at `url`. `status` and `answer_headers` are what it answers, `rejected` how many spans of a batch it says that it
    does not want; while `hold` is set it answers nobody."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[tuple[str, dict[str, str]]] = []
        self.status, self.answer_headers, self.rejected, self.reached = 200, {}, 0, 0
        self._free = threading.Event()
        self._free.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding"):
                    body = zlib.decompress(body, 47)  # gzip or deflate, as its header says
                collector._take(self, body)

            def log_message(self, *_words) -> None:
                """Says nothing: the tests' output is theirs."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def _take(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.reached += 1
        self._free.wait()
        status, rejected = self.status, self.rejected
        response = ExportTraceServiceResponse()
        response.partial_success.rejected_spans = rejected
        answer = response.SerializeToString() if rejected else b""
        if status == 200:
            self.headers.append((handler.path, handler.headers))
            self.requests.append(ExportTraceServiceRequest.FromString(body))
        try:
            handler.send_response(status)
            for name, value in self.answer_headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(answer)))
            handler.end_headers()
            handler.wfile.write(answer)
        except (BrokenPipeError, ConnectionResetError):
            pass  # who asked has gone, as is tested

    def spans(self) -> list[Span]:
        return [span for request in list(self.requests) for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]

    def resource(self) -> dict[str, str]:
        return attributes_of(self.requests[0].resource_spans[0].resource)

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def running_collector() -> Iterator[Collector]:
    found = Collector()
    try:
        yield found
    finally:
        found.close()

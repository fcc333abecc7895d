"""Health and metrics over HTTP on the loopback address, for the kubelet's probes and for scrapers on the node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Metric:
    """One metric: `kind` is counter or gauge; `samples` are labels and a value each."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[dict[str, str], float], ...]


def plain(name: str, kind: str, help: str, value: float) -> Metric:
    """A metric without labels."""
    return Metric(name, kind, help, (({}, value),))


def text(metrics: Iterable[Metric]) -> str:
    """Prometheus's text format, 0.0.4."""
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for labels, value in metric.samples:
            pairs = ",".join(f'{name}="{_escaped(content)}"' for name, content in labels.items())
            lines.append(f"{metric.name}{{{pairs}}} {value:.10g}" if pairs else f"{metric.name} {value:.10g}")
    return "\n".join(lines) + "\n"


def _escaped(content: str) -> str:
    return content.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Health:
    """The server. `checks` are its paths: each answers whether all is well and a line that says so; `metrics` is asked at each scrape.

    OSError when the port is taken."""

    def __init__(self, port: int, checks: dict[str, Callable[[], tuple[bool, str]]], metrics: Callable[[], Iterable[Metric]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, text(metrics()), "text/plain; version=0.0.4; charset=utf-8")
                elif self.path in checks:
                    well, words = checks[self.path]()
                    self._answer(200 if well else 503, words + "\n")
                else:
                    self._answer(404, f"there are {', '.join([*checks, '/metrics'])}\n")

            def _answer(self, status: int, body: str, kind: str = "text/plain; charset=utf-8") -> None:
                data = body.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                with suppress(ConnectionError):  # whoever asked did not wait
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: a probe every two seconds is no news."""

        self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="health", daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

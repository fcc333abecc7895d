"""The edge: settings to a running exporter."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from .._bpf import Ring
from ._collector import Collector
from ._connections import ConnectionSpans
from ._envelope import Envelope
from ._export import Counts, SpanQueue, step_behind
from ._names import Names
from ._sampling import Sampling
from ._settings import TelemetrySettings
from ._writes import TableSpans

CLOSE_S = 3.0
RING_S = 0.2
"""Between two looks at the ring, which holds 37,000 events: 60,000 connections a second, twelve times what two processors serve."""


@dataclass(frozen=True)
class Telemetry:
    """All that the agent holds of telemetry. `key` and `sampling` are what the programs decide by (Kernel.trace)."""

    key: bytes = field(repr=False)
    sampling: Sampling
    names: Names
    connections: ConnectionSpans
    tables: TableSpans
    queue: SpanQueue | None
    _closing: threading.Event = field(default_factory=threading.Event)

    def follow(self, ring: Ring) -> threading.Thread:
        """Makes spans of what comes into the ring until `close`, in a thread of its own."""
        thread = threading.Thread(target=self._follow, args=(ring,), name="events", daemon=True)
        thread.start()
        return thread

    def _follow(self, ring: Ring) -> None:
        step_behind()
        while not self._closing.is_set():
            self.connections.drain(ring)
            time.sleep(RING_S)  # half of what waiting for the event would cost; nobody waits for this thread's end

    def counters(self) -> dict[tuple[str, str], int]:
        """(name, reason or "") -> count since the start, for the agent's metrics: wharfinger_trace_<name>_total{reason}. Every record is
        one of records_* or a span, and every span is exported, dropped or waits."""
        counts, seen = self.queue.counts() if self.queue else Counts(), self.connections.seen()
        return {
            ("records", ""): seen["records"],
            **{(f"records_{fate}", ""): seen[fate] for fate in ("sampled_out", "unidentified", "unreadable")},
            ("spans_exported", ""): counts.exported,
            **{("spans_dropped", reason): count for reason, count in counts.dropped.items()},
        }

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Sends what waits, for `timeout_s` seconds at most."""
        self._closing.set()
        if self.queue is not None:
            self.queue.close(timeout_s)


def start(settings: TelemetrySettings, node: str, version: str) -> Telemetry:
    """Telemetry of the agent on `node`. Without an end point no thread runs. Resource attributes and service name are taken from OTEL_* by
    OpenTelemetry's own detector."""
    defaults = Resource({"service.name": "wharfinger-agent", "service.version": version, "k8s.node.name": node})
    resource = Resource.create(dict(defaults.merge(OTELResourceDetector().detect()).attributes))
    envelope = Envelope(resource, InstrumentationScope("wharfinger", version))
    queue = None
    if settings.collector is not None:
        queue = SpanQueue(Collector(settings.collector), envelope.request, size=settings.queue_spans, batch=settings.batch_spans,
                          delay_ms=settings.delay_ms)
    names = Names()
    connections = ConnectionSpans(settings.key, settings.sampling, names, queue)
    return Telemetry(settings.key, settings.sampling, names, connections, TableSpans(envelope, queue), queue)

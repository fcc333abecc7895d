"""The edge: settings to a running exporter."""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ._connections import ConnectionSpans
from ._export import Counts, SpanQueue
from ._names import Names
from ._settings import TelemetrySettings
from ._spans import Emitter
from ._writes import TableSpans

CLOSE_S = 3.0


@dataclass(frozen=True)
class Telemetry:
    """All that the agent holds of telemetry."""

    names: Names
    connections: ConnectionSpans
    tables: TableSpans
    queue: SpanQueue | None

    @property
    def wanted(self) -> bool:
        """Whether connections are to be reported by the programs: the value of SETTING_EVENTS."""
        return self.connections.wanted

    def counters(self) -> dict[str, int]:
        """Name -> count since the start, for the agent's metrics: wharfinger_trace_<name>_total."""
        counts, seen = self.queue.counts() if self.queue else Counts(0, 0, 0), self.connections.seen
        return {
            "records": seen.records, "records_sampled_out": seen.sampled_out, "records_unidentified": seen.unidentified,
            "records_unreadable": seen.unreadable,
            "spans_exported": counts.exported, "spans_dropped": counts.dropped, "spans_lost": counts.lost,
        }

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Sends what waits, for `timeout_s` seconds at most."""
        if self.queue is not None:
            self.queue.close(timeout_s)


def start(settings: TelemetrySettings, node: str, version: str) -> Telemetry:
    """Telemetry of the agent on `node`. Without an end point no thread runs. End point, headers, time-outs, certificates, compression,
    resource attributes and service name are taken from OTEL_* by OpenTelemetry's own exporter and detector."""
    defaults = Resource({"service.name": "wharfinger-agent", "service.version": version, "k8s.node.name": node})
    resource = Resource.create(dict(defaults.merge(OTELResourceDetector().detect()).attributes))
    emitter = Emitter(resource, InstrumentationScope("wharfinger", version))
    queue = None
    if settings.exports:
        queue = SpanQueue(OTLPSpanExporter(), size=settings.queue_spans, batch=settings.batch_spans, delay_ms=settings.delay_ms)
    names = Names()
    return Telemetry(names, ConnectionSpans(settings.key, settings.sampling, names, emitter, queue), TableSpans(emitter, queue), queue)

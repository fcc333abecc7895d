"""Logs as JSON on standard error; spans over OTLP http/protobuf.

A reconcile is one trace, from the moment a change was noticed to each node's table write: its context goes with the slices it writes as an
annotation, which agents continue. Without an endpoint nothing is exported, but the identities are made all the same.
"""

from __future__ import annotations

import logging
import os
import sys

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode
from structlog.typing import Processor
from wharfinger_api import ServicePortPool

from .metrics import Counts

SERVICE = "wharfinger-operator"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SHUTDOWN_MS = 3000


def configure_logs(level: str) -> None:
    """structlog and the standard library's loggers (kopf's) alike: a JSON object a line, on standard error."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.format_exc_info]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number), logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()]))
    logging.basicConfig(level=number, handlers=[handler], force=True)
    # kopf tells of every event that a handler took, aiohttp of every probe: noise.
    for noisy in ("kopf.objects", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))


class Telemetry:
    """The tracer, what was counted, and what ends it."""

    def __init__(self) -> None:
        self.counts = Counts()
        resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or SERVICE})
        self._provider = TracerProvider(resource=resource)
        if any(os.environ.get(name) for name in ENDPOINTS):
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SERVICE)

    def reconcile(self, pool: ServicePortPool, noticed_ns: int) -> Span:
        """A span for one reconcile of `pool` that began at `noticed_ns` (Unix time, nanoseconds). The caller ends it."""
        return self._tracer.start_span("reconcile", start_time=noticed_ns, attributes={
            "wharfinger.pool": "/".join(pool.key), "wharfinger.generation": pool.metadata.generation})

    def close(self) -> None:
        """Exports what is left."""
        self._provider.force_flush(SHUTDOWN_MS)
        self._provider.shutdown()


def traceparent(span: Span) -> str:
    """The span's context as W3C Trace Context writes it (section 3.2)."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def failed(span: Span, error: Exception) -> None:
    """Marks the span as failed."""
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, str(error)))

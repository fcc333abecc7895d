"""Who speaks: what goes around spans in a request, and spans of the SDK as the bytes that the queue takes."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds a message."""
    size, tag = len(content), bytes([number << 3 | 2])
    length = bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return tag + length + bytes([size]) + content


class Envelope:
    """The agent's resource and instrumentation scope, on every request alike."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self.resource, self.scope = resource, scope
        blank = ReadableSpan(name="", context=SpanContext(1, 1, False), resource=resource, instrumentation_scope=scope)
        (of_resource,) = encode_spans([blank]).resource_spans
        (of_scope,) = of_resource.scope_spans
        self._before = ResourceSpans(resource=of_resource.resource).SerializeToString()
        self._within = ScopeSpans(scope=of_scope.scope).SerializeToString()

    def request(self, spans: bytes) -> bytes:
        """An ExportTraceServiceRequest of spans, each a field of ScopeSpans, joined."""
        scope_spans = _field(ResourceSpans.SCOPE_SPANS_FIELD_NUMBER, self._within + spans)
        return _field(ExportTraceServiceRequest.RESOURCE_SPANS_FIELD_NUMBER, self._before + scope_spans)

    def span(self, span: ReadableSpan) -> bytes:
        """A span of the SDK as a field of ScopeSpans."""
        return ScopeSpans(spans=encode_spans([span]).resource_spans[0].scope_spans[0].spans).SerializeToString()

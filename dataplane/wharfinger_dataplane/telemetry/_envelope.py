"""Who speaks: what goes around spans in a request, and spans of the SDK as the bytes that the queue takes."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext


def _head(field: int, size: int) -> bytes:
    """What stands before a message of `size` bytes as a field of protobuf."""
    head = bytearray([field << 3 | 2])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size])


class Envelope:
    """The agent's resource and instrumentation scope, on every request alike."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self.resource, self.scope = resource, scope
        blank = ReadableSpan(name="", context=SpanContext(1, 1, False), resource=resource, instrumentation_scope=scope)
        (of_resource,) = encode_spans([blank]).resource_spans
        (of_scope,) = of_resource.scope_spans
        self._before = ResourceSpans(resource=of_resource.resource).SerializeToString()
        self._within = ScopeSpans(scope=of_scope.scope).SerializeToString()

    def request(self, spans: Sequence[bytes]) -> bytes:
        """An ExportTraceServiceRequest of spans, each a field of ScopeSpans."""
        size = len(self._within) + sum(map(len, spans))
        scope = _head(ResourceSpans.SCOPE_SPANS_FIELD_NUMBER, size)
        resource = _head(ExportTraceServiceRequest.RESOURCE_SPANS_FIELD_NUMBER, len(self._before) + len(scope) + size)
        return b"".join([resource, self._before, scope, self._within, *spans])

    def span(self, span: ReadableSpan) -> bytes:
        """A span of the SDK as a field of ScopeSpans."""
        return ScopeSpans(spans=encode_spans([span]).resource_spans[0].scope_spans[0].spans).SerializeToString()

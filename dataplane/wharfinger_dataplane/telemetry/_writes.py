"""The agent's part in a reconcile's trace: the operator leaves its traceparent on the slices, agents add their table writes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from ._envelope import Envelope
from ._export import SpanQueue

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


def parent_of(traceparent: str) -> SpanContext | None:
    """The parent that a W3C traceparent names (Trace Context, section 3.2); None when it is malformed, which is to be ignored."""
    found = TRACEPARENT.fullmatch(traceparent.strip())
    if found is None:
        return None
    trace, span, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace, span, True, TraceFlags(flags))


class TableSpans:
    """Spans "table write"."""

    def __init__(self, envelope: Envelope, queue: SpanQueue | None) -> None:
        self._envelope, self._queue = envelope, queue
        self._ids = RandomIdGenerator()

    def table_write(self, traceparent: str, slice_names: Sequence[str], start_ns: int, end_ns: int, writes: int) -> None:
        """One write of tables for slices (namespace/name) of one reconcile; `writes` counts values. Times are wall clock, in nanoseconds
        since 1970.

        Nothing happens when the reconcile is not sampled or `traceparent` is none. Never waits.
        """
        parent = parent_of(traceparent)
        if self._queue is None or parent is None or not parent.trace_flags.sampled:
            return
        self._queue.offer([self._envelope.span(ReadableSpan(
            name="table write",
            context=SpanContext(parent.trace_id, self._ids.generate_span_id(), False, parent.trace_flags),
            parent=parent,
            resource=self._envelope.resource,
            instrumentation_scope=self._envelope.scope,
            kind=SpanKind.INTERNAL,
            attributes={"wharfinger.slices": tuple(slice_names), "wharfinger.table.writes": writes},
            start_time=start_ns,
            end_time=end_ns,
        ))])

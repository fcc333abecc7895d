"""The way out: a bounded queue and one thread. Whoever offers spans never waits; what finds no room or no collector is counted and gone.

OpenTelemetry's BatchSpanProcessor has this shape (OTEL_BSP_* mean the same here) but drops without a count that can be read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """Spans since the start: taken by the collector, dropped for want of room, lost because the collector was away, slow or refused."""

    exported: int
    dropped: int
    lost: int


class SpanQueue:
    """Spans on their way to `exporter`: `size` at most wait, `batch` at most go at once, `delay_ms` at most pass before a lone one goes."""

    def __init__(self, exporter: SpanExporter, *, size: int, batch: int, delay_ms: int) -> None:
        self._exporter, self._size, self._batch, self._delay_s = exporter, size, batch, delay_ms / 1000
        self._waiting: deque[ReadableSpan] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._exported = self._dropped = self._lost = 0
        self._thread = threading.Thread(target=self._work, name="wharfinger-spans", daemon=True)
        self._thread.start()

    def offer(self, spans: Sequence[ReadableSpan]) -> None:
        """Takes what there is room for and counts the rest. Holds a lock that is never held while anything is sent."""
        with self._changed:
            room = 0 if self._closing else max(0, self._size - len(self._waiting))
            self._waiting.extend(spans[:room])
            self._dropped += len(spans) - min(room, len(spans))
            if len(self._waiting) >= self._batch:
                self._changed.notify()

    def counts(self) -> Counts:
        with self._changed:
            return Counts(self._exported, self._dropped, self._lost)

    def close(self, timeout_s: float) -> None:
        """Sends what waits, for `timeout_s` seconds at most, and ends the thread; later offers are dropped and counted."""
        until = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            self._lost += len(self._waiting)
            self._waiting.clear()
        self._exporter.shutdown()  # ends an export that still repeats itself
        self._thread.join(max(0.1, until - time.monotonic()))

    def _work(self) -> None:
        while batch := self._next_batch():
            taken = self._export(batch)
            with self._changed:
                self._exported += len(batch) if taken else 0
                self._lost += 0 if taken else len(batch)

    def _next_batch(self) -> list[ReadableSpan]:
        """A full batch, or after the delay whatever there is; empty only when closing and nothing is left."""
        with self._changed:
            until = time.monotonic() + self._delay_s
            while not self._closing and len(self._waiting) < self._batch:
                rest_s = until - time.monotonic()
                if rest_s <= 0 and self._waiting:
                    break
                self._changed.wait(rest_s if rest_s > 0 else self._delay_s)
            return [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]

    def _export(self, batch: list[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # the exporter is not ours, and its thread must outlive whatever it raises
            log.exception("exporting %d spans", len(batch))
            return False

"""The way out: a bounded queue of encoded spans and one thread. Whoever offers spans never waits; what does not arrive is counted, by reason.

OpenTelemetry's BatchSpanProcessor has this shape (OTEL_BSP_* mean the same here) but drops without a count that can be read.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ._collector import Answer, Collector

log = logging.getLogger(__name__)

BEHIND = 10
"""Niceness of telemetry's threads: where processors are short, what else the agent does goes first, and events wait in the ring or are lost
there and counted. 19 would be a seventieth of a processor and so mean loss; 10 is a tenth. Against other pods the container's share counts."""
BACKOFF_S = (1.0, 2.0, 4.0, 8.0)
PAUSE_MAX_S = 300.0
"""The longest that a collector's Retry-After is obeyed."""
BATCH_BYTES = 900_000
"""Of spans in one request at most, if it is not one alone: a proxy before a collector takes 1 MiB unless it is told otherwise."""
REASONS = ("queue_full", "unreachable", "timeout", "refused", "rejected", "ended")
"""Why a span was dropped: no room in the queue; nobody answered at the collector's address, or not in time; it answered that it would not
have the batch, or that it would not have this span; it still waited when the agent ended."""


def step_behind() -> None:
    """The thread that calls it, alone, goes behind the others."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(BEHIND, os.getpriority(os.PRIO_PROCESS, thread)))


@dataclass
class Counts:
    """Spans since the start: offered = exported + dropped + waiting, at any moment. `waiting` is of now, those being sent among them."""

    exported: int = 0
    waiting: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))


class SpanQueue:
    """Spans on their way to `collector`: `size` at most wait, `batch` of them and BATCH_BYTES at most go at once, `delay_ms` at most pass
    before a lone one goes. Spans are bytes, each a field of ScopeSpans; `envelope` makes a request of several."""

    def __init__(self, collector: Collector, envelope: Callable[[Sequence[bytes]], bytes], *, size: int, batch: int, delay_ms: int) -> None:
        self._collector, self._envelope = collector, envelope
        self._size, self._batch, self._delay_s = size, batch, delay_ms / 1000
        self._waiting: deque[bytes] = deque()
        self._sending = 0
        self._changed = threading.Condition()
        self._closing = False
        self._counts = Counts()
        self._backoff = 0
        self._failing = ""
        self._thread = threading.Thread(target=self._work, name="wharfinger-spans", daemon=True)
        self._thread.start()

    def offer(self, spans: Sequence[bytes]) -> None:
        """Takes what there is room for and counts the rest. Holds a lock that is never held while anything is sent."""
        if not spans:
            return
        with self._changed:
            room = 0 if self._closing else max(0, self._size - len(self._waiting) - self._sending)
            self._waiting.extend(spans[:room])
            self._counts.dropped["ended" if self._closing else "queue_full"] += len(spans) - min(room, len(spans))
            if len(self._waiting) >= self._batch:
                self._changed.notify()

    def counts(self) -> Counts:
        with self._changed:
            return Counts(self._counts.exported, len(self._waiting) + self._sending, dict(self._counts.dropped))

    def close(self, timeout_s: float) -> None:
        """Sends what waits, for `timeout_s` seconds at most, and ends the thread; later offers are dropped and counted."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            self._counts.dropped["ended"] += len(self._waiting) + self._sending
            self._waiting.clear()
            self._sending = 0
        self._collector.close()

    def _work(self) -> None:
        step_behind()
        while batch := self._next_batch():
            answer = self._deliver(self._envelope(batch))
            with self._changed:
                if not self._sending:  # closed meanwhile, and counted as such
                    return
                self._sending = 0
                lost = min(answer.rejected, len(batch)) if not answer.reason else len(batch)
                self._counts.exported += len(batch) - lost
                self._counts.dropped[answer.reason or "rejected"] += lost

    def _next_batch(self) -> list[bytes]:
        """A full batch, or after the delay whatever there is; empty only when closing and nothing is left."""
        with self._changed:
            until = time.monotonic() + self._delay_s
            while not self._closing and len(self._waiting) < self._batch:
                rest_s = until - time.monotonic()
                if rest_s <= 0 and self._waiting:
                    break
                self._changed.wait(rest_s if rest_s > 0 else self._delay_s)
            batch, left = [], BATCH_BYTES
            while self._waiting and len(batch) < self._batch and (not batch or len(self._waiting[0]) <= left):
                batch.append(self._waiting.popleft())
                left -= len(batch[-1])
            self._sending = len(batch)
            return batch

    def _deliver(self, body: bytes) -> Answer:
        """Posts a batch, again and again while that may help and its time lasts. The pauses grow from batch to batch until one is taken."""
        until = time.monotonic() + self._collector.settings.timeout_s
        while True:
            answer = self._post(body)
            self._tell(answer)
            if not answer.again:
                self._backoff = 0
                return answer
            pause_s = answer.pause_s if answer.pause_s is not None else BACKOFF_S[self._backoff] * random.uniform(0.8, 1.2)
            self._backoff = min(self._backoff + 1, len(BACKOFF_S) - 1)
            if self._paused_until_closing(min(pause_s, PAUSE_MAX_S)) or time.monotonic() > until:
                return answer

    def _post(self, body: bytes) -> Answer:
        try:
            return self._collector.post(body)
        except Exception as error:  # the thread must outlive whatever foreign libraries raise, as for a header that cannot be sent
            return Answer("unreachable", repr(error))

    def _paused_until_closing(self, pause_s: float) -> bool:
        """Whether it is closing, after `pause_s` seconds or as soon as it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closing, pause_s)

    def _tell(self, answer: Answer) -> None:
        """A line of log when the collector fails in another way than before, or no more: the counters have the rest."""
        if answer.reason != self._failing:
            self._failing = answer.reason
            if answer.reason:
                log.warning("the collector at %s takes no spans (%s): %s", self._collector.settings.url, answer.reason, answer.words)
            else:
                log.warning("the collector at %s takes spans", self._collector.settings.url)

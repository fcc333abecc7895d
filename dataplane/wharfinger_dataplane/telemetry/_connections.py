"""Records of the ring buffer to spans: told apart, identified, sampled, and only then made into objects."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan

from .._records import EVENT_ESTABLISHED_AT, EVENT_ISN_AT, EVENT_KIND_AT, EventKind, unpack_event
from ._export import SpanQueue
from ._identity import trace_id_of_record
from ._names import Names
from ._sampling import MASK, Sampling
from ._spans import Emitter, connection_span

ISN_AT = slice(EVENT_ISN_AT, EVENT_ISN_AT + 4)
ESTABLISHED_AT = slice(EVENT_ESTABLISHED_AT, EVENT_ESTABLISHED_AT + 8)
NO_ISN, NO_TIME = bytes(4), bytes(8)
CLOSED = EventKind.CLOSED.value


@dataclass
class Seen:
    """Records by what became of them, since the start. `sampled_out`: not in the sample; `unidentified`: the end of a connection whose
    beginning its server never saw (an entry rebuilt in mid-stream), so that nobody can name its trace; `unreadable`: of another size, or
    with numbers that this version does not know, as a ring buffer adopted from another version may hold."""

    records: int = 0
    sampled_out: int = 0
    unidentified: int = 0
    unreadable: int = 0


def clock_offset_ns() -> int:
    """Wall clock minus CLOCK_MONOTONIC, now: the kernel's programs stamp with bpf_ktime_get_ns, which is the latter."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    wall = time.time_ns()
    return wall - (before + time.clock_gettime_ns(time.CLOCK_MONOTONIC)) // 2


class ConnectionSpans:
    """The agent's consumer of struct event. Keeps nothing of a connection: a closing record carries all its times."""

    def __init__(self, key: bytes, sampling: Sampling, names: Names, emitter: Emitter, queue: SpanQueue | None,
                 offset_ns: Callable[[], int] = clock_offset_ns) -> None:
        self._key, self._sampling, self._names, self._emitter, self._queue = key, sampling, names, emitter, queue
        self._offset_ns = offset_ns
        self.seen = Seen()

    @property
    def wanted(self) -> bool:
        """Whether the programs should report connections at all (SETTING_EVENTS)."""
        return self._queue is not None and self._sampling.wanted

    def consume(self, records: Sequence[bytes]) -> None:
        """Makes spans of `records` (struct event, 104 bytes each) and queues them. Never waits for the collector."""
        if self._queue is None or not records:
            return
        self.seen.records += len(records)
        spans = self._spans(records, self._offset_ns())
        if spans:
            self._queue.offer(spans)

    def _spans(self, records: Sequence[bytes], offset_ns: int) -> list[ReadableSpan]:
        key, threshold, spans, sampled_out = self._key, self._sampling.threshold, [], 0
        for record in records:
            try:
                trace = trace_id_of_record(key, record)
                if trace & MASK < threshold:
                    sampled_out += 1
                elif record[EVENT_KIND_AT] == CLOSED and record[ISN_AT] == NO_ISN and record[ESTABLISHED_AT] == NO_TIME:
                    self.seen.unidentified += 1
                else:
                    spans.append(connection_span(unpack_event(record), trace, offset_ns, self._names, self._emitter))
            except (struct.error, ValueError, LookupError):
                self.seen.unreadable += 1
        self.seen.sampled_out += sampled_out
        return spans

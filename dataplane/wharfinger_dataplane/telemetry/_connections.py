"""From the ring buffer to the queue: what the thread of the agent that reads events does, over and over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .._bpf import Ring
from .._engine import REASONS
from ._export import SpanQueue
from ._names import Names
from ._sampling import Sampling
from ._sieve import Sieve
from ._spans import SpanWriter


def clock_offset_ns() -> int:
    """Wall clock minus CLOCK_MONOTONIC, now: the kernel's programs stamp with bpf_ktime_get_ns, which is the latter."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    wall = time.time_ns()
    return wall - (before + time.clock_gettime_ns(time.CLOCK_MONOTONIC)) // 2


class ConnectionSpans:
    """The agent's consumer of struct event, for one thread. Never waits for the collector."""

    def __init__(self, key: bytes, sampling: Sampling, names: Names, queue: SpanQueue | None,
                 offset_ns: Callable[[], int] = clock_offset_ns) -> None:
        self._queue, self._offset_ns = queue, offset_ns
        self._sieve = Sieve(key, sampling.traced)
        self._writer = SpanWriter(self._sieve, names, [(reason.name, reason.words) for reason in REASONS])

    def seen(self) -> dict[str, int]:
        """Records by what became of them (Sieve.seen)."""
        return self._sieve.seen()

    def drain(self, ring: Ring) -> None:
        """Makes spans of what the ring holds and queues them."""
        self._fill(lambda: self._sieve.fill_from(ring))

    def consume(self, records: Sequence[bytes]) -> None:
        """As `drain`, of `records` (struct event, 104 bytes each)."""
        left = list(records)

        def fill() -> bool:
            nonlocal left
            left = self._sieve.fill(left)
            return bool(left)

        self._fill(fill)

    def _fill(self, fill: Callable[[], bool]) -> None:
        """`fill` fills the sieve and says whether there is more."""
        if self._queue is None:
            return
        offset_ns, more = self._offset_ns(), True
        while more:
            more = fill()
            self._queue.offer(self._writer.take(offset_ns))

"""Records of connections as the kernel hands them out: some at a time, one after the other in two buffers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wharfinger_dataplane._records import Batch


def batch_of(items: Iterable[tuple[bytes, bytes]]) -> Batch:
    """One batch of these (key, value)."""
    found = list(items)
    return Batch(len(found), b"".join(key for key, _ in found), b"".join(value for _, value in found))


def batches_of(items: Iterable[tuple[bytes, bytes]], size: int) -> Iterator[Batch]:
    """Batches of at most `size`."""
    found = list(items)
    return (batch_of(found[n : n + size]) for n in range(0, len(found), size))

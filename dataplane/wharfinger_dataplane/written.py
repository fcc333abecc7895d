"""What stands in the store, write by write, and the way back from what was written since the last `keep`.

Rules:
- Values are this process's own; `stale` are keys that it found. A key is one or the other: both together are what the store holds, so
  nobody need list a table to count it.
- A way back never needs room: it restores values and removes keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from wharfinger_dataplane import _records as records

SCOPED = ("server_ports", "servers", "sets")
"""Tables whose values bear the scope of the pool that they belong to."""


class Store(Protocol):
    """Where tables live: an Engine in memory, or the kernel's maps. Keys and values are bytes of the C structures.

    `put` raises OSError with errno E2BIG when the table holds `capacity` entries; after `outdate` connections look up again
    what they remember of the tables.
    """

    def put(self, table: str, key: bytes, value: bytes) -> None: ...
    def get(self, table: str, key: bytes) -> bytes | None: ...
    def delete(self, table: str, key: bytes) -> bool: ...
    def items(self, table: str) -> list[tuple[bytes, bytes]]: ...
    def capacity(self, table: str) -> int: ...
    def outdate(self) -> None: ...


class Written:
    """The tables `tables` of a store. `removals` counts keys removed for good: room that came back."""

    def __init__(self, store: Store, tables: Iterable[str]) -> None:
        self._store = store
        self.own: dict[str, dict[bytes, bytes]] = {table: {} for table in tables}
        self.stale: dict[str, dict[bytes, int]] = {table: {} for table in self.own}
        """Keys found, each with its scope (0 where values bear none)."""
        self.removals = 0
        self._back: list[tuple[str, bytes, bytes | None, int | None]] = []

    def adopt(self) -> None:
        """Learns what the store holds."""
        for table in self.own:
            self.stale[table] = {key: records.unpack_scope(table, value) if table in SCOPED else 0 for key, value in self._store.items(table)}

    def count(self, table: str) -> int:
        """Entries that the store holds."""
        return len(self.own[table]) + len(self.stale[table])

    def room(self, table: str) -> int:
        return self._store.capacity(table) - self.count(table)

    def holds(self, table: str, key: bytes) -> bool:
        return key in self.own[table] or key in self.stale[table]

    def value(self, table: str, key: bytes) -> bytes | None:
        """What stands under `key`, whoever wrote it."""
        found = self.own[table].get(key)
        return self._store.get(table, key) if found is None and key in self.stale[table] else found

    def put(self, table: str, key: bytes, value: bytes) -> int:
        """Writes what is not so yet; the number of writes. OSError: it does not fit, and nothing changed."""
        if self.own[table].get(key) == value:
            return 0
        former = self.value(table, key)
        self._store.put(table, key, value)
        self._back.append((table, key, former, self.stale[table].pop(key, None)))
        self.own[table][key] = value
        return 1

    def amend(self, table: str, key: bytes, value: bytes) -> None:
        """Writes a found value anew; it stays a found one, and there is no way back."""
        if self.value(table, key) != value:
            self._store.put(table, key, value)

    def delete(self, table: str, key: bytes) -> int:
        """Removes what stands; the number of writes."""
        if not self.holds(table, key):
            return 0
        former = self.value(table, key)
        self._store.delete(table, key)
        self._back.append((table, key, former, self.stale[table].pop(key, None)))
        self.own[table].pop(key, None)
        return 1

    def keep(self) -> None:
        """What was written since the last call is to stay."""
        self.removals += sum(key not in self.own[table] for table, key, _, _ in self._back)
        self._back.clear()

    def roll_back(self) -> None:
        """Takes back what was written since the last `keep`, the latest first. OSError: the kernel has no memory; call again to go on."""
        while self._back:
            table, key, former, scope = self._back[-1]
            if former is None:
                self._store.delete(table, key)
            else:
                self._store.put(table, key, former)
            self.own[table].pop(key, None)
            if scope is not None:
                self.stale[table][key] = scope
            elif former is not None:
                self.own[table][key] = former
            self._back.pop()

"""From ServicePortSlices to the tables of dataplane/bpf/tables.h: the least that makes the store so, pool by pool.

Rules:
- A pool is compiled and written alone, and only when it changed. One that cannot be compiled or does not fit keeps what it had, whole, and
  is named in `faults`; no other pool feels it. It is tried again when it changes or when room came back.
- Whatever is referred to is written before what refers to it, and removed after it: a packet never finds a dangling index.
- A virtual address's directory, a page and a set are each one value: one write swaps it.
- Indexes belong to this process. A new one takes fresh indexes beside those it finds, swaps, and then removes the old. What it found of a
  pool that it has not written yet goes on serving, also at an address that the pool shares with others.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from wharfinger_api import ServicePortSlice

from wharfinger_dataplane import _records as records
from wharfinger_dataplane._maglev import maglev
from wharfinger_dataplane.fragments import NOTHING, SET, Fragment, ServerId, SetId, WantedSet, compile_pool
from wharfinger_dataplane.written import SCOPED, Store, Written

INDEXED = ("servers", "sets", "pages")
WRITE_ORDER = ("server_ports", "servers", "sets", "pages", "addresses")
KIND_TABLES = {records.PortKind.SERVER: "servers", records.PortKind.SET: "sets"}
NO_SCOPES: frozenset[int] = frozenset()
NO_INTERFACES: Mapping[int, int] = MappingProxyType({})

Pools = Mapping[str, list[ServicePortSlice]]
"""Slices by their pool's uid."""


class Indexes:
    """Small numbers for names, from 1; a number that is free is not the one freed last, so that late readers find nothing."""

    def __init__(self, taken: Iterable[int], last: int) -> None:
        self._by_name: dict[object, int] = {}
        self._taken = set(taken)
        self._last = last
        self._next = 1
        self.given: list[object] = []
        """Names that got their number since this list was last cleared."""

    def of(self, name: object) -> int:
        """The name's number, given now if it has none."""
        if name not in self._by_name:
            if len(self._taken) >= self._last:
                raise OSError(errno.E2BIG, f"all {self._last} indexes of a table are taken")
            while self._next in self._taken:
                self._next = self._next % self._last + 1
            self._by_name[name] = self._next
            self._taken.add(self._next)
            self._next = self._next % self._last + 1
            self.given.append(name)
        return self._by_name[name]

    def release(self, name: object) -> None:
        number = self._by_name.pop(name, None)
        self._taken.discard(number)

    def forget(self, number: int) -> None:
        """A number found in the store is free again."""
        self._taken.discard(number)


@dataclass(frozen=True)
class Refusal:
    """Why a pool was not written, and as of when: it is not tried again before its slices or the room change."""

    why: str
    signature: tuple
    removals: int | None
    """None: no room helps."""


@dataclass
class Changes:
    """One pool's writes. `released`: names whose numbers are free once all is written."""

    puts: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: {table: {} for table in WRITE_ORDER})
    gone: dict[str, set[bytes]] = field(default_factory=lambda: {table: set() for table in WRITE_ORDER})
    released: list[tuple[str, object]] = field(default_factory=list)


class Tables:
    """The store's tables as this process keeps them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written = Written(store, WRITE_ORDER)
        self._pods: set[str] = set()
        self._fragments: dict[str, Fragment] = {}
        self._at_address: dict[str, set[str]] = defaultdict(set)
        self._owners: dict[bytes, str] = {}
        self._signatures: dict[str, tuple] = {}
        self._refusals: dict[str, Refusal] = {}
        self._borrowed: set[str] = set()
        """Virtual addresses written anew with ports that lead to what was found."""
        self._indexes = {table: Indexes((), store.capacity(table)) for table in INDEXED}

    @property
    def faults(self) -> dict[str, str]:
        """Pools (uid) whose last change could not be applied, and why."""
        return {uid: refusal.why for uid, refusal in self._refusals.items()}

    @property
    def bereft(self) -> bool:
        """Whether there is a pool of which this process could write nothing at all: it lives by what a former one wrote."""
        return bool(self._refusals.keys() - self._fragments.keys())

    def adopt(self) -> None:
        """Learns what a former process left: it goes on serving until `apply` has written its successor beside it."""
        self._written.adopt()
        for table in INDEXED:
            taken = (records.unpack_index(key) for key in self._written.stale[table])
            self._indexes[table] = Indexes(taken, self._store.capacity(table))
        self._pods = set(self.pods())

    def counts(self) -> dict[str, int]:
        """Entries of each table that the agent writes. May be called from any thread."""
        return {"pods": len(self._pods), **{table: self._written.count(table) for table in WRITE_ORDER}}

    def apply(self, slices: Iterable[ServicePortSlice]) -> int:
        """Makes the tables those of `slices` (all of the cluster's); the number of values written or removed.

        OSError: the kernel has no memory to take back what did not fit, or does not answer; nothing dangles, and the next call goes on."""
        self._take_back()
        pools: dict[str, list[ServicePortSlice]] = {}
        for piece in sorted(slices, key=lambda piece: (piece.metadata.namespace, piece.metadata.name)):
            pools.setdefault(piece.spec.pool.uid, []).append(piece)
        self._refusals = {uid: refusal for uid, refusal in self._refusals.items() if uid in pools}
        before, writes, removals = self._written.removals, 0, -1
        while removals != self._written.removals:  # what was removed may be room for a pool that found none
            removals = self._written.removals
            writes += self._apply_changed(pools) + self._remove_stale(pools)
        if self._written.removals != before:
            self._store.outdate()
        return writes

    def put_pod(self, address: str, ifindex: int, roles: records.Role, netns: int = -1) -> None:
        """A pod of this node bears our programs at `ifindex` (host side); `netns`: its namespace as the node numbers it, -1: not known."""
        self._store.put("pods", records.pack_address(address), records.pack_pod(ifindex, roles, netns))
        self._pods.add(address)

    def put_interfaces(self, bits: Mapping[int, records.InterfaceBit], incoming: Mapping[int, int] = NO_INTERFACES) -> int:
        """The node's interfaces are these (index -> bits; index -> the interface that the stack takes for the incoming one, where that is
        another), and no others; the number of values written or removed."""
        wanted = {records.pack_index(index): records.pack_interface(bits.get(index, 0), incoming.get(index, 0))
                  for index in bits.keys() | incoming.keys() if bits.get(index) or incoming.get(index)}
        found = dict(self._store.items("interfaces"))
        changed = {key: value for key, value in wanted.items() if found.get(key) != value}
        for key, value in changed.items():
            self._store.put("interfaces", key, value)
        for key in found.keys() - wanted.keys():
            self._store.delete("interfaces", key)
        return len(changed) + len(found.keys() - wanted.keys())

    def remove_pod(self, address: str) -> None:
        self._store.delete("pods", records.pack_address(address))
        self._pods.discard(address)

    def pods(self) -> dict[str, records.Pod]:
        """Address -> interface and roles, as the store has them."""
        return {records.unpack_address(key): records.unpack_pod(value) for key, value in self._store.items("pods")}

    # pools

    def _apply_changed(self, pools: Pools) -> int:
        signatures = {uid: tuple((piece.metadata.uid, piece.metadata.generation, piece.spec.virtual_addresses) for piece in pieces)
                      for uid, pieces in pools.items()}
        fresh = {}
        for uid in {*signatures, *self._signatures}:
            signature, refusal = signatures.get(uid), self._refusals.get(uid)
            if signature == self._signatures.get(uid):
                self._refusals.pop(uid, None)  # it is again what it was
            elif refusal is None or refusal.signature != signature or refusal.removals not in (None, self._written.removals):
                try:
                    fresh[uid] = compile_pool(pools.get(uid, ()))
                except ValueError as error:
                    self._refusals[uid] = Refusal(str(error), signature, None)
        writes = 0
        # Those that shrink go first: they make room for those that grow, and what does not fit is what grows most.
        for uid, fragment in sorted(fresh.items(), key=lambda item: (self._growth(*item), item[0])):
            writes += self._write_pool(uid, fragment, signatures.get(uid), pools)
        return writes

    def _growth(self, uid: str, fragment: Fragment) -> int:
        return len(fragment.server_ports) - len(self._fragments.get(uid, NOTHING).server_ports)

    def _write_pool(self, uid: str, fragment: Fragment, signature: tuple | None, pools: Pools) -> int:
        """Writes one pool, or nothing of it and a refusal; the number of writes."""
        try:
            changes = self._changes(uid, fragment, pools)
            self._check_room(changes)
            writes = self._store_changes(changes)
        except OSError as error:
            self._take_back()
            self._refusals[uid] = Refusal(error.strerror or str(error), signature or (), self._written.removals if error.errno == errno.E2BIG else -1)
            return 0
        self._settle(changes)
        self._owners.update(dict.fromkeys(fragment.server_ports, uid))
        for key in changes.gone["server_ports"]:
            del self._owners[key]
        for address in self._fragments.get(uid, NOTHING).ports:
            self._at_address[address].discard(uid)
        for address in fragment.ports:
            self._at_address[address].add(uid)
        self._refusals.pop(uid, None)
        if signature is None:
            self._fragments.pop(uid, None)
            self._signatures.pop(uid, None)
        else:
            self._fragments[uid], self._signatures[uid] = fragment, signature
        return writes

    def _settle(self, changes: Changes) -> None:
        """What was written stays."""
        self._written.keep()
        for table, name in changes.released:
            self._indexes[table].release(name)
        for indexes in self._indexes.values():
            indexes.given.clear()

    def _take_back(self) -> None:
        """Undoes what a pool that was refused had written and numbered."""
        self._written.roll_back()
        for indexes in self._indexes.values():
            for name in indexes.given:
                indexes.release(name)
            indexes.given.clear()

    def _check_room(self, changes: Changes) -> None:
        """OSError (E2BIG) when the pool cannot fit: said beforehand, with the numbers that help."""
        for table, puts in changes.puts.items():
            needed, room = sum(not self._written.holds(table, key) for key in puts), self._written.room(table)
            if needed > room:
                raise OSError(errno.E2BIG, f"table {table} is full: {needed} more entries are needed and {room} of its "
                              f"{self._store.capacity(table)} are free; use fewer redirect ports or servers, or raise the table's capacity "
                              "(chart value agent.capacities)")

    def _changes(self, uid: str, fragment: Fragment, pools: Pools) -> Changes:
        out, old = Changes(), self._fragments.get(uid, NOTHING)
        out.puts["server_ports"] = fragment.server_ports
        # A service port that another pool has taken over meanwhile is that pool's.
        out.gone["server_ports"] = {key for key in old.server_ports.keys() - fragment.server_ports.keys() if self._owners.get(key) == uid}
        for table, wanted, former in (("servers", fragment.servers, old.servers), ("sets", fragment.sets, old.sets)):
            for name in former.keys() - wanted.keys():
                out.gone[table].add(self._key(table, name))
                out.released.append((table, name))
        for name, state in fragment.servers.items():
            out.puts["servers"][self._key("servers", name)] = records.pack_server(name[1], name[0], state)
        for name, wanted in fragment.sets.items():
            if old.sets.get(name) != wanted:
                out.puts["sets"][self._key("sets", name)] = self._pack_set(name[0], wanted)
        pending = self._pending(pools) - {piece.spec.scope for piece in pools.get(uid, ())}
        for address in {*fragment.ports, *old.ports}:
            self._change_address(address, uid, fragment, pending, out)
        return out

    def _store_changes(self, changes: Changes) -> int:
        writes = sum(self._written.put(table, key, value) for table in WRITE_ORDER for key, value in changes.puts[table].items())
        return writes + sum(self._written.delete(table, key) for table in reversed(WRITE_ORDER) for key in changes.gone[table])

    # addresses

    def _change_address(self, address: str, uid: str, fragment: Fragment, pending: frozenset[int], out: Changes) -> None:
        """All pools' ports of one virtual address, as pages and their directory."""
        pages: dict[int, dict[int, tuple[records.PortKind, int]]] = {}
        key = records.pack_address_key(address)
        if found := self._found(key, pending):
            self._borrowed.add(address)
        for port, entry in found.items():
            pages.setdefault(port // records.PAGE_PORTS, {})[port % records.PAGE_PORTS] = entry
        others = [self._fragments[other].ports[address] for other in sorted(self._at_address[address] - {uid})]
        for ports in [*others, fragment.ports.get(address, {})]:
            for port, name in ports.items():
                pages.setdefault(port // records.PAGE_PORTS, {})[port % records.PAGE_PORTS] = self._port(name)
        for number, page in pages.items():
            out.puts["pages"][self._key("pages", (address, number))] = records.pack_page(page)
        former = self._written.own["addresses"].get(key)
        for number in (records.unpack_pages(former) if former else {}).keys() - pages.keys():
            out.gone["pages"].add(self._key("pages", (address, number)))
            out.released.append(("pages", (address, number)))
        if pages:
            out.puts["addresses"][key] = records.pack_pages({number: self._indexes["pages"].of((address, number)) for number in pages})
        else:
            out.gone["addresses"].add(key)

    def _port(self, name: ServerId | SetId) -> tuple[records.PortKind, int]:
        kind = records.PortKind.SET if name[1].startswith(SET) else records.PortKind.SERVER
        return kind, self._indexes[KIND_TABLES[kind]].of(name)

    def _pack_set(self, scope: int, wanted: WantedSet) -> bytes:
        indexes = [self._indexes["servers"].of(member) for member in wanted.members]
        if wanted.policy is records.Policy.HASH:
            slots = [indexes[n] for n in maglev([address.encode() for _, address in wanted.members], records.SET_SLOTS)]
        else:
            slots = indexes
        return records.pack_set(scope, wanted.policy, slots)

    def _key(self, table: str, name: object) -> bytes:
        return records.pack_index(self._indexes[table].of(name))

    # what a former process left

    def _pending(self, pools: Pools) -> frozenset[int]:
        """Scopes of the pools that live by what was found: this process has written nothing of them."""
        if not any(self._written.stale.values()):
            return NO_SCOPES
        return frozenset(piece.spec.scope for uid, pieces in pools.items() if uid not in self._fragments for piece in pieces)

    def _found(self, address: bytes, pending: frozenset[int]) -> dict[int, tuple[records.PortKind, int]]:
        """The ports of a virtual address that lead to found servers and sets of these scopes."""
        directory = self._written.value("addresses", address) if pending else None
        out = {}
        for number, index in (records.unpack_pages(directory) if directory else {}).items():
            page = self._written.value("pages", records.pack_index(index))
            for port, (kind, target) in (records.unpack_page(page) if page else {}).items():
                if self._written.stale[KIND_TABLES[kind]].get(records.pack_index(target)) in pending:
                    out[number * records.PAGE_PORTS + port] = kind, target
        return out

    def _remove_stale(self, pools: Pools) -> int:
        """Removes what was found and nobody lives by any more; how many entries."""
        stale = self._written.stale
        if not any(stale.values()):
            return 0
        pending = self._pending(pools)
        changes = Changes()
        for address in tuple(self._borrowed):
            if records.pack_address_key(address) in self._written.own["addresses"]:
                self._change_address(address, "", NOTHING, pending, changes)
        self._store_changes(changes)
        self._settle(changes)
        self._borrowed = {address for address in self._borrowed if self._found(records.pack_address_key(address), pending)}
        kept = {address for address in stale["addresses"] if self._found(address, pending)}
        pages = {number for address in kept for number in self._keep_found(address, pending)}
        gone = {"addresses": stale["addresses"].keys() - kept, "pages": stale["pages"].keys() - pages,
                **{table: {key for key, scope in stale[table].items() if scope not in pending} for table in SCOPED}}
        for table in reversed(WRITE_ORDER):
            for key in gone[table]:
                self._written.delete(table, key)
                if table in self._indexes:
                    self._indexes[table].forget(records.unpack_index(key))
        self._written.keep()
        return sum(map(len, gone.values()))

    def _keep_found(self, address: bytes, pending: frozenset[int]) -> list[bytes]:
        """Leaves a found virtual address no port but those of pools of these scopes; the keys of its pages."""
        wanted = self._found(address, pending)
        keys = []
        for number, index in records.unpack_pages(self._written.value("addresses", address)).items():
            first = number * records.PAGE_PORTS
            keys.append(records.pack_index(index))
            page = {port - first: entry for port, entry in wanted.items() if 0 <= port - first < records.PAGE_PORTS}
            self._written.amend("pages", keys[-1], records.pack_page(page))
        return keys

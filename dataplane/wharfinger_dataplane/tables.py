"""From ServicePortSlices to the tables of dataplane/bpf/tables.h: compile (pure), then write the least that makes the store so.

Rules:
- A pool is compiled alone, to a Fragment; only pools that changed are compiled again.
- Whatever is referred to is written before what refers to it, and removed after it: a packet never finds a dangling index.
- A virtual address's directory, a page and a set are each one value: one write swaps it.
- Indexes belong to this process. A new one takes fresh indexes beside those it finds, swaps, and then removes the old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from wharfinger_api import Assignment, Redirect, ServicePortSlice

from wharfinger_dataplane import _records as records
from wharfinger_dataplane._maglev import maglev

ServerId = tuple[int, str]  # scope, address
SetId = tuple[int, str]     # scope, SET and the name of the redirect pool
STATES = {"Ready": records.ServerState.READY, "Draining": records.ServerState.DRAINING}
POLICIES = {"Hash": records.Policy.HASH, "Random": records.Policy.RANDOM, "RoundRobin": records.Policy.ROUND_ROBIN}
RANKS = {"Assigned": 0, "Draining": 1, "Ready": 2}
SET = "set:"
LAST_INDEX = {"servers": 131_071, "sets": 65_535, "pages": 65_535}
"""Indexes wrap here, at most at the table's capacity (tables.h)."""
WRITE_ORDER = ("server_ports", "servers", "sets", "pages", "addresses")


class Store(Protocol):
    """Where tables live: an Engine in memory, or the kernel's maps. Keys and values are bytes of the C structures."""

    def put(self, table: str, key: bytes, value: bytes) -> None: ...
    def get(self, table: str, key: bytes) -> bytes | None: ...
    def delete(self, table: str, key: bytes) -> bool: ...
    def items(self, table: str) -> list[tuple[bytes, bytes]]: ...


@dataclass(frozen=True)
class WantedSet:
    """A redirect port's servers, in the order of their addresses."""

    policy: records.Policy
    members: tuple[ServerId, ...]


@dataclass(frozen=True)
class Fragment:
    """One pool's part of the tables, with names where the tables have indexes. `ports`: virtual address -> port -> server or set."""

    server_ports: dict[bytes, bytes] = field(default_factory=dict)
    servers: dict[ServerId, records.ServerState] = field(default_factory=dict)
    sets: dict[SetId, WantedSet] = field(default_factory=dict)
    ports: dict[str, dict[int, ServerId | SetId]] = field(default_factory=dict)


NOTHING = Fragment()


def compile_pool(slices: Iterable[ServicePortSlice]) -> Fragment:
    """The fragment of one pool from all its slices. Pure; TCP only: other protocols' targets make no entries yet.

    ValueError: a redirect pool has more ready servers than a set has slots.
    A server may have several records (docs/architecture.md, "Make before break"): all their service ports work, and it is as ready as the
    readiest; it names the ports of that one alone.
    """
    out = Fragment()
    named: dict[tuple[SetId, str], Offer] = {}
    for piece in slices:
        redirects = {redirect.name: redirect for redirect in piece.spec.redirects if redirect.protocol == "TCP"}
        ports: dict[int, ServerId | SetId] = {}
        for name, redirect in redirects.items():
            identity = piece.spec.scope, f"{SET}{name}"
            out.sets[identity] = WantedSet(POLICIES[redirect.policy], ())
            ports.update({port: identity for span in redirect.ports for port in span})
        for assignment in piece.spec.assignments:
            if assignment.state != "Resting":
                _compile_record(piece.spec.scope, assignment, redirects, ports, named, out)
        for address in piece.spec.virtual_addresses:
            out.ports.setdefault(address, {}).update(ports)
    for (identity, _), offer in sorted(named.items()):
        if offer.rank == RANKS["Ready"]:
            wanted = out.sets[identity]
            out.sets[identity] = WantedSet(wanted.policy, (*wanted.members, (identity[0], offer.address)))
    for (_, name), wanted in out.sets.items():
        if len(wanted.members) > records.SET_SLOTS:
            raise ValueError(f"redirect port pool {name.removeprefix(SET)} has {len(wanted.members)} ready servers; a set holds {records.SET_SLOTS}: "
                             "share them out among several pools")
    return out


@dataclass
class Offer:
    """What a server names for a redirect port: the service ports of its readiest records."""

    rank: int
    address: str
    ports: list[int]


def _compile_record(scope: int, record: Assignment, redirects: Mapping[str, Redirect], ports: dict[int, ServerId | SetId],
                    named: dict[tuple[SetId, str], Offer], out: Fragment) -> None:
    server, rank, state = (scope, record.address), RANKS[record.state], STATES.get(record.state)
    if state is not None and out.servers.get(server) is not records.ServerState.READY:
        out.servers[server] = state
    for target in (target for target in record.targets if target.protocol == "TCP"):
        for port in target.service_ports:
            out.server_ports[records.pack_server_port_key(record.address, port)] = records.pack_server_port(scope, target.target_port)
            if state is not None:
                ports[port] = server
        for name in record.redirects:
            if name not in redirects or redirects[name].target != target.name:
                continue
            offer = named.setdefault(((scope, f"{SET}{name}"), record.address), Offer(rank, record.address, []))
            if rank > offer.rank:
                offer.rank, offer.ports = rank, []
            if rank == offer.rank:
                offer.ports.extend(target.service_ports)
                value = records.pack_server_port(scope, target.target_port, sorted(offer.ports)[:records.SERVICE_PORTS_MAX])
                for span in redirects[name].ports:
                    out.server_ports.update({records.pack_server_port_key(record.address, port, scope): value for port in span})


class Indexes:
    """Small numbers for names, from 1; a number that is free is not the one freed last, so that late readers find nothing."""

    def __init__(self, taken: Iterable[int], last: int) -> None:
        self._by_name: dict[object, int] = {}
        self._taken = set(taken)
        self._last = last
        self._next = 1

    def of(self, name: object) -> int:
        """The name's number, given now if it has none."""
        if name not in self._by_name:
            if len(self._taken) >= self._last:
                raise OSError(f"all {self._last} indexes of a table are taken")
            while self._next in self._taken:
                self._next = self._next % self._last + 1
            self._by_name[name] = self._next
            self._taken.add(self._next)
            self._next = self._next % self._last + 1
        return self._by_name[name]

    def release(self, name: object) -> None:
        number = self._by_name.pop(name, None)
        self._taken.discard(number)

    def forget(self, number: int) -> None:
        """A number found in the store is free again."""
        self._taken.discard(number)


class Tables:
    """The store's tables as this process keeps them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stale: dict[str, set[bytes]] = {}
        self._written: dict[str, dict[bytes, bytes]] = {table: {} for table in WRITE_ORDER}
        self._fragments: dict[str, Fragment] = {}
        self._signatures: dict[str, tuple | None] = {}
        self.faults: dict[str, str] = {}
        """Pools (uid) whose last change could not be applied, and why."""
        self._indexes = {table: Indexes((), last) for table, last in LAST_INDEX.items()}

    def adopt(self) -> None:
        """Learns what a former process left: it goes on serving until `apply` has written its successor beside it."""
        for table in WRITE_ORDER:
            found = dict(self._store.items(table))
            self._stale[table] = set(found)
            if table in self._indexes:
                self._indexes[table] = Indexes((records.unpack_index(key) for key in found), LAST_INDEX[table])

    def apply(self, slices: Iterable[ServicePortSlice]) -> int:
        """Makes the tables those of `slices` (all of the cluster's); the number of values written or removed. OSError: a table is full.

        A pool that cannot be compiled keeps the tables that it had, and is named in `faults`; no other pool feels it.
        """
        pools: dict[str, list[ServicePortSlice]] = {}
        for piece in sorted(slices, key=lambda piece: (piece.metadata.namespace, piece.metadata.name)):
            pools.setdefault(piece.spec.pool.uid, []).append(piece)
        signatures = {uid: tuple((piece.metadata.uid, piece.metadata.generation, piece.spec.virtual_addresses) for piece in pieces)
                      for uid, pieces in pools.items()}
        changed = [uid for uid in {*signatures, *self._signatures} if signatures.get(uid) != self._signatures.get(uid)]
        fresh, self.faults = {}, {}
        for uid in changed:
            try:
                fresh[uid] = compile_pool(pools.get(uid, ()))
            except ValueError as error:
                self.faults[uid] = str(error)
        writes = self._write(fresh) if fresh or self._stale else 0
        self._fragments.update(fresh)
        for uid in fresh.keys() - pools.keys():
            del self._fragments[uid]
        self._signatures = {uid: self._signatures.get(uid) if uid in self.faults else signature for uid, signature in signatures.items()}
        return writes

    def put_pod(self, address: str, ifindex: int, roles: records.Role, netns: int = -1) -> None:
        """A pod of this node bears our programs at `ifindex` (host side); `netns`: its namespace as the node numbers it, -1: not known."""
        self._store.put("pods", records.pack_address(address), records.pack_pod(ifindex, roles, netns))

    def remove_pod(self, address: str) -> None:
        self._store.delete("pods", records.pack_address(address))

    def pods(self) -> dict[str, records.Pod]:
        """Address -> interface and roles, as the store has them."""
        return {records.unpack_address(key): records.unpack_pod(value) for key, value in self._store.items("pods")}

    def _write(self, fresh: dict[str, Fragment]) -> int:
        before = {uid: self._fragments.get(uid, NOTHING) for uid in fresh}
        puts: dict[str, dict[bytes, bytes]] = {table: {} for table in WRITE_ORDER}
        gone: dict[str, set[bytes]] = {table: set() for table in WRITE_ORDER}
        released: list[tuple[str, object]] = []
        for uid, fragment in fresh.items():
            old = before[uid]
            puts["server_ports"].update(fragment.server_ports)
            gone["server_ports"].update(old.server_ports.keys() - fragment.server_ports.keys())
            for table, wanted, former in (("servers", fragment.servers, old.servers), ("sets", fragment.sets, old.sets)):
                for name in former.keys() - wanted.keys():
                    gone[table].add(self._key(table, name))
                    released.append((table, name))
            for name, state in fragment.servers.items():
                puts["servers"][self._key("servers", name)] = records.pack_server(name[1], name[0], state)
            for name, wanted in fragment.sets.items():
                if old.sets.get(name) != wanted:
                    puts["sets"][self._key("sets", name)] = self._pack_set(name[0], wanted)
        for address in {address for uid in fresh for address in (*fresh[uid].ports, *before[uid].ports)}:
            self._write_address(address, fresh, puts, gone, released)
        gone["server_ports"] -= puts["server_ports"].keys()
        writes = self._store_changes(puts, gone)
        for table, name in released:
            self._indexes[table].release(name)
        return writes

    def _store_changes(self, puts: dict[str, dict[bytes, bytes]], gone: dict[str, set[bytes]]) -> int:
        writes = 0
        for table in WRITE_ORDER:
            written = self._written[table]
            for key, value in puts[table].items():
                if written.get(key) != value:
                    self._store.put(table, key, value)
                    written[key] = value
                    writes += 1
        # A pool that could not be compiled, and of which this process has nothing, lives by what its predecessor wrote.
        bereft = self.faults.keys() - self._fragments.keys()
        for table in reversed(WRITE_ORDER):
            stale = set() if bereft else self._stale.get(table, set()) - self._written[table].keys()
            for key in gone[table] | stale:
                self._store.delete(table, key)
                self._written[table].pop(key, None)
                writes += 1
                if key in stale and table in self._indexes:
                    self._indexes[table].forget(records.unpack_index(key))
        if not bereft:
            self._stale = {}
        return writes

    def _write_address(self, address: str, fresh: dict[str, Fragment], puts: dict, gone: dict, released: list) -> None:
        """All pools' ports of one virtual address, as pages and their directory."""
        ports: dict[int, ServerId | SetId] = {}
        for uid in {*self._fragments, *fresh}:
            ports.update(fresh.get(uid, self._fragments.get(uid, NOTHING)).ports.get(address, {}))
        pages: dict[int, dict[int, tuple[records.PortKind, int]]] = {}
        for port, (scope, name) in ports.items():
            page = pages.setdefault(port // records.PAGE_PORTS, {})
            if name.startswith(SET):
                page[port % records.PAGE_PORTS] = records.PortKind.SET, self._indexes["sets"].of((scope, name))
            else:
                page[port % records.PAGE_PORTS] = records.PortKind.SERVER, self._indexes["servers"].of((scope, name))
        for number, page in pages.items():
            puts["pages"][self._key("pages", (address, number))] = records.pack_page(page)
        key = records.pack_address_key(address)
        former = records.unpack_pages(self._written["addresses"][key]) if key in self._written["addresses"] else {}
        for number in former.keys() - pages.keys():
            gone["pages"].add(self._key("pages", (address, number)))
            released.append(("pages", (address, number)))
        if pages:
            puts["addresses"][key] = records.pack_pages({number: self._indexes["pages"].of((address, number)) for number in pages})
        else:
            gone["addresses"].add(key)

    def _pack_set(self, scope: int, wanted: WantedSet) -> bytes:
        indexes = [self._indexes["servers"].of(member) for member in wanted.members]
        if wanted.policy is records.Policy.HASH:
            slots = [indexes[n] for n in maglev([address.encode() for _, address in wanted.members], records.SET_SLOTS)]
        else:
            slots = indexes
        return records.pack_set(scope, wanted.policy, slots)

    def _key(self, table: str, name: object) -> bytes:
        return records.pack_index(self._indexes[table].of(name))

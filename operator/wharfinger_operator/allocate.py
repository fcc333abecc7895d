"""Which numbers are taken, and which a server gets next.

Rules: a number belongs to one server on a virtual address, and to one use on a server's own address, over all pools. The ledger is what
stands in the API (slices, and slices seen deleted), never what a plan intends: a number that this plan frees is free for the next one only,
when the removal has been written. Numbers are never moved: what a server has, it keeps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from wharfinger_api import Assignment, Pinned, PortRange, ServicePortPool, ServicePortSlice

from .resolve import Fault, Resolved, Server
from .snapshot import Departed
from .view import View

DEFAULT_REST_S = 60.0
"""Rest of the ports of a slice that went with its pool: the schema's default, as the pool's own setting is gone."""


class Ledger:
    """Numbers in use by address: port to the name of the server that has it."""

    def __init__(self) -> None:
        self.virtual: dict[str, dict[int, str]] = defaultdict(dict)
        self.server: dict[str, dict[int, str]] = defaultdict(dict)
        self.collided: set[tuple[str, int]] = set()
        """(slice uid, index) of the assignments with a number that an older pool has on the same virtual address."""

    def enter(self, record: Assignment, addresses: Iterable[str]) -> bool:
        """Enters the record's numbers on these virtual addresses; False when another record already had one of them there."""
        clean = True
        for address in addresses:
            held = self.virtual[address]
            for port in record.ports:
                clean &= port not in held
                held.setdefault(port, record.server)
        for port in record.ports:
            self.server[record.address].setdefault(port, record.server)
        return clean

    def clash(self, address: str, spans: Iterable[PortRange]) -> int | None:
        """The lowest number of `spans` in use on a server's own address."""
        held, spans = self.server.get(address, {}), tuple(spans)
        return min((port for port in held if any(port in span for span in spans)), default=None)

    def within(self, address: str, span: PortRange) -> tuple[int, str] | None:
        """The lowest number of `span` in use on a virtual address, and its server."""
        held = self.virtual.get(address, {})
        if len(held) < len(span):
            taken = min((port for port in held if port in span), default=None)
        else:
            taken = next((port for port in span if port in held), None)
        return None if taken is None else (taken, held[taken])


def ledger(view: View, slices: Iterable[ServicePortSlice], departed: Iterable[Departed], addresses: Mapping[str, tuple[str, ...]]) -> Ledger:
    """The numbers in use by these slices. `slices` oldest pool first; `addresses` are the pools' present virtual addresses by uid."""
    book = Ledger()
    for piece in slices:
        where = {*piece.spec.virtual_addresses, *addresses.get(piece.spec.pool.uid, ())}
        for index, record in enumerate(piece.spec.assignments):
            if not book.enter(record, where):
                book.collided.add((piece.metadata.uid, index))
    for entry in departed:
        if departed_rests(entry, view):
            for record in entry.slice.spec.assignments:
                book.enter(record, entry.slice.spec.virtual_addresses)
    return book


def departed_until(entry: Departed) -> datetime:
    """When the rest time of the numbers of a slice that went with its pool ends."""
    return entry.at + timedelta(seconds=DEFAULT_REST_S)


def departed_rests(entry: Departed, view: View) -> bool:
    """Whether those numbers rest still: by time, or because a node has not said that it dropped the slice."""
    return not view.past(departed_until(entry)) or not all(view.dropped(node, entry) for node in view.holders)


@dataclass(frozen=True, slots=True)
class RedirectPorts:
    """Pools' redirect ports by the pool's uid, and by address the pools that have theirs there: on their virtual addresses, and on their
    servers' own, to which connections that dialled them go."""

    numbers: Mapping[str, frozenset[int]]
    pools: Mapping[str, Collection[str]]

    def at(self, addresses: Iterable[str]) -> frozenset[int]:
        """The redirect ports at any of these addresses."""
        none: frozenset[int] = frozenset()
        return none.union(*(self.numbers[uid] for uid in {uid for address in addresses for uid in self.pools.get(address, ())}))


def reserved_on(entry: Resolved, view: View, redirects: RedirectPorts) -> frozenset[int]:
    """Numbers that are never service ports of this pool: on its virtual addresses the Services' own, and there and on its servers' own
    addresses redirect ports, of whichever pool: on the wire one number would have two meanings."""
    services: frozenset[int] = frozenset().union(*(view.service_ports(address) for address in entry.virtual_addresses))
    return services | redirects.at((*entry.virtual_addresses, *(server.address for server in entry.servers)))


def pinned_fault(pool: ServicePortPool, reserved: frozenset[int]) -> Fault | None:
    """What is wrong with spec.pinned, first fault first."""
    targets = {target.name for target in pool.spec.targets}
    owners: dict[int, Pinned] = {}
    for entry in pool.spec.pinned:
        where = f"spec.pinned: server {entry.server}, target {entry.target}"
        if entry.target not in targets:
            return Fault("InvalidPinned", f"{where}: there is no such target in spec.targets; it has {', '.join(sorted(targets))}")
        for port in entry.ports:
            if not any(port in span for span in pool.spec.port_ranges):
                return Fault("InvalidPinned", f"{where}: {port} is not in spec.portRanges; add it there, or pin another number")
            if port in reserved:
                return Fault("InvalidPinned", f"{where}: {port} is a Service's own port or a redirect port of this address, "
                             "or a redirect port of another pool with the same servers; pin another number")
            if owners.setdefault(port, entry) is not entry:
                return Fault("InvalidPinned", f"{where}: {port} is pinned to server {owners[port].server} as well; pin it once")
    return None


@dataclass(frozen=True, slots=True)
class Capacity:
    """Numbers that a pool needs and has. `reserve` is the surge reserve, `excluded` are numbers of its ranges that are reserved."""

    servers: int
    need: int
    reserve: int
    total: int
    excluded: int

    def fault(self, running: bool) -> Fault | None:
        """A new pool must have room for the reserve too; one that runs may use it up, as a roll-out does."""
        short = self.need + (0 if running else self.reserve) - self.total
        if short <= 0:
            return None
        reserve = "" if running else f" and {self.reserve} in reserve for roll-outs (surgePercent)"
        excluded = f", without {self.excluded} that are Service or redirect ports" if self.excluded else ""
        return Fault("InsufficientPorts", f"{self.servers} servers need {self.need} service ports{reserve}, and spec.portRanges has "
                     f"{self.total}{excluded}: add at least {short} numbers to portRanges, or run fewer servers; "
                     "servers that have service ports keep them")


def capacity(pool: ServicePortPool, servers: Iterable[Server], reserved: frozenset[int]) -> Capacity:
    """What `pool` needs for `servers` (those that are leaving do not count) and what it has."""
    pinned = {(entry.server, entry.target): len(entry.ports) for entry in pool.spec.pinned}
    staying = [server for server in servers if not server.leaving]
    need = sum(pinned.get((server.short_name, target.name), target.ports_per_server) for server in staying for target in pool.spec.targets)
    excluded = sum(1 for port in reserved if any(port in span for span in pool.spec.port_ranges))
    reserve = -(-need * pool.spec.surge_percent // 100)
    return Capacity(len(staying), need, reserve, sum(map(len, pool.spec.port_ranges)) - excluded, excluded)


def rested(record: Assignment, piece: ServicePortSlice, rest_seconds: float, view: View) -> bool:
    """Whether a resting record may go: its time is over, and every agent that could still serve it has acknowledged that it rests."""
    over = view.past(record.since + timedelta(seconds=rest_seconds))
    return over and not view.unacknowledged(piece, piece.version_of(record), view.holders)


class Allocator:
    """Gives out one pool's numbers, lowest first. `reserved` are numbers of its addresses that are never service ports."""

    def __init__(self, pool: ServicePortPool, addresses: tuple[str, ...], book: Ledger, reserved: frozenset[int]) -> None:
        self._spans = sorted(pool.spec.port_ranges, key=lambda span: span.first)
        self._held = [book.virtual[address] for address in addresses]
        self._book = book
        self._reserved = reserved
        self._pinned = {(entry.server, entry.target): entry.ports for entry in pool.spec.pinned}
        self._kept_back = reserved | {port for entry in pool.spec.pinned for port in entry.ports}
        self._cursor = 1

    def pinned(self, server: Server, target: str) -> tuple[int, ...] | None:
        """The numbers pinned to `server` for `target`, None when none are."""
        return self._pinned.get((server.short_name, target))

    def give(self, server: Server, asked: Iterable[tuple[str, int, tuple[int, ...]]]) -> dict[str, tuple[int, ...]] | None:
        """The numbers that `server` lacks, by target, entered as its own; None, and nothing entered, when not all can be had.

        `asked`: target, how many it should have, and those it has.
        """
        given: dict[str, tuple[int, ...]] = {}
        counts: dict[str, int] = {}
        for target, per_server, have in asked:
            pinned = self.pinned(server, target)
            if pinned is None:
                counts[target] = max(0, per_server - len(have))
            else:
                given[target] = tuple(port for port in pinned if port not in have)
        if any(self._taken(port, server) for ports in given.values() for port in ports):
            return None
        found = self._next(server, sum(counts.values()))
        if found is None:
            return None
        for target, count in counts.items():
            given[target], found = found[:count], found[count:]
        self._enter([port for ports in given.values() for port in ports], server)
        return given

    def _next(self, server: Server, count: int) -> tuple[int, ...] | None:
        """The lowest `count` numbers that `server` could have."""
        found: list[int] = []
        for port in self._from_cursor() if count else ():
            if port not in server.avoid and port not in self._book.server[server.address]:
                found.append(port)
                if len(found) == count:
                    break
        return tuple(found) if len(found) == count else None

    def _from_cursor(self) -> Iterator[int]:
        """Numbers free on all addresses, ascending; the cursor stays at the lowest, so that a long run of used ones is passed once."""
        first = True
        for span in self._spans:
            for port in range(max(span.first, self._cursor), span.last + 1):
                if port in self._kept_back or any(port in held for held in self._held):
                    continue
                if first:
                    self._cursor, first = port, False
                yield port

    def _taken(self, port: int, server: Server) -> bool:
        in_span = any(port in span for span in self._spans)
        return not in_span or port in self._reserved or port in self._book.server[server.address] or any(
            port in held for held in self._held)

    def _enter(self, ports: Iterable[int], server: Server) -> None:
        for port in ports:
            self._book.server[server.address][port] = server.name
            for held in self._held:
                held[port] = server.name

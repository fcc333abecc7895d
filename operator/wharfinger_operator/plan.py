"""From what is seen of some pools to what is wanted for them: one pure function.

Rules: `plan_group` reads its view and nothing else; what it wants depends on that alone, so that planning again after the writes wants
nothing more. Which pools are planned together, and when again, is planner.py's affair. Existing slices are the truth about who has which
number; a plan adds to them and steps their states. What cannot be done is said in conditions and Events with the remedy, and what ran
goes on running.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2s

from wharfinger_api import (
    PoolRef,
    Redirect,
    RedirectPortPool,
    RedirectPortPoolStatus,
    ServicePortPool,
    ServicePortPoolStatus,
    ServicePortSlice,
    ServicePortSliceSpec,
)

from . import report
from .advance import Advanced, Draft, advance, at_least_one
from .allocate import Allocator, Ledger, RedirectPorts, capacity, ledger, pinned_fault, reserved_on
from .conflicts import age, pool_conflicts, redirect_conflicts, server_port_fault, service_fault
from .index import places_of
from .limits import hold_back, surplus_fault
from .records import Key
from .report import EventWanted, RedirectCase
from .resolve import Fault, Resolved
from .view import View

MAX_SCOPE = 0xFFFFFFFF
MAX_REDIRECTS = 64
"""maxItems of spec.redirects in crds/serviceportslices.yaml."""


@dataclass(frozen=True, slots=True)
class SliceWanted:
    """A slice as it should be. `piece` is the one that stands, None when it is to be created."""

    pool: ServicePortPool
    name: str
    piece: ServicePortSlice | None
    spec: ServicePortSliceSpec


@dataclass(frozen=True, slots=True)
class StatusWanted:
    """The status that an own object should have."""

    resource: ServicePortPool | RedirectPortPool
    status: ServicePortPoolStatus | RedirectPortPoolStatus


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything wanted. `superfluous`: slices that are empty and to be deleted. `look_again`: when time alone may change what is wanted."""

    slices: tuple[SliceWanted, ...] = ()
    superfluous: tuple[ServicePortSlice, ...] = ()
    statuses: tuple[StatusWanted, ...] = ()
    events: tuple[EventWanted, ...] = ()
    look_again: datetime | None = None


def plan_group(keys: Iterable[Key], resolved: Iterable[Resolved], view: View) -> Plan:
    """What should stand for the pools under these names: `resolved` are those of them that live, `keys` also names only redirect pools use.

    No pool outside the group may have an address or a scope in common with one of it (`anchors`).
    """
    resolved = sorted(resolved, key=lambda entry: age(entry.pool))
    scopes = _scopes([entry.pool for entry in resolved], view)
    places = {place for entry in resolved for place in _places(entry, view)}
    book = ledger(view, [*(piece for entry in resolved for piece in view.slices_of(entry.pool.metadata.uid)), *view.orphans_at(places)],
                  view.departed_at(places), {entry.pool.metadata.uid: entry.virtual_addresses for entry in resolved})
    redirects = _redirects(resolved, [redirect for key in keys for redirect in view.redirects(key)], book)
    redirect_ports = _redirect_ports(redirects, resolved, view)
    conflicts = pool_conflicts(resolved)
    slices: list[SliceWanted] = []
    superfluous: list[ServicePortSlice] = []
    statuses: list[StatusWanted] = []
    events: list[EventWanted] = []
    cases: dict[str, list[RedirectCase]] = defaultdict(list)
    for case in redirects:
        cases[case.pool.metadata.uid if case.pool else ""].append(case)
    for entry in resolved:
        pool = entry.pool
        mine = cases.get(pool.metadata.uid, [])
        accepted = [case.redirect for case in mine if case.accepted][:MAX_REDIRECTS]
        reserved = reserved_on(entry, view, redirect_ports)
        room = capacity(pool, entry.servers, reserved)
        running = bool(view.slices_of(pool.metadata.uid))
        fault = conflicts.get(pool.metadata.uid) or pinned_fault(pool, reserved) or service_fault(entry, view) or room.fault(running)
        advanced = _advance(entry, accepted, view, book, fault, running, reserved)
        surplus = hold_back(accepted, advanced.drafts)
        wanted = _wanted(entry, accepted, advanced.drafts, scopes[pool.metadata.uid])
        slices += wanted
        superfluous += _superfluous(wanted, advanced.drafts)
        said = report.pool_report(entry, fault, advanced, [item.spec for item in wanted], _standing(wanted), view, book, room,
                                  scopes[pool.metadata.uid])
        statuses.append(StatusWanted(pool, said.status))
        events += said.events
        for case in mine:
            held_back = [server_port_fault(case.redirect, entry.servers, book),
                         surplus_fault(case.redirect, surplus.get(case.redirect.metadata.name, 0))]
            told = report.redirect_report(case, said, advanced.drafts, view, [fault for fault in held_back if fault])
            statuses.append(StatusWanted(case.redirect, told.status))
            events += told.events
    for case in cases.get("", ()):
        told = report.redirect_report(case, None, [], view)
        statuses.append(StatusWanted(case.redirect, told.status))
        events += told.events
    return Plan(tuple(slices), tuple(superfluous), tuple(statuses), tuple(events))


def anchors(entry: Resolved, view: View) -> frozenset[str]:
    """What the numbers of a pool may be disputed on: pools that share one of these must be planned together."""
    return frozenset({*_places(entry, view), f"scope {_own_scope(entry.pool, view) or _first_scope(entry.pool)}"})


def _places(entry: Resolved, view: View) -> set[str]:
    """The addresses on which the pool has or may get numbers: virtual ones and servers' own."""
    places = {*entry.virtual_addresses, *(server.address for server in entry.servers)}
    return places.union(*(places_of(piece) for piece in view.slices_of(entry.pool.metadata.uid)))


def _own_scope(pool: ServicePortPool, view: View) -> int | None:
    pieces = view.slices_of(pool.metadata.uid)
    return pieces[0].spec.scope if pieces else pool.status.scope


def _first_scope(pool: ServicePortPool) -> int:
    return int.from_bytes(blake2s(pool.metadata.uid.encode(), digest_size=4).digest()) or 1


def _scopes(pools: list[ServicePortPool], view: View) -> dict[str, int]:
    """A number for each pool, by uid: the one it has, or else one derived from its uid, so that a freed number is not soon met again."""
    own = [_own_scope(pool, view) for pool in pools]
    taken, used = set(own), set[int]()
    given: dict[str, int] = {}
    for pool, scope in zip(pools, own, strict=True):
        if scope is None or scope in used:
            scope = _first_scope(pool)
            while scope in taken or scope in used or view.scope_taken(scope):
                scope = scope % MAX_SCOPE + 1
        given[pool.metadata.uid] = scope
        used.add(scope)
    return given


def _redirects(resolved: list[Resolved], redirects: list[RedirectPortPool], book: Ledger) -> list[RedirectCase]:
    """The redirect pools, oldest first, each with its pool and what is wrong with it."""
    by_key: dict[Key, Resolved] = {entry.pool.key: entry for entry in resolved}
    cases, sound = [], []
    for redirect in sorted(redirects, key=age):
        entry = by_key.get((redirect.metadata.namespace, redirect.spec.service_port_pool.name))
        fault = _reference_fault(redirect, entry.pool if entry else None)
        cases.append((redirect, entry, fault))
        if entry is not None and fault is None:
            sound.append((redirect, entry.virtual_addresses))
    clashes = redirect_conflicts(sound, book.within)
    return [RedirectCase(redirect, entry.pool if entry else None, entry.virtual_addresses if entry else (), fault,
                         _protocol_fault(redirect, entry.pool if entry else None) or clashes.get(redirect.metadata.uid))
            for redirect, entry, fault in cases]


def _reference_fault(redirect: RedirectPortPool, pool: ServicePortPool | None) -> Fault | None:
    name = redirect.spec.service_port_pool.name
    if pool is None:
        return Fault("PoolNotFound", f"spec.servicePortPool: no ServicePortPool {name} in namespace {redirect.metadata.namespace}; "
                     "create it, or correct the name")
    names = [target.name for target in pool.spec.targets]
    if redirect.spec.target not in names:
        return Fault("TargetNotFound", f"spec.target: ServicePortPool {name} has no target {redirect.spec.target}; "
                     f"it has {', '.join(names)}")
    return None


def _protocol_fault(redirect: RedirectPortPool, pool: ServicePortPool | None) -> Fault | None:
    for target in pool.spec.targets if pool else ():
        if target.name == redirect.spec.target and target.protocol != redirect.spec.protocol:
            return Fault("ProtocolMismatch", f"spec.protocol: {redirect.spec.protocol}, but target {target.name} is {target.protocol}; "
                         "make them equal")
    return None


def _redirect_ports(cases: list[RedirectCase], resolved: list[Resolved], view: View) -> RedirectPorts:
    numbers: dict[str, set[int]] = defaultdict(set)
    for case in cases:
        if case.accepted and case.pool:
            numbers[case.pool.metadata.uid].update(port for span in case.redirect.spec.ports for port in span)
    pools: dict[str, set[str]] = defaultdict(set)
    for entry in resolved:
        uid = entry.pool.metadata.uid
        if uid in numbers:
            leaving = (record.address for piece in view.slices_of(uid) for record in piece.spec.assignments if record.redirects)
            for address in {*entry.virtual_addresses, *(server.address for server in entry.servers), *leaving}:
                pools[address].add(uid)
    return RedirectPorts({uid: frozenset(found) for uid, found in numbers.items()}, pools)


def _advance(entry: Resolved, redirects: list[RedirectPortPool], view: View, book: Ledger, fault: Fault | None, running: bool,
             reserved: frozenset[int]) -> Advanced:
    """The next state of the pool's slices.

    A pool that is not accepted is not begun; one that runs gets new numbers, unless they are disputed or it has no address left to have them on.
    """
    if not running and (fault is not None or not entry.virtual_addresses):
        return Advanced([])
    disputed = fault is not None and fault.reason == "Conflicted"
    allocator = None if disputed or not entry.virtual_addresses else Allocator(entry.pool, entry.virtual_addresses, book, reserved)
    advanced = advance(entry, redirects, view, book, allocator)
    at_least_one(entry, view, advanced.drafts)
    return advanced


def _wanted(entry: Resolved, redirects: list[RedirectPortPool], drafts: list[Draft], scope: int) -> list[SliceWanted]:
    pool = entry.pool
    metadata = pool.metadata
    reference = PoolRef(name=metadata.name, uid=metadata.uid, generation=metadata.generation)
    shared = tuple(
        Redirect(name=redirect.metadata.name, generation=redirect.metadata.generation, protocol=redirect.spec.protocol,
                 ports=redirect.spec.ports, target=redirect.spec.target, policy=redirect.spec.policy)
        for redirect in sorted(redirects, key=lambda redirect: redirect.metadata.name))
    kept = [draft for draft in drafts if draft.records or _full(draft.piece)] or drafts[:1]
    return [
        SliceWanted(pool, draft.name, draft.piece, ServicePortSliceSpec(
            pool=reference, scope=scope, forwarding_mode=pool.spec.forwarding_mode, moves=pool.spec.moves,
            virtual_addresses=entry.virtual_addresses, redirects=shared, assignments=tuple(draft.records)))
        for draft in kept]


def _full(piece: ServicePortSlice | None) -> bool:
    """Whether the slice that stands has assignments: it is written empty before it is deleted, or it would be taken for lost."""
    return piece is not None and bool(piece.spec.assignments)


def _superfluous(wanted: list[SliceWanted], drafts: list[Draft]) -> list[ServicePortSlice]:
    names = {item.name for item in wanted}
    return [draft.piece for draft in drafts if draft.piece is not None and draft.piece.metadata.uid and draft.name not in names]


def _standing(wanted: list[SliceWanted]) -> list[ServicePortSlice] | None:
    """The slices, when all stand as they are wanted; None when some are still to be written."""
    pieces = [item.piece for item in wanted if item.piece is not None and item.piece.metadata.uid and item.piece.spec == item.spec]
    return pieces if len(pieces) == len(wanted) else None


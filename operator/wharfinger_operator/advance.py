"""One step of a pool's assignments: those that stand go on, servers without service ports get some. Pure.

An assignment's numbers, server and place (its slice) never change; only its state, and what follows from the pool's spec
(memberships). So a change touches one slice, and nothing is ever given twice by being moved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from wharfinger_api import Assignment, RedirectPortPool, ServicePortSlice, TargetPorts

from .allocate import Allocator, Ledger, rested
from .resolve import Resolved, Server, members
from .states import ASSIGNED, DRAINING, NEXT, READY, RESTING, Standing, standing
from .view import View

SLICE_LIMIT = 100
"""maxItems of spec.assignments in crds/serviceportslices.yaml."""


@dataclass(slots=True)
class Draft:
    """A slice being planned. `piece` is the one that stands, None for a new one."""

    name: str
    piece: ServicePortSlice | None
    records: list[Assignment] = field(default_factory=list)


@dataclass(slots=True)
class Advanced:
    """The drafts, and what is to be said: servers that wait for their agent, servers that got no number, nodes without an agent, servers
    whose service ports lead to another port than the pool's target says now."""

    drafts: list[Draft]
    waiting: list[Server] = field(default_factory=list)
    without_port: list[Server] = field(default_factory=list)
    without_agent: list[Server] = field(default_factory=list)
    outdated: list[Server] = field(default_factory=list)


def advance(resolved: Resolved, redirects: Iterable[RedirectPortPool], view: View, book: Ledger, allocator: Allocator | None) -> Advanced:
    """The next state of the pool's slices. Without an allocator no server gets new numbers."""
    redirects = tuple(redirects)
    wanted = {server.identity: server for server in resolved.servers}
    result = Advanced([])
    for piece in view.slices_of(resolved.pool.metadata.uid):
        draft = Draft(piece.metadata.name, piece)
        for index, record in enumerate(piece.spec.assignments):
            server = wanted.get((record.server, record.pod_uid, record.address))
            lost = (piece.metadata.uid, index) in book.collided
            stepped = _step(record, draft, server, lost, resolved, view)
            if stepped is not None:
                draft.records.append(_refreshed(stepped, server, redirects, book))
                if server is not None and stepped.state is not RESTING and _outdated(stepped, server):
                    result.outdated.append(server)
        result.drafts.append(draft)
    _note_waiting(result, wanted, view)
    _add(resolved, redirects, book, view, allocator, result)
    return result


def _step(record: Assignment, draft: Draft, server: Server | None, lost: bool, resolved: Resolved, view: View) -> Assignment | None:
    """The record in its next state; None when it has rested."""
    piece = draft.piece
    if piece is None:
        return record
    found = Standing.GONE if lost else _standing(record, piece, server, resolved, view)
    state = NEXT[record.state, found]
    leaving = state is DRAINING and found is Standing.LEAVING
    if state is record.state:
        if state is RESTING and rested(record, piece, resolved.pool.spec.rest_seconds, view):
            return None
        return record if leaving is record.leaving else record.model_copy(update={"leaving": leaving})
    return record.model_copy(update={"state": state, "since": view.clock(), "since_version": "", "leaving": leaving})


def _standing(record: Assignment, piece: ServicePortSlice, server: Server | None, resolved: Resolved, view: View) -> Standing:
    pod = view.pod_of(record)
    if server is not None:
        leaving, ready, policy = server.leaving, server.ready, server.policy
    elif pod is not None:
        leaving, ready, policy = pod.terminating or not resolved.keep, pod.ready, view.policy_of(pod)
    else:
        return Standing.GONE
    node = record.node or ""
    attached = view.listed(node, record.pod_uid, record.address)
    if record.state is ASSIGNED:
        attached = attached and view.acknowledged(node, piece, piece.version_of(record))
    elif node not in view.live:
        # A silent agent takes nothing back: what it programmed is pinned and goes on working.
        attached = attached or record.state is READY
    return standing(exists=True, leaving=leaving, ready=ready, policed=bool(policy), attached=attached)


def _refreshed(record: Assignment, server: Server | None, redirects: tuple[RedirectPortPool, ...], book: Ledger) -> Assignment:
    """The record with its memberships as the specs have them now. What its service ports mean never changes: connections live by it."""
    if record.state is RESTING:
        return record if not record.redirects else record.model_copy(update={"redirects": ()})
    if server is None:
        return record
    update = {"redirects": _memberships(redirects, server, record.targets, book), "node": server.node or None}
    return record.model_copy(update=update) if any(getattr(record, name) != value for name, value in update.items()) else record


def _outdated(record: Assignment, server: Server) -> bool:
    """Whether a target was taken out of the pool's spec and put in again with another port, while the server had service ports for it."""
    return any(server.ports.get(target.name, target.target_port) != target.target_port for target in record.targets)


def _memberships(redirects: tuple[RedirectPortPool, ...], server: Server, targets: tuple[TargetPorts, ...], book: Ledger) -> tuple[str, ...]:
    """The redirect pools that the server shares: none with a port that is a service port of its own in another pool."""
    names = {target.name for target in targets}
    return tuple(sorted(redirect.metadata.name for redirect in redirects if redirect.spec.target in names and members(redirect, server)
                        and book.clash(server.address, redirect.spec.ports) is None))


def _note_waiting(result: Advanced, wanted: dict[tuple[str, str, str], Server], view: View) -> None:
    for draft in result.drafts:
        for record in draft.records:
            server = wanted.get((record.server, record.pod_uid, record.address))
            if record.state is ASSIGNED and server is not None and server.awaited:
                result.waiting.append(server)


def _add(resolved: Resolved, redirects: tuple[RedirectPortPool, ...], book: Ledger, view: View, allocator: Allocator | None,
         result: Advanced) -> None:
    """Gives numbers to the servers that lack some, and appends them to the first slices with room."""
    have: dict[tuple[str, str, str], dict[str, tuple[int, ...]]] = defaultdict(dict)
    for draft in result.drafts:
        for record in draft.records:
            if record.state is not RESTING:
                held = have[record.server, record.pod_uid, record.address]
                for target in record.targets:
                    held[target.name] = held.get(target.name, ()) + target.service_ports
    shelf = _Shelf(resolved, view, result.drafts)
    for server in resolved.servers:
        held = have.get(server.identity, {})
        if server.leaving or not _lacks(resolved, allocator, server, held):
            continue
        if server.node and server.node not in view.live:
            result.without_agent.append(server)
            continue
        targets = _numbers(resolved, allocator, server, held)
        if targets is None:
            result.without_port.append(server)
        elif targets:
            draft = shelf.with_room()
            draft.records.append(Assignment(
                server=server.name, address=server.address, node=server.node or None, pod_uid=server.uid, state=ASSIGNED, since=view.clock(),
                redirects=_memberships(redirects, server, targets, book), targets=targets))
            if server.awaited:
                result.waiting.append(server)


def _lacks(resolved: Resolved, allocator: Allocator | None, server: Server, held: dict[str, tuple[int, ...]]) -> bool:
    for target in resolved.pool.spec.targets:
        pinned = allocator.pinned(server, target.name) if allocator else None
        have = held.get(target.name, ())
        if target.name in server.ports and (len(have) < target.ports_per_server if pinned is None else set(pinned) - set(have)):
            return True
    return False


def _numbers(resolved: Resolved, allocator: Allocator | None, server: Server,
             held: dict[str, tuple[int, ...]]) -> tuple[TargetPorts, ...] | None:
    """What the server lacks, by target; None when it cannot have all of it."""
    if allocator is None:
        return None
    asked = [(target.name, target.ports_per_server, held.get(target.name, ())) for target in resolved.pool.spec.targets
             if target.name in server.ports]
    given = allocator.give(server, asked)
    if given is None:
        return None
    protocols = {target.name: target.protocol for target in resolved.pool.spec.targets}
    return tuple(TargetPorts(name=name, protocol=protocols[name], target_port=server.ports[name], service_ports=ports)
                 for name, ports in given.items() if ports)


class _Shelf:
    """Finds room for a new assignment: the first slice with fewer than SLICE_LIMIT, else a new one under the lowest unused number."""

    def __init__(self, resolved: Resolved, view: View, drafts: list[Draft]) -> None:
        self._pool = resolved.pool
        self._drafts = drafts
        self._view = view
        self._first = 0

    def with_room(self) -> Draft:
        while self._first < len(self._drafts):
            if len(self._drafts[self._first].records) < SLICE_LIMIT:
                return self._drafts[self._first]
            self._first += 1
        return self.new()

    def new(self) -> Draft:
        namespace, pool = self._pool.key
        used = {draft.name for draft in self._drafts}
        names = (f"{pool}-{number}" for number in count())
        draft = Draft(next(name for name in names if name not in used and not self._view.slice_stands((namespace, name))), None)
        self._drafts.append(draft)
        return draft


def at_least_one(resolved: Resolved, view: View, drafts: list[Draft]) -> None:
    """Adds an empty slice to a pool that has none: agents must know its addresses and redirect ports before any server is ready."""
    if not drafts:
        _Shelf(resolved, view, drafts).new()

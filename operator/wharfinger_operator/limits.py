"""How many servers may share a redirect pool's ports: what one set, and one table, of the data plane holds. Pure.

A pool beyond them would be refused by every agent, whole, with all that it changed since. So the surplus servers share no redirect ports,
until there is room: those that shared them before go on doing so.
"""

from __future__ import annotations

from collections.abc import Iterable

from wharfinger_api import Assignment, RedirectPortPool

from .advance import Draft
from .resolve import Fault
from .states import ASSIGNED, READY

SET_SERVERS = 4_093
SERVER_PORTS = 524_288
"""Slots of a set and entries of the table `server_ports` (dataplane/bpf/tables.h; a test compares them)."""


def most(redirect: RedirectPortPool) -> int:
    """How many servers may share the ports: each takes an entry for each port."""
    return min(SET_SERVERS, SERVER_PORTS // sum(map(len, redirect.spec.ports)))


def hold_back(redirects: Iterable[RedirectPortPool], drafts: list[Draft]) -> dict[str, int]:
    """Takes a redirect pool's surplus servers out of it; how many, by the name of each pool that has any."""
    total = sum(len(draft.records) for draft in drafts)
    surplus: dict[str, int] = {}
    for redirect in redirects:
        name, limit = redirect.metadata.name, most(redirect)
        if total <= limit:
            continue
        shared = {_identity(record) for draft in drafts if draft.piece for record in draft.piece.spec.assignments if name in record.redirects}
        places = [(draft, index) for draft in drafts for index, record in enumerate(draft.records)
                  if name in record.redirects and record.state in (ASSIGNED, READY)]
        places.sort(key=lambda place: _identity(place[0].records[place[1]]) not in shared)
        for draft, index in places[limit:]:
            record = draft.records[index]
            draft.records[index] = record.model_copy(update={"redirects": tuple(other for other in record.redirects if other != name)})
        if len(places) > limit:
            surplus[name] = len(places) - limit
    return surplus


def surplus_fault(redirect: RedirectPortPool, surplus: int) -> Fault | None:
    """What is to be said of so many servers too many, if there are any."""
    if not surplus:
        return None
    limit, ports = most(redirect), sum(map(len, redirect.spec.ports))
    remedy = "share the servers out among several RedirectPortPools by spec.servers"
    if limit == SET_SERVERS:
        return Fault("TooManyServers", f"{limit} servers share the redirect ports, as many as one pool can have, and {surplus} more do not: {remedy}")
    return Fault("TooManyPorts", f"{limit} servers share {ports} redirect ports, for which the nodes' tables have {SERVER_PORTS} entries, one for "
                 f"each server and port, and {surplus} more do not: use fewer ports, or {remedy}")


def _identity(record: Assignment) -> tuple[str, str, tuple[int, ...]]:
    return record.server, record.pod_uid, tuple(record.ports)

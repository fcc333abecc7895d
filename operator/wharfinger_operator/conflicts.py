"""What only two objects can know: who has a number of an address when both want it. The older has it; the younger is told so. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from wharfinger_api import PortRange, RedirectPortPool, ServicePortPool

from .allocate import Ledger
from .resolve import Fault, Resolved, Server, members
from .states import RESTING
from .view import View

Age = tuple[datetime, str, str]
_FIRST = datetime.min.replace(tzinfo=UTC)


def age(resource: ServicePortPool | RedirectPortPool) -> Age:
    """Sorts older objects first; the name decides between those of the same second."""
    metadata = resource.metadata
    return metadata.creation_timestamp or _FIRST, metadata.namespace, metadata.name


def pool_conflicts(resolved: Iterable[Resolved]) -> dict[str, Fault]:
    """Faults by uid of the pools, given oldest first, whose ranges overlap those of an older pool on the same address."""
    held: dict[str, list[tuple[PortRange, ServicePortPool]]] = defaultdict(list)
    faults: dict[str, Fault] = {}
    for entry in resolved:
        clash = next(((address, mine, theirs, other) for address in entry.virtual_addresses for theirs, other in held[address]
                      for mine in entry.pool.spec.port_ranges if mine.overlaps(theirs)), None)
        if clash is not None:
            address, mine, theirs, other = clash
            faults[entry.pool.metadata.uid] = Fault(
                "Conflicted", f"spec.portRanges: {mine} overlaps {theirs} of ServicePortPool {_name(other)}, which is older and has the "
                f"same address {address}; choose other numbers")
            continue
        for address in entry.virtual_addresses:
            held[address].extend((span, entry.pool) for span in entry.pool.spec.port_ranges)
    return faults


def service_fault(entry: Resolved, view: View) -> Fault | None:
    """A Service that was given a port which is already a service port of the pool: nothing could refuse it."""
    for address in entry.virtual_addresses:
        services = view.services_at(address)
        for piece in view.slices_of(entry.pool.metadata.uid) if services else ():
            for record in piece.spec.assignments:
                for (namespace, name), ports in services.items():
                    taken = min((port for port in record.ports if port in ports), default=None)
                    if taken is not None and record.state is not RESTING:
                        return Fault("ServicePortTaken", f"port {taken} of {address} is the service port of server {record.server}, and Service "
                                     f"{namespace}/{name} has it for its own port now: connections go on, and aware clients that dial it reach that "
                                     f"server only; give the Service another port, or take {taken} out of spec.portRanges and restart that server")
    return None


def redirect_conflicts(redirects: Iterable[tuple[RedirectPortPool, tuple[str, ...]]],
                       owner: Callable[[str, PortRange], tuple[int, str] | None]) -> dict[str, Fault]:
    """Faults by uid of the redirect pools, given oldest first with their addresses, that want a port that is taken.

    `owner` gives a service port within a range of an address, and the server that it belongs to, if there is one.
    """
    held: dict[tuple[str, str], list[tuple[PortRange, RedirectPortPool]]] = defaultdict(list)
    faults: dict[str, Fault] = {}
    for redirect, addresses in redirects:
        fault = _redirect_fault(redirect, addresses, held, owner)
        if fault is not None:
            faults[redirect.metadata.uid] = fault
            continue
        for address in addresses:
            held[address, redirect.spec.protocol].extend((span, redirect) for span in redirect.spec.ports)
    return faults


def _redirect_fault(redirect: RedirectPortPool, addresses: tuple[str, ...],
                    held: dict[tuple[str, str], list[tuple[PortRange, RedirectPortPool]]],
                    owner: Callable[[str, PortRange], tuple[int, str] | None]) -> Fault | None:
    for address in addresses:
        for mine in redirect.spec.ports:
            for theirs, other in held[address, redirect.spec.protocol]:
                if mine.overlaps(theirs):
                    return Fault("Conflicted", f"spec.ports: {mine} overlaps {theirs} of RedirectPortPool {_name(other)}, which is older "
                                 f"and has the same address {address} and protocol; choose another port, or delete one of the two")
            taken = owner(address, mine)
            if taken is not None:
                return Fault("Conflicted", f"spec.ports: {taken[0]} of {address} is the service port of server {taken[1]}; choose another "
                             "port, or take the number out of the service port pool's portRanges and restart that server")
    return None


def server_port_fault(redirect: RedirectPortPool, servers: Iterable[Server], book: Ledger) -> Fault | None:
    """Which servers do not share the ports because one of them is a service port of theirs in another pool: what they have, they keep."""
    found = [(server, port) for server in servers if not server.leaving and members(redirect, server)
             and (port := book.clash(server.address, redirect.spec.ports)) is not None]
    if not found:
        return None
    server, port = found[0]
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Fault("Conflicted", f"spec.ports: {port} is a service port of server {server.name}{others} in another ServicePortPool, so that server "
                 "shares none of these ports: restart it, and it gets another number there, or choose another port")


def _name(resource: ServicePortPool | RedirectPortPool) -> str:
    return "/".join(resource.key)

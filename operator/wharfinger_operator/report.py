"""What the plan says of a pool: status, conditions, Events. Pure. Messages say what, where and the remedy, and move only when those do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wharfinger_api import (
    PortCounts,
    PortRange,
    RedirectPortPool,
    RedirectPortPoolStatus,
    RedirectServerCounts,
    ServerCounts,
    ServicePortPool,
    ServicePortPoolStatus,
    ServicePortSlice,
    ServicePortSliceSpec,
)

from .advance import Advanced, Draft
from .allocate import Capacity, Ledger
from .conditions import Verdict, conditions, joined, judged
from .resolve import Fault, Resolved, Server
from .states import ASSIGNED, DRAINING, READY, RESTING
from .view import View

EPHEMERAL = PortRange(**{"from": 32768, "to": 60999})
"""net.ipv4.ip_local_port_range as kernels have it unless told otherwise."""
NAMED = 5
"""So many names are written out in a message; the others are counted."""


@dataclass(frozen=True, slots=True)
class EventWanted:
    """An Event on an own object. `type` is Normal or Warning."""

    resource: ServicePortPool | RedirectPortPool
    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RedirectCase:
    """A redirect pool, the pool it refers to, and what is wrong with its references and with itself."""

    redirect: RedirectPortPool
    pool: ServicePortPool | None
    virtual_addresses: tuple[str, ...]
    reference_fault: Fault | None
    fault: Fault | None

    @property
    def accepted(self) -> bool:
        """Whether its ports are served."""
        return self.fault is None and self.reference_fault is None


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What is said of a service port pool. `servers`: the short names of those that it has or remembers; None: not known."""

    status: ServicePortPoolStatus
    events: tuple[EventWanted, ...]
    programmed: Verdict
    servers: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class RedirectReport:
    """What is said of a redirect port pool."""

    status: RedirectPortPoolStatus
    events: tuple[EventWanted, ...]


def pool_report(entry: Resolved, fault: Fault | None, advanced: Advanced, specs: list[ServicePortSliceSpec],
                standing: list[ServicePortSlice] | None, view: View, book: Ledger, room: Capacity, scope: int) -> PoolReport:
    """Status and Events of `entry.pool`. `standing`: its slices, if they stand as wanted; `specs`: as they are wanted."""
    pool = entry.pool
    if not advanced.drafts:
        reason = "the pool is not accepted" if fault else "it has no virtual address yet"
        programmed = Verdict("Programmed", False, "NotAccepted" if fault else "Pending", f"nothing is programmed: {reason}")
    elif not entry.virtual_addresses:
        programmed = Verdict("Programmed", False, "NoAddress", "the pool has no virtual address any more: connections that stand go on, new ones "
                             "are not its own; see the condition ResolvedRefs")
    else:
        programmed = _programmed(pool, standing, advanced, view)
    left_out = "".join(f"; {fault.message}" for fault in entry.skipped)
    policed = _policed(entry)
    servers = _servers_of(entry, advanced.drafts)
    unresolved = [*entry.faults, *_absent(pool, "spec.pinned", (pin.server for pin in pool.spec.pinned), servers)]
    verdicts = [
        judged("Accepted", fault, f"{room.servers} servers need {room.need} of {room.total} service ports, {room.reserve} more in reserve"),
        judged("ResolvedRefs", joined(unresolved), f"all references are resolved{left_out}"),
        programmed,
        Verdict("Policed", policed is not None, policed.reason if policed else "NotSelected",
                policed.message if policed else "no NetworkPolicy selects a server")]
    status = ServicePortPoolStatus(
        observed_generation=pool.metadata.generation, scope=scope, virtual_addresses=entry.virtual_addresses,
        ports=_port_counts(pool, entry.virtual_addresses, specs, book, room), servers=_server_counts(specs),
        conditions=conditions(verdicts, pool.status.conditions, pool.metadata.generation, view.clock))
    refused = [_refusal(node, why) for node, why in view.faults_of(pool.metadata.uid).items()][:NAMED]
    said = [*([fault] if fault else []), *unresolved, *entry.skipped, *refused, *_about(advanced), *_tight(fault, room),
            *([policed] if policed else [])]
    return PoolReport(status, (*_warnings(pool, said), *_hints(pool)), programmed, servers)


def redirect_report(case: RedirectCase, pool: PoolReport | None, drafts: list[Draft], view: View,
                    held_back: Sequence[Fault] = ()) -> RedirectReport:
    """Status and Events of a redirect pool; `pool` is what was said of its service port pool, `held_back` why servers of it
    share none of the ports."""
    redirect = case.redirect
    name = redirect.metadata.name
    if not case.accepted or pool is None:
        programmed = Verdict("Programmed", False, "NotAccepted", "nothing is programmed: see the conditions Accepted and ResolvedRefs")
    else:
        programmed = pool.programmed
    if held_back and programmed.holds:
        programmed = judged("Programmed", held_back[0], "")
    ready = {(record.server, record.pod_uid) for draft in drafts for record in draft.records
             if record.state is READY and name in record.redirects}
    subset = redirect.spec.servers.names if redirect.spec.servers else None
    absent = _absent(case.pool, "spec.servers.names", subset or (), pool.servers) if case.pool and pool else []
    unresolved = [*([case.reference_fault] if case.reference_fault else []), *absent]
    verdicts = [judged("Accepted", case.fault, "the redirect ports are free on the virtual addresses"),
                judged("ResolvedRefs", joined(unresolved), "all references are resolved"), programmed]
    status = RedirectPortPoolStatus(
        observed_generation=redirect.metadata.generation, virtual_addresses=case.virtual_addresses if case.accepted else (),
        servers=RedirectServerCounts(ready=len(ready)),
        conditions=conditions(verdicts, redirect.status.conditions, redirect.metadata.generation, view.clock))
    return RedirectReport(status, _warnings(redirect, [fault for fault in (case.fault, *unresolved, *held_back) if fault]))


def _servers_of(entry: Resolved, drafts: list[Draft]) -> frozenset[str] | None:
    """Those there are, and those that are remembered, so that a pod that is replaced is not said to be missing."""
    if entry.keep:
        return None
    remembered = (record.server.rpartition("/")[2] for draft in drafts for record in draft.records)
    return frozenset({*(server.short_name for server in entry.servers), *remembered})


def _absent(pool: ServicePortPool, where: str, names: Iterable[str], servers: frozenset[str] | None) -> list[Fault]:
    """Names of servers that the pool does not have: no more than a word, as the others go on without them."""
    absent = sorted(set(names) - servers) if servers is not None else []
    return [Fault("ServerNotFound", f"{where}: ServicePortPool {pool.metadata.name} has no server {_named(absent)}; correct the name, or start "
                  "the pod")] if absent else []


def _refusal(node: str, why: str) -> Fault:
    return Fault("NodeFault", f"node {node} cannot program the pool as it stands, and what it had goes on: {why}")


def _programmed(pool: ServicePortPool, standing: list[ServicePortSlice] | None, advanced: Advanced, view: View) -> Verdict:
    """True when every live agent has the slices as they stand and no server waits for one. The first reason against it is given."""
    def against(reason: str, message: str) -> Verdict:
        return Verdict("Programmed", False, reason, message)

    if standing is None:
        return against("Pending", "slices are being written")
    if not view.live:
        return against("NoAgents", "no node has a live agent; see the pods of the DaemonSet wharfinger-agent")
    refused = view.faults_of(pool.metadata.uid)
    if refused:
        node, why = next(iter(refused.items()))
        others = f" (and so do {len(refused) - 1} more nodes)" if len(refused) > 1 else ""
        return against("NodeFault", f"{_refusal(node, why).message}{others}")
    behind = sorted({node for piece in standing for node in view.unacknowledged(piece, piece.version, view.live)})
    if behind:
        # Many acknowledge at nearly the same time: who is still to come is worth a write of every status only when few are left.
        nodes = _named(behind) if len(behind) <= NAMED else f"more than {NAMED} nodes"
        return against("Pending", f"agents of {nodes} have not programmed the current tables yet")
    if advanced.without_port:
        return against("NoFreePorts", f"no service port for {_servers(advanced.without_port)}: all are in use, at rest, pinned elsewhere "
                       "or taken on the server's own address; add numbers to spec.portRanges, or wait for resting ones")
    if advanced.outdated:
        return against("TargetChanged", _outdated(advanced.outdated))
    homeless = _homeless(advanced)
    if homeless:
        return against(homeless.reason, homeless.message)
    if advanced.waiting:
        return against("ServersWaiting", f"{_servers(advanced.waiting)} not attached yet; see the agent's log on "
                       f"{_named(sorted({server.node for server in advanced.waiting}))}")
    left_out = f"; no service port for {_servers(advanced.without_agent)}: no live agent there" if advanced.without_agent else ""
    return Verdict("Programmed", True, "Programmed", f"every live agent has programmed the current tables{left_out}")


def _outdated(servers: list[Server]) -> str:
    return (f"{_servers(servers)} keep the former port of a target in spec.targets, for connections live by it: restart them, so that their "
            "successors get the new one")


def _homeless(advanced: Advanced) -> Fault | None:
    """Said of servers that wait for ever."""
    servers = [server for server in advanced.waiting if not server.node]
    return Fault("ServersWaiting", f"{_servers(servers)} cannot become Ready: no agent can attach a static server without a node; "
                 "set spec.servers.static[].node") if servers else None


def _about(advanced: Advanced) -> list[Fault]:
    said = [Fault("NoAgent", f"server {server.name} gets no service port: node {server.node} has no live agent; see the wharfinger-agent "
                  "pod of that node") for server in advanced.without_agent[:NAMED]]
    if advanced.without_port:
        said.append(Fault("NoFreePorts", f"{len(advanced.without_port)} servers get no service port: none is free; add numbers to "
                          "spec.portRanges, or wait for resting ones"))
    if advanced.outdated:
        said.append(Fault("TargetChanged", _outdated(advanced.outdated)))
    if homeless := _homeless(advanced):
        said.append(homeless)
    return said


def _hints(pool: ServicePortPool) -> tuple[EventWanted, ...]:
    """What is no fault, and worth a word."""
    clash = next((span for span in pool.spec.port_ranges if span.overlaps(EPHEMERAL)), None)
    if clash is None:
        return ()
    return (EventWanted(pool, "Normal", "EphemeralPorts", f"spec.portRanges: {clash} is among {EPHEMERAL}, from which kernels choose ports for "
                        "outgoing connections: a server's own connection from one of its service ports works and is unaware; numbers below "
                        f"{EPHEMERAL.first} avoid that"),)


def _policed(entry: Resolved) -> Fault | None:
    """Which servers NetworkPolicies keep unaware."""
    servers = [server for server in entry.servers if not server.leaving]
    selected = [server for server in servers if server.policy]
    if not selected:
        return None
    names = _named(sorted({server.policy for server in selected}))
    return Fault("NetworkPolicy", f"{len(selected)} of {len(servers)} servers are unaware by rule, as NetworkPolicy {names} selects them for "
                 f"ingress: {_servers(selected)}. kube-proxy balances their new connections and the policy engine judges them; those that "
                 "stand go on. For aware ones let no policy select them")


def _tight(fault: Fault | None, room: Capacity) -> list[Fault]:
    short = room.need + room.reserve - room.total
    if fault is not None or short <= 0:
        return []
    return [Fault("ReserveInUse", f"{room.servers} servers need {room.need} of {room.total} service ports, which leaves less than the "
                  f"reserve of {room.reserve} (surgePercent): add {short} numbers to spec.portRanges before the next roll-out")]


def _warnings(resource: ServicePortPool | RedirectPortPool, faults: Iterable[Fault]) -> tuple[EventWanted, ...]:
    return tuple(EventWanted(resource, "Warning", fault.reason, fault.message) for fault in faults)


def _port_counts(pool: ServicePortPool, addresses: tuple[str, ...], specs: list[ServicePortSliceSpec], book: Ledger,
                 room: Capacity) -> PortCounts:
    """`used` and `resting` are this pool's; what is neither and not free belongs to a pool that is being deleted."""
    ranges = pool.spec.port_ranges
    resting = {port for spec in specs for record in spec.assignments if record.state is RESTING for port in record.ports}
    used = {port for spec in specs for record in spec.assignments if record.state is not RESTING for port in record.ports}
    held = {port for address in addresses for port in book.virtual[address] if any(port in span for span in ranges)}
    inside = {port for port in used | resting | held if any(port in span for span in ranges)}
    return PortCounts(total=room.total, used=len(used), resting=len((resting | held) - used), free=max(0, room.total - len(inside)))


def _server_counts(specs: list[ServicePortSliceSpec]) -> ServerCounts:
    """Each server once, by the best state that it has an assignment in."""
    best: dict[tuple[str, str], str] = {}
    for state in (DRAINING, ASSIGNED, READY):
        for spec in specs:
            for record in spec.assignments:
                if record.state is state:
                    best[record.server, record.pod_uid] = state
    states = list(best.values())
    return ServerCounts(assigned=states.count(ASSIGNED), ready=states.count(READY), draining=states.count(DRAINING))


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


def _servers(servers: list[Server]) -> str:
    return _named([server.name for server in servers])

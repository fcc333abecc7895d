"""One pool's part of the tables, compiled from its ServicePortSlices: pure, with names where the tables have indexes.

TCP only: other protocols' targets make no entries yet. A server may have several records (docs/architecture.md, "Make before break"): all
their service ports work, and it is as ready as the readiest; it names the ports of that one alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wharfinger_api import Assignment, Redirect, ServicePortSlice

from wharfinger_dataplane import _records as records

ServerId = tuple[int, str]  # scope, address
SetId = tuple[int, str]     # scope, SET and the name of the redirect pool
STATES = {"Ready": records.ServerState.READY, "Draining": records.ServerState.DRAINING}
POLICIES = {"Hash": records.Policy.HASH, "Random": records.Policy.RANDOM, "RoundRobin": records.Policy.ROUND_ROBIN}
MOVES = {"Never": records.MoveMode.NEVER, "Close": records.MoveMode.CLOSE}
RANKS = {"Assigned": 0, "Draining": 1, "Ready": 2}
SET = "set:"


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
    """The fragment of one pool from all its slices. ValueError: a redirect pool has more ready servers than a set has slots."""
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
                _compile_record(piece, assignment, redirects, ports, named, out)
        for address in () if piece.spec.pool.deleted_at else piece.spec.virtual_addresses:
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


def _compile_record(piece: ServicePortSlice, record: Assignment, redirects: Mapping[str, Redirect], ports: dict[int, ServerId | SetId],
                    named: dict[tuple[SetId, str], Offer], out: Fragment) -> None:
    scope, moves = piece.spec.scope, MOVES[piece.spec.moves.mode]
    server, rank, state = (scope, record.address), RANKS[record.state], STATES.get(record.state)
    if state is not None and out.servers.get(server) is not records.ServerState.READY:
        out.servers[server] = state
    for target in (target for target in record.targets if target.protocol == "TCP"):
        for port in target.service_ports:
            out.server_ports[records.pack_server_port_key(record.address, port)] = records.pack_server_port(scope, target.target_port, moves=moves)
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
                value = records.pack_server_port(scope, target.target_port, sorted(offer.ports)[:records.SERVICE_PORTS_MAX], moves)
                for span in redirects[name].ports:
                    out.server_ports.update({records.pack_server_port_key(record.address, port, scope): value for port in span})

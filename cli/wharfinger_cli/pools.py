"""`wharfinger pools`: every pool with its ports, servers and conditions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wharfinger_api import Condition, RedirectPortPool, ServicePortPool

from ._output import console, table
from ._problems import Problem, print_problems
from ._seen import Pools

if TYPE_CHECKING:
    from rich.console import Console

CONDITIONS = ("Accepted", "ResolvedRefs", "Programmed")


@dataclass(frozen=True)
class ConditionView:
    """One of a pool's conditions; `status` is True, False or Unknown."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True)
class ServicePoolView:
    """A ServicePortPool. Numbers of ports: total = used + resting + free. `current`: the operator has seen the latest generation."""

    namespace: str
    name: str
    virtual_addresses: tuple[str, ...]
    port_ranges: tuple[str, ...]
    scope: int | None
    total: int
    used: int
    resting: int
    free: int
    servers_ready: int
    servers_assigned: int
    servers_draining: int
    current: bool
    programmed: bool
    conditions: tuple[ConditionView, ...]


@dataclass(frozen=True)
class RedirectPoolView:
    """A RedirectPortPool. `ports` are redirect ports, `pool` the ServicePortPool in the same namespace."""

    namespace: str
    name: str
    pool: str
    target: str
    ports: tuple[str, ...]
    protocol: str
    policy: str
    virtual_addresses: tuple[str, ...]
    servers_ready: int
    current: bool
    programmed: bool
    conditions: tuple[ConditionView, ...]


@dataclass(frozen=True)
class PoolsView:
    """What `wharfinger pools -o json` prints."""

    problems: tuple[Problem, ...]
    service_port_pools: tuple[ServicePoolView, ...]
    redirect_port_pools: tuple[RedirectPoolView, ...]


def build_pools(seen: Pools) -> PoolsView:
    """The view of all pools, by namespace and name. Pure."""
    services = tuple(_service_pool(pool) for pool in sorted(seen.services, key=lambda pool: pool.key))
    redirects = tuple(_redirect_pool(pool) for pool in sorted(seen.redirects, key=lambda pool: pool.key))
    found = {view: _problem("ServicePortPool", view) for view in services}
    troubled = {(view.namespace, view.name) for view, problem in found.items() if problem}
    for view in redirects:
        # What a redirect port pool has from its service port pool is said once, of the latter.
        own = next((condition for condition in view.conditions if condition.status != "True"), None)
        inherited = (view.namespace, view.pool) in troubled and (own is None or own.type == "Programmed")
        found[view] = None if inherited else _problem("RedirectPortPool", view)
    return PoolsView(tuple(problem for problem in found.values() if problem), services, redirects)


def print_pools(view: PoolsView, out: Console | None = None) -> None:
    """Problems first, then one table a kind."""
    out = out or console()
    print_problems(out, view.problems)
    if not view.service_port_pools and not view.redirect_port_pools:
        out.print("No pools. Declare one: kubectl apply -f examples/shop/20-pools.yaml")
        return
    out.print(table(
        ("service port pool", "address", "ranges", "used", "free", "resting", "servers", "programmed"),
        ((f"{pool.namespace}/{pool.name}", " ".join(pool.virtual_addresses) or "-", " ".join(pool.port_ranges), pool.used, pool.free,
          pool.resting, _servers(pool), _yes(pool.programmed)) for pool in view.service_port_pools)))
    out.print()
    out.print(table(
        ("redirect port pool", "address", "ports", "target", "policy", "servers", "programmed"),
        ((f"{pool.namespace}/{pool.name}", " ".join(pool.virtual_addresses) or "-", " ".join(pool.ports), f"{pool.pool}/{pool.target}",
          pool.policy, f"{pool.servers_ready} ready", _yes(pool.programmed)) for pool in view.redirect_port_pools)))


def _service_pool(pool: ServicePortPool) -> ServicePoolView:
    status = pool.status
    return ServicePoolView(
        namespace=pool.metadata.namespace, name=pool.metadata.name, virtual_addresses=status.virtual_addresses,
        port_ranges=tuple(map(str, pool.spec.port_ranges)), scope=status.scope,
        total=status.ports.total, used=status.ports.used, resting=status.ports.resting, free=status.ports.free,
        servers_ready=status.servers.ready, servers_assigned=status.servers.assigned, servers_draining=status.servers.draining,
        current=status.observed_generation >= pool.metadata.generation,
        programmed=_holds(status.conditions, "Programmed"), conditions=_conditions(status.conditions))


def _redirect_pool(pool: RedirectPortPool) -> RedirectPoolView:
    status = pool.status
    return RedirectPoolView(
        namespace=pool.metadata.namespace, name=pool.metadata.name, pool=pool.spec.service_port_pool.name, target=pool.spec.target,
        ports=tuple(map(str, pool.spec.ports)), protocol=pool.spec.protocol, policy=pool.spec.policy,
        virtual_addresses=status.virtual_addresses, servers_ready=status.servers.ready,
        current=status.observed_generation >= pool.metadata.generation,
        programmed=_holds(status.conditions, "Programmed"), conditions=_conditions(status.conditions))


def _conditions(conditions: Iterable[Condition]) -> tuple[ConditionView, ...]:
    known = {condition.type: condition for condition in conditions}
    order = [*(kind for kind in CONDITIONS if kind in known), *sorted(known.keys() - set(CONDITIONS))]
    return tuple(ConditionView(kind, known[kind].status, known[kind].reason, known[kind].message) for kind in order)


def _holds(conditions: Iterable[Condition], kind: str) -> bool:
    return any(condition.type == kind and condition.status == "True" for condition in conditions)


def _problem(kind: str, view: ServicePoolView | RedirectPoolView) -> Problem | None:
    """The first of the conditions that does not hold, for the later ones follow from it; its message bears the remedy."""
    where = f"{kind} {view.namespace}/{view.name}"
    if not view.current or not view.conditions:
        return Problem(where, "the operator has not looked at its latest version", "wharfinger status says whether the operator runs")
    for condition in view.conditions:
        if condition.type in CONDITIONS and condition.status != "True":
            describe = f"kubectl describe {kind.lower()} --namespace {view.namespace} {view.name}"
            return Problem(where, f"not {condition.type} ({condition.reason})", condition.message or describe)
    policed = next((condition for condition in view.conditions if condition.type == "Policed" and condition.status == "True"), None)
    if policed:
        return Problem(where, f"a NetworkPolicy keeps connections to its servers unaware ({policed.reason})", policed.message)
    if view.servers_ready == 0:
        return Problem(where, "no server is ready, so its connections are unaware",
                       f"Is a server's pod Ready, has its node an agent? kubectl get pods --namespace {view.namespace}; wharfinger status")
    return None


def _servers(pool: ServicePoolView) -> str:
    others = [f"{count} {state}" for state, count in (("assigned", pool.servers_assigned), ("draining", pool.servers_draining)) if count]
    return ", ".join([f"{pool.servers_ready} ready", *others])


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"

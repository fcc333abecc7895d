"""`wharfinger status`: does every piece run, does every node have what it should, and if not, what is to be done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wharfinger_api import NodeReport, ServicePortSlice

from ._neighbours import noted, refused
from ._output import console, table
from ._problems import INSTALL, Problem, print_notes, print_problems
from ._seen import AgentLease, AgentPod, Installation, Pools, Workload
from .pools import PoolsView, build_pools

if TYPE_CHECKING:
    from rich.console import Console

CONSEQUENCES = {
    "operator": "ports are neither given nor freed; connections go on",
    "injector": "new pods start without the sidecar, and their connections unaware",
    "agent": "on nodes without an agent tables stay as they are, and new pods are unaware",
}
NAMED = 3
"""So many slices are named in a problem; the others are counted."""


@dataclass(frozen=True)
class ComponentView:
    """Operator, injector or agent as a whole: how many pods of how many are ready."""

    component: str
    namespace: str
    name: str
    version: str
    ready: int
    wanted: int


@dataclass(frozen=True)
class NodeView:
    """One node. `agent`: ready, a reason such as CrashLoopBackOff, not ready, or none; `kernel` and `attach_mode` (tcx or clsact) as its
    agent reports them; `lease`: live, late or none; `lease_age_s` in seconds; `slices_current` of `slices` are programmed in their latest
    generation; `servers` and `clients`: pods with a translator."""

    node: str
    agent: str
    version: str
    kernel: str
    attach_mode: str
    lease: str
    lease_age_s: int | None
    slices_current: int
    slices: int
    servers: int
    clients: int


@dataclass(frozen=True)
class StatusView:
    """What `wharfinger status -o json` prints. `pools_programmed` of `pools` are Programmed, pools of both kinds; `notes` need no action to
    work."""

    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    components: tuple[ComponentView, ...]
    nodes: tuple[NodeView, ...]
    pools_programmed: int
    pools: int


def build_status(seen: Installation, pools: Pools) -> StatusView:
    """The view of the installation. Pure."""
    pools_view = build_pools(pools)
    nodes = tuple(_node(name, seen, pools) for name in sorted({*seen.nodes, *(lease.node for lease in seen.leases)}))
    every = (*pools_view.service_port_pools, *pools_view.redirect_port_pools)
    return StatusView(
        problems=(*_problems(seen, pools, pools_view, nodes), *refused(pools.reports)),
        notes=tuple(noted(pools.reports)),
        components=tuple(ComponentView(found.component, found.namespace, found.name, found.version, found.ready, found.wanted)
                         for found in sorted(seen.workloads, key=lambda found: list(CONSEQUENCES).index(found.component))),
        nodes=nodes,
        pools_programmed=sum(pool.programmed for pool in every),
        pools=len(every),
    )


def print_status(view: StatusView, out: Console | None = None) -> None:
    """Problems and notes first, then components, nodes, and one line about pools."""
    out = out or console()
    print_problems(out, view.problems)
    print_notes(out, view.notes)
    out.print(table(("component", "namespace", "ready", "version"),
                    ((found.component, found.namespace, f"{found.ready}/{found.wanted}", found.version) for found in view.components)))
    out.print()
    out.print(table(("node", "agent", "version", "kernel", "attach", "lease", "slices", "servers", "clients"),
                    ((node.node, node.agent, node.version or "-", node.kernel or "-", node.attach_mode or "-", _lease_text(node),
                      f"{node.slices_current}/{node.slices}", node.servers, node.clients) for node in view.nodes)))
    out.print()
    out.print(f"{view.pools_programmed} of {view.pools} pools are Programmed." if view.pools else "No pools.", soft_wrap=True)
    if not view.problems:
        out.print("All is well.")


def _node(name: str, seen: Installation, pools: Pools) -> NodeView:
    pod, lease, report = _agent_of(name, seen.agents), _lease_of(name, seen.leases), _report_of(name, pools.reports)
    state, age_s = _lease_state(lease, seen)
    status = report.status if report else None
    return NodeView(
        node=name, agent=_agent_state(pod), version=status.agent_version if status else "", kernel=status.kernel if status else "",
        attach_mode=status.attach_mode if status else "", lease=state, lease_age_s=age_s,
        slices_current=len(pools.slices) - len(_behind(report, pools.slices)), slices=len(pools.slices),
        servers=len(status.servers) if status else 0, clients=len(status.clients) if status else 0)


def _problems(seen: Installation, pools: Pools, pools_view: PoolsView, nodes: Iterable[NodeView]) -> Iterator[Problem]:
    for component in CONSEQUENCES:
        yield from _component_problems(component, [found for found in seen.workloads if found.component == component])
    missing = sum(found.wanted for found in seen.workloads if found.component == "agent") - len(seen.agents)
    for node in nodes:
        yield from _node_problems(node, seen, pools, missing > 0)
    yield from pools_view.problems


def _component_problems(component: str, found: list[Workload]) -> Iterator[Problem]:
    if not found:
        yield Problem(component, f"is not installed: {CONSEQUENCES[component]}", INSTALL)
    for workload in found:
        where = f"{component} ({workload.kind} {workload.namespace}/{workload.name})"
        look = (f"kubectl get pods --namespace {workload.namespace} --selector app.kubernetes.io/component={component}, "
                "then kubectl describe and logs of what is not ready")
        if component == "agent":  # told node by node
            continue
        if workload.wanted == 0:
            yield Problem(where, f"is scaled to 0: {CONSEQUENCES[component]}",
                          f"kubectl scale --namespace {workload.namespace} {workload.kind.lower()}/{workload.name} --replicas=1")
        elif workload.ready == 0:
            yield Problem(where, f"none of {workload.wanted} pods is ready: {CONSEQUENCES[component]}", look)
        elif workload.ready < workload.wanted:
            yield Problem(where, f"{workload.ready} of {workload.wanted} pods are ready", look)


def _node_problems(node: NodeView, seen: Installation, pools: Pools, agents_missing: bool) -> Iterator[Problem]:
    """The first thing that is wrong with a node's agent: what follows from it is not said again."""
    where, pod = f"node {node.node}", _agent_of(node.node, seen.agents)
    if pod is None:
        if agents_missing or node.lease == "live":
            yield Problem(where, "has no agent's pod",
                          "kubectl describe daemonset --all-namespaces --selector app.kubernetes.io/component=agent")
        return
    logs = f"kubectl logs --namespace {pod.namespace} {pod.name}"
    report = _report_of(node.node, pools.reports)
    if not pod.ready:
        yield Problem(where, f"its agent is not ready ({pod.trouble or 'no reason given'})",
                      f"kubectl describe pod --namespace {pod.namespace} {pod.name}; {logs}")
    elif node.lease != "live":
        late = "never" if node.lease_age_s is None else f"{node.lease_age_s} s ago"
        yield Problem(where, f"its agent's heartbeat is {node.lease} (renewed {late})", logs)
    elif report is None:
        yield Problem(where, "its agent has not written its NodeReport", logs)
    else:
        yield from _report_problems(where, report, pools.slices, logs)


def _report_problems(where: str, report: NodeReport, slices: tuple[ServicePortSlice, ...], logs: str) -> Iterator[Problem]:
    for condition in report.status.conditions:
        if condition.type == "Ready" and condition.status != "True":
            yield Problem(where, f"its agent is not Ready ({condition.reason})", condition.message or logs)
            return
    behind = _behind(report, slices)
    if behind:
        others = f" and {len(behind) - NAMED} more" if len(behind) > NAMED else ""
        yield Problem(where, f"has not programmed the latest of {', '.join(behind[:NAMED])}{others}",
                      f"Mostly a matter of a moment; if it stays so: {logs}")


def _behind(report: NodeReport | None, slices: tuple[ServicePortSlice, ...]) -> list[str]:
    """namespace/name of the slices which the node has not programmed as they stand."""
    return [f"{piece.metadata.namespace}/{piece.metadata.name}" for piece in slices if report is None or not report.status.slices.has(piece)]


def _agent_of(node: str, agents: Iterable[AgentPod]) -> AgentPod | None:
    """The node's agent; of two, while one replaces the other, the ready one."""
    return max((pod for pod in agents if pod.node == node), key=lambda pod: pod.ready, default=None)


def _lease_of(node: str, leases: Iterable[AgentLease]) -> AgentLease | None:
    return next((lease for lease in leases if lease.node == node), None)


def _report_of(node: str, reports: Iterable[NodeReport]) -> NodeReport | None:
    return next((report for report in reports if report.metadata.name == node), None)


def _agent_state(pod: AgentPod | None) -> str:
    if pod is None:
        return "none"
    return "ready" if pod.ready else pod.trouble or "not ready"


def _lease_state(lease: AgentLease | None, seen: Installation) -> tuple[str, int | None]:
    if lease is None or lease.renewed is None:
        return "none", None
    age_s = max(0, int((seen.now - lease.renewed).total_seconds()))
    return ("live" if age_s <= lease.duration_s else "late"), age_s


def _lease_text(node: NodeView) -> str:
    return node.lease if node.lease_age_s is None else f"{node.lease}, {node.lease_age_s}s"

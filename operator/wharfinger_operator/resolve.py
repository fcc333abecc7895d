"""From a pool's references to addresses and servers. Pure; faults are said, never raised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wharfinger_api import LabelSelector, RedirectPortPool, ServicePortPool, Target

from .records import Pod, Service
from .view import View


@dataclass(frozen=True, slots=True)
class Fault:
    """Why something cannot be done: a condition's or Event's reason, and a message with the remedy."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server that the pool wants. `ports`: target name to the port its application listens on, where that is known.

    `uid` is empty for static servers; `policy` is the NetworkPolicy that keeps connections to it unaware, if one does; `avoid` are
    numbers it listens on itself, which would be taken for service ports.
    """

    name: str
    uid: str
    address: str
    node: str
    ready: bool
    leaving: bool
    labels: Mapping[str, str]
    ports: Mapping[str, int]
    avoid: frozenset[int]
    policy: str = ""

    @property
    def awaited(self) -> bool:
        """Whether it can be chosen for connections once it is attached."""
        return self.ready and not self.policy

    @property
    def identity(self) -> tuple[str, str, str]:
        """What an assignment is bound to: another uid or address is another server."""
        return self.name, self.uid, self.address

    @property
    def short_name(self) -> str:
        """The name without the namespace, as pinned and subsets use it."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A pool's references as they stand. `keep`: the servers are unknown, so those that have ports are kept."""

    pool: ServicePortPool
    virtual_addresses: tuple[str, ...]
    servers: tuple[Server, ...]
    keep: bool = False
    faults: tuple[Fault, ...] = ()
    skipped: tuple[Fault, ...] = field(default=())
    """What is left out, and nothing else is the worse for it."""


def resolve(pool: ServicePortPool, view: View) -> Resolved:
    """What `pool` refers to in `view`."""
    faults: list[Fault] = []
    skipped: list[Fault] = []
    addresses = _virtual_addresses(pool, view, faults, skipped)
    if pool.spec.servers.static is not None:
        return Resolved(pool, addresses, _static(pool, view, skipped), faults=tuple(faults), skipped=tuple(skipped))
    pods, ready, keep = _pods(pool, view, faults)
    servers: list[Server] = []
    for pod in sorted(pods, key=lambda pod: pod.name):
        _take(pool, pod, pod.ready or ready, addresses, view, servers, skipped)
    for target in pool.spec.targets:
        lacking = [server.name for server in servers if target.name not in server.ports]
        if lacking:
            faults.append(Fault("TargetPortNotFound", f"target {target.name}: {_some(lacking)} has no container port named "
                                f"{target.target_port!r}; name the port in the pod's spec, or give targetPort as a number"))
    return Resolved(pool, addresses, tuple(servers), keep, tuple(faults), tuple(skipped))


def members(redirect: RedirectPortPool, server: Server) -> bool:
    """Whether `server` shares the ports of `redirect`."""
    subset = redirect.spec.servers
    if subset is None:
        return True
    if subset.names is not None:
        return server.short_name in subset.names
    return all(server.labels.get(label) == value for label, value in (subset.match_labels or {}).items())


def _virtual_addresses(pool: ServicePortPool, view: View, faults: list[Fault], skipped: list[Fault]) -> tuple[str, ...]:
    literal, named = pool.spec.virtual_addresses.literal, pool.spec.virtual_addresses.service
    if literal is not None:
        return _literal(pool, literal, view, faults)
    name = named.name if named else ""
    service = _service(pool, name, "spec.virtualAddresses.service", view, faults)
    addresses = tuple(address for address in service.cluster_ips if ":" not in address) if service is not None else ()
    if service is not None and addresses:
        if others := [address for address in service.cluster_ips if address not in addresses]:
            skipped.append(Fault("IPv6NotServed", f"spec.virtualAddresses.service: {', '.join(others)} of Service {name} is left to kube-proxy: only "
                                 "IPv4 is supported; aware clients that dial it are served as unaware ones are"))
        return addresses
    if service is not None and service.cluster_ips:
        faults.append(Fault("Unsupported", f"spec.virtualAddresses.service: Service {name} has IPv6 cluster IPs only, and only IPv4 is supported; "
                            "give it an IPv4 cluster IP (ipFamilyPolicy: PreferDualStack)"))
    elif service is not None:
        faults.append(Fault("NoClusterIP", f"spec.virtualAddresses.service: Service {name} is headless; "
                            "name a Service with a cluster IP, or give literal addresses"))
    slices = view.slices_of(pool.metadata.uid)
    return _still_its_own(slices[0].spec.virtual_addresses if slices else (), name, view, faults)


def _still_its_own(addresses: tuple[str, ...], name: str, view: View, faults: list[Fault]) -> tuple[str, ...]:
    """Of the addresses that a Service had which is gone: those that no other has by now."""
    kept = []
    for address in addresses:
        services = view.services_at(address)
        if services:
            faults.append(Fault("AddressOfService", f"spec.virtualAddresses.service: {address}, which Service {name} had, is the cluster IP of "
                                f"Service {'/'.join(min(services))} now: new connections to it are not this pool's, those that stand go on"))
        else:
            kept.append(address)
    return tuple(kept)


def _literal(pool: ServicePortPool, addresses: tuple[str, ...], view: View, faults: list[Fault]) -> tuple[str, ...]:
    """The addresses, or none, but for a pool that runs: those that are right. Whoever may write a pool shall not take other namespaces' traffic
    with it, nor that to the world outside."""
    kept = []
    for address in addresses:
        services = view.services_at(address)
        if services:
            faults.append(Fault("AddressOfService", f"spec.virtualAddresses.literal: {address} is the cluster IP of Service "
                                f"{'/'.join(min(services))}; a pool in its namespace can name it by spec.virtualAddresses.service"))
        elif not view.may_be_literal(address):
            faults.append(Fault("AddressNotPermitted", f"spec.virtualAddresses.literal: {address} is not among the addresses that pools may give "
                                "literally; name a Service instead, or have operator.literalAddresses in the chart's values include it"))
        else:
            kept.append(address)
    return tuple(kept) if len(kept) == len(addresses) or view.slices_of(pool.metadata.uid) else ()


def _service(pool: ServicePortPool, name: str, where: str, view: View, faults: list[Fault]) -> Service | None:
    service = view.service((pool.metadata.namespace, name))
    if service is None:
        faults.append(Fault("ServiceNotFound", f"{where}: no Service {name} in namespace {pool.metadata.namespace}; "
                            "create it, or correct the name"))
    return service


def _pods(pool: ServicePortPool, view: View, faults: list[Fault]) -> tuple[list[Pod], bool, bool]:
    """The selected pods; whether those that are not ready count as ready; whether the selection is unknown."""
    namespace, source = pool.metadata.namespace, pool.spec.servers
    if source.selector is not None:
        return view.pods(namespace, source.selector), False, False
    name = source.service.name if source.service else ""
    service = _service(pool, name, "spec.servers.service", view, faults)
    if service is None:
        return [], False, True
    if service.selector:
        return view.pods(namespace, LabelSelector(match_labels=dict(service.selector))), service.publish_not_ready, False
    pods, named = view.pods_of_endpoints((namespace, name))
    if not named:
        faults.append(Fault("NoPods", f"spec.servers.service: Service {name} has no selector and its EndpointSlices name no pods; "
                            "use spec.servers.selector or static"))
    return pods, service.publish_not_ready, False


def _take(pool: ServicePortPool, pod: Pod, ready: bool, virtual_addresses: tuple[str, ...], view: View,
          servers: list[Server], skipped: list[Fault]) -> None:
    """Appends `pod` to `servers`, or says in `skipped` why it can be none; a pod that has no address yet is not worth a word."""
    address = _matching(pod.addresses, virtual_addresses)
    if pod.finished or not pod.node or address is None:
        return
    if pod.host_network:
        skipped.append(Fault("HostNetwork", f"pod {pod.server} uses its node's network, where no translator can be attached: "
                             "it gets no service port; unset hostNetwork, or leave it out of the pool"))
        return
    ports = {target.name: port for target in pool.spec.targets if (port := _target_port(target, pod)) is not None}
    servers.append(Server(
        name=pod.server, uid=pod.uid, address=address, node=pod.node, ready=ready and not pod.terminating, leaving=pod.terminating,
        labels=pod.labels, ports=ports, avoid=pod.numbers | frozenset(ports.values()),
        policy=view.policy_of(pod)))


def _static(pool: ServicePortPool, view: View, skipped: list[Fault]) -> tuple[Server, ...]:
    """The servers listed, but for other namespaces' pods: `skipped` says which. A pod's owner alone says whether it serves."""
    ports = {target.name: target.target_port for target in pool.spec.targets if isinstance(target.target_port, int)}
    servers = []
    for entry in sorted(pool.spec.servers.static or (), key=lambda entry: entry.name):
        foreign = [pod.server for pod in view.pods_at(entry.address) if pod.namespace != pool.metadata.namespace]
        if foreign:
            skipped.append(Fault("ForeignPod", f"spec.servers.static: {entry.name} has the address of pod {foreign[0]}, of another namespace: "
                                 "it gets no service port; let a pool in that namespace serve"))
            continue
        servers.append(Server(name=entry.name, uid="", address=entry.address, node=entry.node or "", ready=True, leaving=False, labels={},
                              ports=ports, avoid=frozenset(ports.values())))
    return tuple(servers)


def _target_port(target: Target, pod: Pod) -> int | None:
    return target.target_port if isinstance(target.target_port, int) else pod.ports.get(target.target_port)


def _matching(addresses: tuple[str, ...], virtual_addresses: tuple[str, ...]) -> str | None:
    """The server's address in the family of the first virtual address that it has one in; of IPv4 when the pool has none left."""
    for family in [":" in virtual for virtual in virtual_addresses] or [False]:
        for address in addresses:
            if (":" in address) == family:
                return address
    return None


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"

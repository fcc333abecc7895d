"""What the operator keeps of other people's objects: small, frozen, parsed once at the edge.

Two records are equal exactly when nothing changed that a plan could depend on; so an event that changes no record costs no plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Key = tuple[str, str]
"""(namespace, name); the namespace of cluster-scoped objects is empty."""

FINISHED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod. `ports` maps container port names to (number, protocol); `numbers` are all declared container ports."""

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str]
    node: str
    addresses: tuple[str, ...]
    ready: bool
    terminating: bool
    finished: bool
    host_network: bool
    ports: Mapping[str, int]
    numbers: frozenset[int]

    @property
    def server(self) -> str:
        """The pod's name in slices and reports."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Service:
    """A Service: its cluster IPs (none when headless), own port numbers and pod selector."""

    cluster_ips: tuple[str, ...]
    ports: frozenset[int]
    selector: Mapping[str, str]
    publish_not_ready: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of an EndpointSlice that has no pod behind it, or names one."""

    address: str
    node: str
    ready: bool
    pod: str


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """The endpoints of a Service without a selector: who made them knows the servers better than labels do."""

    service: str
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Agent:
    """The Lease of a node's agent: seen renewed at `renewed`, good for `duration` seconds."""

    node: str
    renewed: datetime
    duration: float

    def live(self, now: datetime) -> bool:
        """Whether the Lease has not run out."""
        return (now - self.renewed).total_seconds() <= self.duration


@dataclass(frozen=True, slots=True)
class NodeSaid:
    """What one node's agent says in its NodeReport: the resourceVersion as of which it has programmed the slices, and by uid those of which it has
    another (-1: none); the servers it has attached (static servers go by address), and by uid the pools that it cannot program as they stand, with
    why. `policies`: which NetworkPolicy keeps a server unaware, by the pod's uid."""

    uid: str
    version: int
    exceptions: Mapping[str, int]
    uids: frozenset[str]
    addresses: frozenset[str]
    faults: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)

    def has(self, slice_uid: str, version: int) -> bool:
        """Whether this version of the slice is programmed, or a later one."""
        return self.exceptions.get(slice_uid, self.version) >= version

    def dropped(self, slice_uid: str, version: int) -> bool:
        """Whether a slice that was deleted by `version` is programmed no more."""
        return slice_uid not in self.exceptions and self.version >= version


def pod(raw: Mapping[str, Any]) -> Pod:
    """A core/v1 Pod."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    ports: dict[str, int] = {}
    numbers: set[int] = set()
    sidecars = [container for container in spec.get("initContainers") or () if container.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for port in container.get("ports") or ():
            numbers.add(port["containerPort"])
            if port.get("name"):
                ports.setdefault(port["name"], port["containerPort"])
    addresses = tuple(entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip"))
    return Pod(
        namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"], labels=dict(metadata.get("labels") or {}),
        node=spec.get("nodeName") or "", addresses=addresses, terminating="deletionTimestamp" in metadata,
        ready=any(entry["type"] == "Ready" and entry["status"] == "True" for entry in status.get("conditions") or ()),
        finished=status.get("phase") in FINISHED, host_network=bool(spec.get("hostNetwork")), ports=ports, numbers=frozenset(numbers))


def service(raw: Mapping[str, Any]) -> Service:
    """A core/v1 Service."""
    spec = raw.get("spec") or {}
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return Service(
        cluster_ips=tuple(address for address in addresses if address and address != "None"),
        ports=frozenset(port["port"] for port in spec.get("ports") or ()), selector=dict(spec.get("selector") or {}),
        publish_not_ready=bool(spec.get("publishNotReadyAddresses")))


def endpoint_slice(raw: Mapping[str, Any]) -> EndpointSlice:
    """A discovery.k8s.io/v1 EndpointSlice. An endpoint whose `ready` is unset counts as ready, as its API says."""
    endpoints: list[Endpoint] = []
    for entry in raw.get("endpoints") or ():
        reference = entry.get("targetRef") or {}
        named = f"{reference.get('namespace')}/{reference.get('name')}" if reference.get("kind") == "Pod" else ""
        ready = (entry.get("conditions") or {}).get("ready") is not False
        endpoints.extend(Endpoint(address, entry.get("nodeName") or "", ready, named) for address in (entry.get("addresses") or ())[:1])
    labels = raw["metadata"].get("labels") or {}
    return EndpointSlice(labels.get("kubernetes.io/service-name", ""), tuple(sorted(endpoints, key=lambda entry: entry.address)))


def node_report(raw: Mapping[str, Any]) -> NodeSaid:
    """A NodeReport, read by hand: each node writes one for each change, and the schema has checked it."""
    status = raw.get("status") or {}
    servers, said = status.get("servers") or (), status.get("slices")
    slices: Mapping[str, Any] = said if isinstance(said, Mapping) else {}  # An agent from before 0.1 listed them.
    return NodeSaid(
        uid=raw["metadata"]["uid"], version=int(slices.get("version", 0)),
        exceptions={entry["uid"]: int(entry.get("version") or -1) for entry in slices.get("except") or ()},
        uids=frozenset(entry["uid"] for entry in servers if entry.get("uid")),
        addresses=frozenset(entry.get("address", "") for entry in servers if not entry.get("uid")),
        faults={entry["uid"]: entry["message"] for entry in status.get("faults") or ()},
        policies={entry["uid"]: entry["policy"] for entry in servers if entry.get("policy")})

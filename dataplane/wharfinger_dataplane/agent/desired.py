"""What shall be attached on this node: a pure function of the slices, the node's pods and the namespaces found.

Rules:
- A server is a pod that an assignment names by its unique id (in any state but Resting), or a static server of this node.
- A client is an injected pod. One whose address the API server does not tell yet is a client already when it asks at the start gate, as
  long as an injected pod of this node is awaited; the API server's word, once it comes, goes before.
- What is attached stays as long as the API server tells of its pod: that its namespace is not found is no proof that it is gone.
- What is attached stays as long as its namespace is there, too, when the API server tells of nobody with its address any more: a pod that
  was deleted by force still has sockets, and the last packets of these (FIN, RST) must be translated or their peers wait for ever.
- An address that two pods claim is the younger one's: the older is ending, and its address was given away.
- A pod whose egress a NetworkPolicy selects is attached to even when it is neither, once there are service ports to be dialled past the
  policy. As long as such a pod has no address yet, any address that is nobody's may be its own and is treated so.
- Pods of the host's network, and pods that have ended, are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from wharfinger_api import CLIENT_LABEL, INJECTED_ANNOTATION, SIDECAR_CONTAINER, AssignmentState, AttachedPod, Policies, ServicePortSlice

from wharfinger_dataplane._records import Pod, Role
from wharfinger_dataplane.agent.namespaces import Namespace

AWARE = "aware"
ENDED = ("Succeeded", "Failed")
NO_POLICIES = Policies()


@dataclass(frozen=True)
class LocalPod:
    """A pod of this node. `addresses` is empty until the kubelet told; `gate_since`: when its sidecar was started, if the kubelet told."""

    namespace: str
    name: str
    uid: str
    addresses: tuple[str, ...]
    injected: bool
    ended: bool
    host_network: bool
    gate_since: datetime | None = None
    created: str = ""
    """RFC 3339, in UTC, as the API server writes it: in order as text."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Attachment:
    """An address of a pod at this node: its interface (index of the host's side), what it is to us, and whose it is. `pod` is None while
    only the pod itself has spoken, at the start gate, and when the API server tells of it no more. `namespace`: what the node's namespace
    calls the pod's, -1: not known. `ingress`, `egress`: the NetworkPolicy (namespace/name) that selects the pod in this direction, if one
    does."""

    interface: int
    roles: Role
    pod: AttachedPod | None
    namespace: int = -1
    ingress: str = ""
    egress: str = ""


@dataclass(frozen=True)
class Desired:
    """`attachments`: by address. `missing`: pods that should have a translator and whose interface is not found."""

    attachments: Mapping[str, Attachment] = field(default_factory=dict)
    missing: tuple[LocalPod, ...] = ()


def local_pod(raw: Mapping[str, Any]) -> LocalPod:
    """A pod as the API server gives it."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    return LocalPod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        addresses=tuple(found["ip"] for found in status.get("podIPs") or () if found.get("ip")),
        injected=INJECTED_ANNOTATION in (metadata.get("annotations") or {}) or (metadata.get("labels") or {}).get(CLIENT_LABEL) == AWARE,
        ended=status.get("phase") in ENDED,
        host_network=bool(spec.get("hostNetwork")),
        gate_since=_started(status),
        created=metadata.get("creationTimestamp") or "",
        labels=metadata.get("labels") or {},
    )


def _started(status: Mapping[str, Any]) -> datetime | None:
    for container in status.get("initContainerStatuses") or ():
        if container.get("name") == SIDECAR_CONTAINER:
            text = ((container.get("state") or {}).get("running") or {}).get("startedAt")
            return datetime.fromisoformat(text) if text else None
    return None


def desire(node: str, slices: Iterable[ServicePortSlice], pods: Iterable[LocalPod], namespaces: Iterable[Namespace],
           attached: Mapping[str, Pod], policies: Policies = NO_POLICIES) -> Desired:
    """What shall be attached on `node`. `attached`: what is, by address; it stands for a namespace that is not found."""
    namespaces, slices = tuple(namespaces), tuple(slices)
    numbers = {address: namespace.number for namespace in namespaces for address, _ in namespace.interfaces}
    found = {address: interface for namespace in namespaces for address, interface in namespace.interfaces}
    asking = {address for namespace in namespaces if namespace.asks for address, _ in namespace.interfaces}
    serving, static = _servers(node, slices)
    attachments: dict[str, Attachment] = {}
    missing = []
    live = sorted((pod for pod in pods if not pod.host_network and not pod.ended), key=lambda pod: (pod.created, pod.reference))
    owners = {address: pod.uid for pod in live for address in pod.addresses}
    for pod in live:
        ingress, egress = (policies.selecting(direction, pod.namespace, pod.labels) for direction in ("Ingress", "Egress"))
        roles = (Role.CLIENT if pod.injected else Role(0)) | (Role.SERVER if serving.get(pod.uid, "") in pod.addresses else Role(0))
        roles |= (Role.INGRESS_SELECTED if ingress and roles else Role(0)) | (Role.EGRESS_SELECTED if egress and (roles or slices) else Role(0))
        addresses = [address for address in pod.addresses if owners[address] == pod.uid]
        if not roles or not addresses:
            continue
        placed = {address: found.get(address) or (attached[address].ifindex if address in attached else 0) for address in addresses}
        if not any(placed.values()):
            missing.append(pod)
        for address, interface in placed.items():
            if interface:
                attachments[address] = Attachment(interface, roles, AttachedPod(pod=pod.reference, uid=pod.uid, address=address),
                                                  numbers.get(address, -1), ingress, egress)
    for address in static.keys() & found.keys() - attachments.keys():
        attachments[address] = Attachment(found[address], Role.SERVER, AttachedPod(pod=static[address], address=address), numbers[address])
    awaited = [pod for pod in live if not pod.addresses]
    injected = any(pod.injected for pod in awaited)
    policed = any(policies.selecting("Egress", pod.namespace, pod.labels) for pod in awaited)
    for address in found.keys() - owners.keys() - attachments.keys():
        former = attached.get(address)
        roles = former.roles if former and former.ifindex == found[address] else Role(0)
        roles |= Role.CLIENT if injected and address in asking else Role(0)
        roles |= Role.EGRESS_SELECTED if policed and (roles or slices) else Role(0)
        if roles:
            attachments[address] = Attachment(found[address], roles, None, numbers[address])
    return Desired(attachments, tuple(missing))


def _servers(node: str, slices: Iterable[ServicePortSlice]) -> tuple[dict[str, str], dict[str, str]]:
    """Pod's unique id -> address, and a static server's address -> name."""
    serving, static = {}, {}
    for piece in slices:
        for assignment in piece.spec.assignments:
            if assignment.state is AssignmentState.RESTING:
                continue
            if assignment.pod_uid:
                serving[assignment.pod_uid] = assignment.address
            elif assignment.node == node:
                static[assignment.address] = assignment.server
    return serving, static

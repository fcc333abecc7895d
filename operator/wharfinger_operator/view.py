"""What a plan may look at, at one moment, and what it did look at.

Rules: everything that planning reads of the world goes through here, and each reading is noted. So what was planned stands until one of the
facts in `reads` is touched or the moment `until` comes; having asked for the time itself (`timely`), it stands for this moment only.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from ipaddress import IPv4Address

from wharfinger_api import Assignment, LabelSelector, Policies, RedirectPortPool, ServicePortPool, ServicePortSlice

from .index import Fact, Index
from .records import Key, NodeSaid, Pod, Service
from .snapshot import Departed, Snapshot

NOTHING = NodeSaid("", 0, {}, frozenset(), frozenset())
NO_POLICIES = Policies()


class Nodes:
    """`live`: nodes with a live agent. `holders`: nodes whose acknowledgement frees a resting port, the unreachable ones too."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        names = {name for _, name in snapshot.nodes}
        self.live = frozenset(node for node, agent in snapshot.agents.items() if node in names and agent.live(now))
        self.holders = self.live | {name for _, name in snapshot.reports if name in names}


class View:
    """One look.

    A slice that someone deleted while its pool lives is lost, not given up: it stands as it was, without uid and version, and is
    written again (`slices_of`). One that went with its pool leaves numbers that rest (`departed_at`).
    """

    def __init__(self, index: Index, nodes: Nodes, now: datetime) -> None:
        self._index = index
        self._snapshot = index.snapshot
        self._nodes = nodes
        self._now = now
        self.reads: set[Fact] = set()
        self.until: datetime | None = None
        self.timely = False

    # time

    def clock(self) -> datetime:
        """Now."""
        self.timely = True
        return self._now

    def past(self, moment: datetime) -> bool:
        """Whether `moment` has come."""
        if self._now >= moment:
            return True
        self.until = moment if self.until is None else min(self.until, moment)
        return False

    # pools

    def pool(self, key: Key) -> ServicePortPool | None:
        """The living pool of this namespace and name: one that is being deleted is planned for no more."""
        self.reads.add(("pool", *key))
        pool = self._snapshot.pools.get(key)
        return None if pool is None or pool.metadata.deletion_timestamp is not None else pool

    def redirects(self, pool: Key) -> list[RedirectPortPool]:
        """The living redirect pools that refer to the pool of this namespace and name."""
        self.reads.add(("redirects", *pool))
        return [redirect for redirect in self._index.redirects.get(pool, {}).values() if redirect.metadata.deletion_timestamp is None]

    # nodes and their agents

    @property
    def live(self) -> frozenset[str]:
        """Nodes with a live agent."""
        self.reads.add(("live",))
        return self._nodes.live

    @property
    def holders(self) -> frozenset[str]:
        """Nodes whose acknowledgement frees a resting port, the unreachable ones too."""
        self.reads.add(("holders",))
        return self._nodes.holders

    def acknowledged(self, node: str, piece: ServicePortSlice, version: int) -> bool:
        """Whether the agent of `node` has programmed `piece` as of resourceVersion `version` or later; a lost one (`slices_of`) nobody has."""
        self.reads.add(("acknowledged", piece.metadata.uid))
        return bool(piece.metadata.uid) and self._said(node).has(piece.metadata.uid, version)

    def unacknowledged(self, piece: ServicePortSlice, version: int, among: Iterable[str]) -> list[str]:
        """The nodes `among` which `piece` is not yet programmed as of `version`, sorted."""
        return sorted(node for node in among if not self.acknowledged(node, piece, version))

    def dropped(self, node: str, entry: Departed) -> bool:
        """Whether the agent of `node` knows that the slice is gone, and has nothing of it any more."""
        self.reads.add(("acknowledged", entry.slice.metadata.uid))
        return self._said(node).dropped(entry.slice.metadata.uid, entry.version)

    def listed(self, node: str, pod_uid: str, address: str) -> bool:
        """Whether the agent of `node` says that it has attached this server; static servers go by address."""
        self.reads.add(("listed", pod_uid or address))
        said = self._said(node)
        return pod_uid in said.uids if pod_uid else address in said.addresses

    def faults_of(self, pool_uid: str) -> dict[str, str]:
        """The nodes with a live agent that cannot program the pool as it stands, with why."""
        self.reads.add(("fault", pool_uid))
        found = {node: self._said(node).faults.get(pool_uid) for node in sorted(self.live)}
        return {node: why for node, why in found.items() if why}

    def _said(self, node: str) -> NodeSaid:
        return self._snapshot.reports.get(("", node), NOTHING)

    # servers

    def pods(self, namespace: str, selector: LabelSelector) -> list[Pod]:
        """Pods of `namespace` that `selector` selects; an empty selector selects none."""
        if selector.match_labels:
            # The pods of one label hold all that are selected: no other label's need be watched.
            labels = [(namespace, *label) for label in selector.match_labels.items()]
            label = min(labels, key=lambda label: len(self._index.pods_by_label.get(label, ())))
            self.reads.add(("pods", *label))
            candidates = self._index.pods_by_label.get(label, {})
        elif selector.match_expressions:
            self.reads.add(("pods", namespace))
            candidates = self._index.pods_by_namespace.get(namespace, {})
        else:
            return []
        return [pod for pod in candidates.values() if selector.holds(pod.labels)]

    def pods_of_endpoints(self, service: Key) -> tuple[list[Pod], bool]:
        """The pods that the EndpointSlices of a Service name and that are there; whether they name any."""
        self.reads.add(("endpoints", *service))
        pieces = self._index.endpoint_slices.get(service, {}).values()
        names = {endpoint.pod for piece in pieces for endpoint in piece.endpoints if endpoint.pod}
        found = [self._pod(name) for name in names]
        return [pod for pod in found if pod is not None], bool(names)

    def pods_at(self, address: str) -> list[Pod]:
        """The pods that have this address and have not finished."""
        self.reads.add(("address", address))
        return [pod for pod in self._index.pods_by_address.get(address, {}).values() if not pod.finished]

    def pod_of(self, record: Assignment) -> Pod | None:
        """The pod that an assignment was made for, if it still runs with that address."""
        pod = self._pod(record.server) if record.pod_uid else None
        same = pod is not None and pod.uid == record.pod_uid and record.address in pod.addresses and not pod.finished
        return pod if same else None

    def policy_of(self, pod: Pod) -> str:
        """The NetworkPolicy that keeps connections to `pod` unaware; empty when none does. One that is gone does so until the agent of the
        pod's node knows: before that its programs would drop what other nodes send."""
        self.reads |= {("policies", pod.namespace), ("listed", pod.uid)}
        seen = self._index.policies.get(pod.namespace, NO_POLICIES).selecting("Ingress", pod.namespace, pod.labels)
        return seen or self._said(pod.node).policies.get(pod.uid, "")

    def _pod(self, server: str) -> Pod | None:
        namespace, _, name = server.partition("/")
        self.reads.add(("pod", namespace, name))
        return self._snapshot.pods.get((namespace, name))

    # Services

    def service(self, key: Key) -> Service | None:
        """The Service of this namespace and name."""
        self.reads.add(("service", *key))
        return self._snapshot.services.get(key)

    def may_be_literal(self, address: str) -> bool:
        """Whether a pool may give this virtual address without a Service."""
        return any(IPv4Address(address) in network for network in self._snapshot.literal_addresses)

    def service_ports(self, address: str) -> frozenset[int]:
        """The own ports of the Services that have this cluster IP."""
        self.reads.add(("service ports", address))
        none: frozenset[int] = frozenset()
        return none.union(*self._index.service_ports.get(address, {}).values())

    def services_at(self, address: str) -> dict[Key, frozenset[int]]:
        """The Services that have this cluster IP, by name, with their own ports."""
        self.reads.add(("service ports", address))
        return dict(sorted(self._index.service_ports.get(address, {}).items()))

    # slices

    def slice_stands(self, key: Key) -> bool:
        """Whether a slice of this namespace and name is there, whosever it is."""
        self.reads.add(("slice", *key))
        return key in self._snapshot.slices

    def slices_of(self, uid: str) -> list[ServicePortSlice]:
        """The slices of the living pool with this uid by number, the lost ones among them."""
        self.reads.add(("slices", uid))
        entries = sorted(self._index.departed_of.get(uid, {}).values(), key=lambda entry: entry.at)
        found = {entry.slice.key: _as_lost(entry.slice) for entry in entries
                 if entry.slice.spec.assignments and not self.slice_stands(entry.slice.key)}
        return [piece for _, piece in sorted({**found, **self._index.slices_of.get(uid, {})}.items(), key=_by_number)]

    def orphans_at(self, places: Iterable[str]) -> list[ServicePortSlice]:
        """Slices of no living pool with numbers on one of these addresses."""
        found = {key: piece for place in self._at(places) for key, piece in self._index.slices_at.get(place, {}).items()}
        orphans = [piece for piece in found.values() if not self._of_living(piece)]
        return sorted(orphans, key=lambda piece: (piece.spec.pool.uid, *_by_number((piece.key, piece))))

    def departed_at(self, places: Iterable[str]) -> list[Departed]:
        """Slices of no living pool, seen deleted, that had numbers on one of these addresses."""
        found = {number: entry for place in self._at(places) for number, entry in self._index.departed_at.get(place, {}).items()}
        departed = [entry for entry in found.values() if not self._of_living(entry.slice)]
        return sorted(departed, key=lambda entry: (entry.at, entry.slice.key))

    def _of_living(self, piece: ServicePortSlice) -> bool:
        pool = self.pool((piece.metadata.namespace, piece.spec.pool.name))
        return pool is not None and pool.metadata.uid == piece.spec.pool.uid

    def _at(self, places: Iterable[str]) -> Iterable[str]:
        for place in places:
            self.reads.add(("at", place))
            yield place

    def scope_taken(self, scope: int) -> bool:
        """Whether any pool or slice has this number, a slice that is gone among them."""
        self.reads.add(("scope", str(scope)))
        return self._index.scopes.get(scope, 0) > 0


def slice_number(name: str) -> int:
    """n of a slice's name `<pool>-<n>`; -1 for any other name."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isascii() and tail.isdigit() else -1


def _as_lost(piece: ServicePortSlice) -> ServicePortSlice:
    metadata = piece.metadata.model_copy(update={"uid": "", "resource_version": "", "generation": 0})
    records = tuple(record.model_copy(update={"since_version": ""}) for record in piece.spec.assignments)
    return piece.model_copy(update={"metadata": metadata, "spec": piece.spec.model_copy(update={"assignments": records})})


def _by_number(item: tuple[Key, ServicePortSlice]) -> tuple[str, str, int]:
    (namespace, name), piece = item
    return namespace, piece.spec.pool.name, slice_number(name)

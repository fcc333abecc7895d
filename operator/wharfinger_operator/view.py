"""A snapshot at one moment, with the indexes that a plan looks things up in. Built once for each plan."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from wharfinger_api import Assignment, LabelSelector, NodeReport, ServicePortSlice

from .records import Key, Pod
from .snapshot import Departed, Snapshot


@dataclass(frozen=True, slots=True)
class NodeView:
    """What one node's agent says: generations by slice uid, and the servers it has attached."""

    generations: dict[str, int]
    uids: frozenset[str]
    addresses: frozenset[str]


NOTHING = NodeView({}, frozenset(), frozenset())


class View:
    """`live`: nodes with a live agent. `holders`: nodes whose acknowledgement frees a resting port, the unreachable ones too."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self.snapshot = snapshot
        self.now = now
        nodes = {name for _, name in snapshot.nodes}
        self.live = frozenset(node for node, agent in snapshot.agents.items() if node in nodes and agent.live(now))
        self.reports = {name: _node_view(report) for (_, name), report in snapshot.reports.items()}
        self.holders = self.live | (nodes & self.reports.keys())
        self.service_ports: dict[str, frozenset[int]] = defaultdict(frozenset)
        for service in snapshot.services.values():
            for address in service.cluster_ips:
                self.service_ports[address] |= service.ports
        self._by_label: dict[tuple[str, str, str], list[Pod]] = defaultdict(list)
        self._by_namespace: dict[str, list[Pod]] = defaultdict(list)
        for pod in snapshot.pods.values():
            self._by_namespace[pod.namespace].append(pod)
            for label, value in pod.labels.items():
                self._by_label[pod.namespace, label, value].append(pod)
        # A slice that someone deleted while its pool lives is lost, not given up: it stands here as it was, without uid and version, and is
        # written again. One that went with its pool leaves numbers that rest.
        lost, self.departed = _lost(snapshot)
        self.slices_of: dict[str, list[ServicePortSlice]] = defaultdict(list)
        for _, piece in sorted({**lost, **snapshot.slices}.items(), key=_by_number):
            self.slices_of[piece.spec.pool.uid].append(piece)

    def pods(self, namespace: str, selector: LabelSelector) -> list[Pod]:
        """Pods of `namespace` that `selector` selects; an empty selector selects none."""
        labels = list(selector.match_labels.items())
        if labels:
            candidates = min((self._by_label.get((namespace, *label), []) for label in labels), key=len)
        else:
            candidates = self._by_namespace.get(namespace, []) if selector.match_expressions else []
        return [pod for pod in candidates if selector.holds(pod.labels)]

    def acknowledged(self, node: str, piece: ServicePortSlice, generation: int) -> bool:
        """Whether the agent of `node` has programmed `piece` as of `generation` or later."""
        return self.reports.get(node, NOTHING).generations.get(piece.metadata.uid, -1) >= generation

    def listed(self, node: str, pod_uid: str, address: str) -> bool:
        """Whether the agent of `node` says that it has attached this server; static servers go by address."""
        report = self.reports.get(node, NOTHING)
        return pod_uid in report.uids if pod_uid else address in report.addresses

    def unacknowledged(self, piece: ServicePortSlice, generation: int, among: frozenset[str]) -> list[str]:
        """The nodes `among` which `piece` is not yet programmed as of `generation`, sorted."""
        return sorted(node for node in among if not self.acknowledged(node, piece, generation))

    def pod_of(self, record: Assignment) -> Pod | None:
        """The pod that an assignment was made for, if it still runs with that address."""
        namespace, _, name = record.server.partition("/")
        pod = self.snapshot.pods.get((namespace, name)) if record.pod_uid else None
        same = pod is not None and pod.uid == record.pod_uid and record.address in pod.addresses and not pod.finished
        return pod if same else None


def slice_number(name: str) -> int:
    """n of a slice's name `<pool>-<n>`; -1 for any other name."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isascii() and tail.isdigit() else -1


def _lost(snapshot: Snapshot) -> tuple[dict[Key, ServicePortSlice], list[Departed]]:
    lost: dict[Key, ServicePortSlice] = {}
    departed = []
    for entry in snapshot.departed:
        piece = entry.slice
        pool = snapshot.pools.get((piece.metadata.namespace, piece.spec.pool.name))
        if pool is None or pool.metadata.uid != piece.spec.pool.uid or pool.metadata.deletion_timestamp is not None:
            departed.append(entry)
        elif piece.key not in snapshot.slices and piece.spec.assignments:
            metadata = piece.metadata.model_copy(update={"uid": "", "resource_version": "", "generation": 0})
            records = tuple(record.model_copy(update={"since_generation": 1}) for record in piece.spec.assignments)
            lost[piece.key] = piece.model_copy(update={
                "metadata": metadata, "spec": piece.spec.model_copy(update={"assignments": records})})
    return lost, departed


def _by_number(item: tuple[Key, ServicePortSlice]) -> tuple[str, str, int]:
    (namespace, name), piece = item
    return namespace, piece.spec.pool.name, slice_number(name)


def _node_view(report: NodeReport) -> NodeView:
    status = report.status
    return NodeView(
        generations={entry.uid: entry.generation for entry in status.slices},
        uids=frozenset(entry.uid for entry in status.servers if entry.uid),
        addresses=frozenset(entry.address for entry in status.servers if not entry.uid))

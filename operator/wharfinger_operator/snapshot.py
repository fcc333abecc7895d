"""Everything the operator has seen, in one place.

Rules: only `put`, `remove` and `reconcile` change it; each says whether anything changed that a plan could depend on. The newest
resourceVersion wins, so that the answer to an own write, a watch event and a listing may arrive in any order, and what was deleted does
not come back by an older event. A slice that vanishes leaves its ports behind as Departed: they rest like any other freed port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any

from wharfinger_api import NetworkPolicy, RedirectPortPool, Resource, ServicePortPool, ServicePortSlice, network_policy, node_of_lease, parse

from . import records
from .records import Agent, EndpointSlice, Key, NodeSaid, Pod, Service

Follower = Callable[[str, Key, Any, Any], None]
"""Told of each change: the kind (or Departed), the key, the record that was and the record that is; None for what came or went."""

DEPARTED_KEPT_S = 24 * 3600.0
"""A departed slice is remembered for the longest rest time that the schema allows."""


@dataclass(frozen=True, slots=True)
class Departed:
    """A slice that was deleted, when that was seen, and a resourceVersion by which it was so."""

    slice: ServicePortSlice
    at: datetime
    version: int


class Snapshot:
    """The seen objects by kind, keyed by (namespace, name). Readers must not change the dictionaries.

    `literal_addresses`: where virtual addresses may lie that pools give literally."""

    def __init__(self, lease_namespace: str, literal_addresses: tuple[IPv4Network, ...] = ()) -> None:
        self._lease_namespace = lease_namespace
        self.literal_addresses = literal_addresses
        self.pods: dict[Key, Pod] = {}
        self.services: dict[Key, Service] = {}
        self.endpoint_slices: dict[Key, EndpointSlice] = {}
        self.nodes: dict[Key, str] = {}
        self.policies: dict[Key, NetworkPolicy] = {}
        self.agents: dict[str, Agent] = {}
        self.reports: dict[Key, NodeSaid] = {}
        self.pools: dict[Key, ServicePortPool] = {}
        self.redirects: dict[Key, RedirectPortPool] = {}
        self.slices: dict[Key, ServicePortSlice] = {}
        self.departed: list[Departed] = []
        self.changes = 0
        """Counts changes that a plan could depend on."""
        self.follower: Follower = lambda kind, key, old, new: None
        self._versions: dict[tuple[str, Key], int] = {}
        self._gone: dict[tuple[str, Key], int] = {}
        self._tables: dict[str, tuple[dict[Key, Any], Callable[[Mapping[str, Any]], Any]]] = {
            "Pod": (self.pods, records.pod), "Service": (self.services, records.service),
            "EndpointSlice": (self.endpoint_slices, records.endpoint_slice), "Node": (self.nodes, lambda raw: raw["metadata"]["uid"]),
            "NetworkPolicy": (self.policies, network_policy), "NodeReport": (self.reports, records.node_report),
            "ServicePortPool": (self.pools, parse),
            "RedirectPortPool": (self.redirects, parse), "ServicePortSlice": (self.slices, parse)}

    def tables(self) -> dict[str, dict[Key, Any]]:
        """What is seen, by kind; Leases are in `agents`."""
        return {kind: table for kind, (table, _) in self._tables.items()}

    def put(self, kind: str, raw: Mapping[str, Any], now: datetime) -> bool:
        """Takes an object as seen. `kind` is its kind; KeyError for a kind that is not watched. MalformedObject as `parse` says it."""
        key, version = _key(raw), _version(raw)
        if version <= max(self._versions.get((kind, key), -1), self._gone.get((kind, key), -1)):
            return False
        if kind == "Lease":
            changed = self._put_lease(raw, now)
        else:
            table, read = self._tables[kind]
            record, old = read(raw), table.get(key)
            changed = _differ(old, record)
            if kind == "ServicePortSlice" and old is not None and old.metadata.uid != record.metadata.uid:
                self._depart(old, now, version)
            table[key] = record
            if changed or isinstance(record, Resource):  # Ours are written, or written of, as the version that was seen last.
                self.follower(kind, key, old, record)
        self._versions[kind, key] = version
        self._gone.pop((kind, key), None)
        return self._counted(changed)

    def remove(self, kind: str, raw: Mapping[str, Any], now: datetime) -> bool:
        """Takes an object's deletion as seen; `raw` is its last state."""
        key, version = _key(raw), _version(raw)
        if version < self._versions.get((kind, key), 0):
            return False
        self._gone[kind, key] = version
        return self._drop(kind, key, now, version)

    def reconcile(self, kind: str, items: Iterable[Mapping[str, Any]], list_version: int, now: datetime) -> bool:
        """Takes a full listing of `kind` made at `list_version`: puts what it has, drops what it lacks and is not newer."""
        changed, listed = False, set()
        for raw in items:
            listed.add(_key(raw))
            changed |= self.put(kind, raw, now)
        for known, key in [entry for entry, version in self._versions.items() if entry[0] == kind and version <= list_version]:
            if key not in listed:
                self._gone[known, key] = list_version
                changed |= self._drop(kind, key, now, list_version)
        for entry in [entry for entry, version in self._gone.items() if entry[0] == kind and version < list_version]:
            del self._gone[entry]
        for former in [entry for entry in self.departed if (now - entry.at).total_seconds() >= DEPARTED_KEPT_S]:
            self.departed.remove(former)
            self.follower("Departed", former.slice.key, former, None)
        return changed

    def _drop(self, kind: str, key: Key, now: datetime, version: int) -> bool:
        self._versions.pop((kind, key), None)
        if kind == "Lease":
            return self._counted(self.agents.pop(node_of_lease(key[1]) or "", None) is not None)
        old = self._tables[kind][0].pop(key, None)
        if old is not None:
            self.follower(kind, key, old, None)
        if isinstance(old, ServicePortSlice):
            self._depart(old, now, version)
        return self._counted(old is not None)

    def _depart(self, piece: ServicePortSlice, now: datetime, version: int) -> None:
        self.departed.append(Departed(piece, now, version))
        self.follower("Departed", piece.key, None, self.departed[-1])

    def _counted(self, changed: bool) -> bool:
        self.changes += changed
        return changed

    def _put_lease(self, raw: Mapping[str, Any], now: datetime) -> bool:
        namespace, name = _key(raw)
        node, spec = node_of_lease(name), raw.get("spec") or {}
        if node is None or namespace != self._lease_namespace or not spec.get("renewTime"):
            return False
        # The renewal is dated by this clock when it is seen to happen, so that a node's clock does not matter; only a Lease met for the
        # first time is dated by its own, or a restarted operator would take every dead agent for a live one.
        written = datetime.fromisoformat(spec["renewTime"]).astimezone(UTC)
        old = self.agents.get(node)
        agent = Agent(node, min(written, now) if old is None else now, float(spec.get("leaseDurationSeconds") or 40))
        self.agents[node] = agent
        return agent.live(now) and (old is None or not old.live(now))


def _key(raw: Mapping[str, Any]) -> Key:
    metadata = raw["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def _version(raw: Mapping[str, Any]) -> int:
    return int(raw["metadata"].get("resourceVersion") or 0)


def _differ(old: Any, new: Any) -> bool:
    """Whether a plan could tell the two apart: metadata that moves with every write does not count."""
    if old is None or type(old) is not type(new):
        return True
    if isinstance(new, ServicePortSlice):
        return (_identity(old), old.spec) != (_identity(new), new.spec)
    if isinstance(new, ServicePortPool | RedirectPortPool):
        return (_identity(old), old.spec, old.status) != (_identity(new), new.spec, new.status)
    return bool(old != new)


def _identity(resource: ServicePortPool | RedirectPortPool | ServicePortSlice) -> tuple[object, ...]:
    metadata = resource.metadata
    return metadata.uid, metadata.generation, metadata.deletion_timestamp, metadata.labels

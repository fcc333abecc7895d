"""What planning looks things up by, kept as objects come and go; and which of it a change touched.

Rules: an index holds what follows from the snapshot alone, never from time; built anew or kept up, it is the same. Whatever `View` lets a
plan read has a fact here that is touched when it changes: that is all that planning again only what changed relies on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from wharfinger_api import NetworkPolicy, Policies, RedirectPortPool, ServicePortPool, ServicePortSlice

from .records import EndpointSlice, Key, NodeSaid, Pod, Service
from .snapshot import Departed, Snapshot

Fact = tuple[str, ...]
"""What was read or changed: a word, and of what."""
LAST = "\U0010ffff"
"""Behind every uid."""


class Index:
    """Indexes of `snapshot`, which `change` keeps up. `touched` gathers the facts that changed, until someone takes them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.touched: set[Fact] = set()
        self.pods_by_label: dict[tuple[str, str, str], dict[Key, Pod]] = defaultdict(dict)
        self.pods_by_namespace: dict[str, dict[Key, Pod]] = defaultdict(dict)
        self.pods_by_address: dict[str, dict[Key, Pod]] = defaultdict(dict)
        self.service_ports: dict[str, dict[Key, frozenset[int]]] = defaultdict(dict)
        self.endpoint_slices: dict[Key, dict[Key, EndpointSlice]] = defaultdict(dict)
        self.policies: dict[str, Policies] = {}
        self.redirects: dict[Key, dict[Key, RedirectPortPool]] = defaultdict(dict)
        self.slices_of: dict[str, dict[Key, ServicePortSlice]] = defaultdict(dict)
        self.slices_at: dict[str, dict[Key, ServicePortSlice]] = defaultdict(dict)
        self.orphans: dict[Key, ServicePortSlice] = {}
        """Slices whose pool is gone, or going."""
        self._slices_named: dict[Key, dict[Key, ServicePortSlice]] = defaultdict(dict)
        self.departed_of: dict[str, dict[int, Departed]] = defaultdict(dict)
        self.departed_at: dict[str, dict[int, Departed]] = defaultdict(dict)
        self.scopes: Counter[int] = Counter()
        self._versions: list[tuple[int, str]] = []
        """The versions that an agent's word may be asked for, in order, each with its slice's uid."""
        for kind, table in snapshot.tables().items():
            for key, record in table.items():
                self.change(kind, key, None, record)
        for entry in snapshot.departed:
            self.change("Departed", entry.slice.key, None, entry)

    def change(self, kind: str, key: Key, old: Any, new: Any) -> None:
        """Takes a change of the snapshot: `old` or `new` is None for what came or went."""
        keep = {"Pod": self._pod, "Service": self._service, "EndpointSlice": self._endpoint_slice, "NodeReport": self._report,
                "NetworkPolicy": self._policy,
                "ServicePortPool": self._pool, "RedirectPortPool": self._redirect, "ServicePortSlice": self._slice,
                "Departed": self._departed}.get(kind)
        if keep is not None:
            keep(key, old, new)

    def _pod(self, key: Key, old: Pod | None, new: Pod | None) -> None:
        self.touched |= {("pod", *key), ("pods", key[0])}
        _move(self.pods_by_namespace, key, old, new, [key[0]] if old else (), [key[0]] if new else ())
        addresses = [record.addresses if record else () for record in (old, new)]
        _move(self.pods_by_address, key, old, new, *addresses)
        self.touched.update(("address", address) for side in addresses for address in side)
        labels = [[(key[0], *item) for item in record.labels.items()] if record else () for record in (old, new)]
        _move(self.pods_by_label, key, old, new, *labels)
        self.touched.update(("pods", *label) for side in labels for label in side)

    def _service(self, key: Key, old: Service | None, new: Service | None) -> None:
        self.touched.add(("service", *key))
        before, after = (record.cluster_ips if record else () for record in (old, new))
        _move(self.service_ports, key, old, new.ports if new else None, before, after)
        self.touched.update(("service ports", address) for address in {*before, *after})

    def _endpoint_slice(self, key: Key, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        services = [[(key[0], record.service)] if record else () for record in (old, new)]
        _move(self.endpoint_slices, key, old, new, *services)
        self.touched.update(("endpoints", *service) for side in services for service in side)

    def _report(self, key: Key, old: NodeSaid | None, new: NodeSaid | None) -> None:
        first, last = sorted(said.version if said else 0 for said in (old, new))
        passed = self._versions[bisect_right(self._versions, (first, LAST)):bisect_right(self._versions, (last, LAST))]
        before, after = (said.exceptions.items() if said else {}.items() for said in (old, new))
        self.touched.update(("acknowledged", uid) for uid in {uid for _, uid in passed} | {uid for uid, _ in before ^ after})
        listed = [said.uids | said.addresses if said else frozenset() for said in (old, new)]
        policed = [said.policies.items() if said else {}.items() for said in (old, new)]
        self.touched.update(("listed", server) for server in (listed[0] ^ listed[1]) | {uid for uid, _ in policed[0] ^ policed[1]})
        before, after = (said.faults.items() if said else {}.items() for said in (old, new))
        self.touched.update(("fault", pool) for pool, _ in before ^ after)

    def _policy(self, key: Key, old: NetworkPolicy | None, new: NetworkPolicy | None) -> None:
        self.touched.add(("policies", key[0]))
        self.policies[key[0]] = Policies(policy for policy in self.snapshot.policies.values() if policy.namespace == key[0])

    def _pool(self, key: Key, old: ServicePortPool | None, new: ServicePortPool | None) -> None:
        self.touched.add(("pool", *key))
        for piece in self._slices_named.get(key, {}).values():
            self._keep_orphan(piece.key, piece)
        self._count(old.status.scope if old else None, new.status.scope if new else None)

    def _redirect(self, key: Key, old: RedirectPortPool | None, new: RedirectPortPool | None) -> None:
        pools = [[(key[0], record.spec.service_port_pool.name)] if record else () for record in (old, new)]
        _move(self.redirects, key, old, new, *pools)
        self.touched.update(("redirects", *pool) for side in pools for pool in side)

    def _slice(self, key: Key, old: ServicePortSlice | None, new: ServicePortSlice | None) -> None:
        owners = [[piece.spec.pool.uid] if piece else () for piece in (old, new)]
        places = [places_of(piece) if piece else frozenset() for piece in (old, new)]
        _move(self.slices_of, key, old, new, *owners)
        _move(self.slices_at, key, old, new, *places)
        _move(self._slices_named, key, old, new, *([(key[0], piece.spec.pool.name)] if piece else () for piece in (old, new)))
        self._keep_orphan(key, new)
        self._count(old.spec.scope if old else None, new.spec.scope if new else None)
        self._ask(_asked(old) if old else set(), _asked(new) if new else set())
        self.touched.update(("slices", uid) for side in owners for uid in side)
        self.touched.update(("at", place) for side in places for place in side)
        self.touched.add(("slice", *key))

    def _keep_orphan(self, key: Key, piece: ServicePortSlice | None) -> None:
        self.orphans.pop(key, None)
        if piece is not None:
            pool = self.snapshot.pools.get((key[0], piece.spec.pool.name))
            if pool is None or pool.metadata.uid != piece.spec.pool.uid or pool.metadata.deletion_timestamp is not None:
                self.orphans[key] = piece

    def _departed(self, key: Key, old: Departed | None, new: Departed | None) -> None:
        for entry in (old, new):
            if entry is not None:
                places, uid = places_of(entry.slice), entry.slice.spec.pool.uid
                sides: tuple[list[str], list[str]] = ([], [uid]) if entry is new else ([uid], [])
                _move(self.departed_of, id(entry), entry, entry, *sides)
                _move(self.departed_at, id(entry), entry, entry, *(places if side else () for side in sides))
                self._ask(*({(entry.version, entry.slice.metadata.uid)} if side else set() for side in sides))
                self.touched.add(("slices", uid))
                self.touched.update(("at", place) for place in places)
        self._count(old.slice.spec.scope if old else None, new.slice.spec.scope if new else None)

    def _ask(self, before: set[tuple[int, str]], after: set[tuple[int, str]]) -> None:
        for entry in before - after:
            at = bisect_left(self._versions, entry)
            del self._versions[at:at + 1]
        for entry in after - before:
            insort(self._versions, entry)

    def _count(self, old: int | None, new: int | None) -> None:
        if old == new:
            return
        for scope, step in ((old, -1), (new, 1)):
            if scope is not None:
                self.scopes[scope] += step
                self.touched.add(("scope", str(scope)))


def _asked(piece: ServicePortSlice) -> set[tuple[int, str]]:
    return {(version, piece.metadata.uid) for version in {piece.version, *map(piece.version_of, piece.spec.assignments)}}


def places_of(piece: ServicePortSlice) -> frozenset[str]:
    """The virtual addresses and servers' addresses on which a slice's numbers are in use."""
    return frozenset(piece.spec.virtual_addresses) | {record.address for record in piece.spec.assignments}


def _move(index: dict[Any, dict[Any, Any]], key: Any, old: Any, new: Any, before: Iterable[Any], after: Iterable[Any]) -> None:
    """Takes what is under `key` from the places `before` and puts `new` under it at the places `after`."""
    for place in before:
        entries: Mapping[Any, Any] = index[place]
        index[place].pop(key, None)
        if not entries:
            del index[place]
    for place in after:
        index[place][key] = new

"""Slices whose pool was deleted: their connections have a grace, their ports rest, and then they go. Pure.

Rules:
- The state is in the slices: `spec.pool.deletedAt` says since when. Agents serve no virtual address of such a slice, so new connections are
  unaware at once, and its servers' ports work on.
- For the grace servers drain; one that is gone, and each of them after the grace, rests; a record that has rested goes; then the slice.
- A pool has no finalizer of ours and its slices no owner: without an operator they stay as they are, and connections with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from wharfinger_api import Assignment, ServicePortSlice, ServicePortSliceSpec

from .index import Index
from .records import NodeSaid
from .snapshot import Snapshot
from .states import DRAINING, RESTING
from .view import NOTHING, Nodes

REST_S = 60.0
"""Of the ports of a pool that is gone: the schema's default, as its own setting is gone with it."""


@dataclass(frozen=True, slots=True)
class Retirement:
    """What is to be done now. `begun`: slices whose pool is to be looked for once more before they are written; `writes`: other slices as they
    should be; `deletions`: those that are empty; `look_again`: when time alone changes something."""

    begun: tuple[tuple[ServicePortSlice, ServicePortSliceSpec], ...] = ()
    writes: tuple[tuple[ServicePortSlice, ServicePortSliceSpec], ...] = ()
    deletions: tuple[ServicePortSlice, ...] = ()
    look_again: datetime | None = None


def retire(index: Index, now: datetime, grace_s: float) -> Retirement:
    """The next step of each slice without a pool."""
    begun, writes, deletions, moments = [], [], [], []
    for piece in index.orphans.values():
        since = piece.spec.pool.deleted_at
        if since is None:
            begun.append((piece, _begin(piece, now)))
            continue
        if not piece.spec.assignments:
            deletions.append(piece)
            continue
        until = since + timedelta(seconds=grace_s)
        records = _step(piece, index.snapshot, now, over=now >= until)
        if records != piece.spec.assignments:
            writes.append((piece, piece.spec.model_copy(update={"assignments": records})))
        moments += [record.since + timedelta(seconds=REST_S) if record.state is RESTING else until for record in records]
    return Retirement(tuple(begun), tuple(writes), tuple(deletions), min((moment for moment in moments if moment > now), default=None))


def _begin(piece: ServicePortSlice, now: datetime) -> ServicePortSliceSpec:
    records = tuple(record if record.state in (DRAINING, RESTING) else _into(record, now, DRAINING) for record in piece.spec.assignments)
    return piece.spec.model_copy(update={"assignments": records, "pool": piece.spec.pool.model_copy(update={"deleted_at": now})})


def _step(piece: ServicePortSlice, snapshot: Snapshot, now: datetime, *, over: bool) -> tuple[Assignment, ...]:
    holders = _holders(snapshot, now)
    records = []
    for record in piece.spec.assignments:
        if record.state is not RESTING:
            gone = over or _gone(record, snapshot)
            records.append(_into(record, now, RESTING).model_copy(update={"redirects": ()}) if gone else record)
        elif not _rested(record, piece, now, holders):
            records.append(record)
    return tuple(records)


def _into(record: Assignment, now: datetime, state: str) -> Assignment:
    return record.model_copy(update={"state": state, "since": now, "since_version": ""})


def _gone(record: Assignment, snapshot: Snapshot) -> bool:
    """Whether the pod is gone; a static server stays."""
    namespace, _, name = record.server.partition("/")
    pod = snapshot.pods.get((namespace, name))
    return bool(record.pod_uid) and (pod is None or pod.uid != record.pod_uid or pod.finished)


def _holders(snapshot: Snapshot, now: datetime) -> list[NodeSaid]:
    """What is said for each node that may hold tables."""
    said = {name: report for (_, name), report in snapshot.reports.items()}
    nodes = Nodes(snapshot, now)
    return [said.get(node, NOTHING) for node in nodes.holders]


def _rested(record: Assignment, piece: ServicePortSlice, now: datetime, holders: list[NodeSaid]) -> bool:
    over = now >= record.since + timedelta(seconds=REST_S)
    return over and all(said.has(piece.metadata.uid, piece.version_of(record)) for said in holders)

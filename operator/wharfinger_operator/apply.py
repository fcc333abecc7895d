"""The one place that writes.

Rules: only the difference between plan and snapshot is written; slices first, each with the version that the plan was made from as a
precondition; every answer goes into the snapshot at once, so that the next plan sees it. A write that fails is not repeated here: the
next plan, made from what then stands, decides anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from hashlib import blake2s
from typing import Any

import structlog
from opentelemetry.trace import Span
from wharfinger_api import API_VERSION, POOL_LABEL, TRACEPARENT_ANNOTATION, Assignment, ServicePortSlice, ServicePortSliceSpec, dump

from .client import Client, ClientError, Conflict, Missing
from .difference import PoolChange, difference, pool_of
from .plan import Plan, SliceWanted, StatusWanted
from .report import EventWanted
from .retire import Retirement
from .snapshot import Snapshot
from .telemetry import SERVICE, Telemetry, failed, traceparent

PARALLEL = 16
EVENT_AGAIN_S = 3600.0
"""An Event whose cause stands is posted again after this: the API server forgets Events after an hour."""
EVENT_MESSAGE_LIMIT = 1024


def slice_body(item: SliceWanted, context: str) -> dict[str, Any]:
    """The slice's manifest. It has no owner: it outlives its pool, for the grace of its connections (retire.py)."""
    pool = item.pool.metadata
    metadata: dict[str, Any] = {
        "name": item.name, "namespace": pool.namespace, "labels": {POOL_LABEL: pool.name},
        "annotations": {TRACEPARENT_ANNOTATION: context}}
    if item.piece is not None and item.piece.metadata.uid:
        metadata["resourceVersion"] = item.piece.metadata.resource_version
    return {"apiVersion": API_VERSION, "kind": "ServicePortSlice", "metadata": metadata, "spec": dump(_dated(item.spec, item.piece))}


def retired_body(piece: ServicePortSlice, spec: ServicePortSliceSpec) -> dict[str, Any]:
    """The manifest of a slice that stands, with another spec."""
    old = piece.metadata
    metadata = {"name": old.name, "namespace": old.namespace, "labels": dict(old.labels), "annotations": dict(old.annotations),
                "resourceVersion": old.resource_version}
    return {"apiVersion": API_VERSION, "kind": "ServicePortSlice", "metadata": metadata, "spec": dump(_dated(spec, piece))}


def _dated(spec: ServicePortSliceSpec, piece: ServicePortSlice | None) -> ServicePortSliceSpec:
    """The spec, in which each assignment that stands in `piece` in the same state says so: that version of the slice may be asked for later."""
    if piece is None or not piece.metadata.uid:
        return spec
    stood = {(record.server, record.pod_uid, record.address, record.targets): (record.state, record.since) for record in piece.spec.assignments}

    def dated(record: Assignment) -> Assignment:
        same = stood.get((record.server, record.pod_uid, record.address, record.targets)) == (record.state, record.since)
        return record.model_copy(update={"since_version": piece.metadata.resource_version}) if same and not record.since_version else record

    return spec.model_copy(update={"assignments": tuple(map(dated, spec.assignments))})


def event_body(item: EventWanted, now: datetime) -> dict[str, Any]:
    """The Event's manifest. Its name follows from what it says, so that saying it twice makes one Event."""
    metadata, kind = item.resource.metadata, type(item.resource).__name__
    said = blake2s(f"{metadata.uid} {item.reason} {item.message}".encode(), digest_size=6).hexdigest()
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{metadata.name}.{said}", "namespace": metadata.namespace},
        "involvedObject": {"apiVersion": API_VERSION, "kind": kind, "namespace": metadata.namespace, "name": metadata.name,
                           "uid": metadata.uid},
        "type": item.type, "reason": item.reason, "message": item.message[:EVENT_MESSAGE_LIMIT], "count": 1,
        "firstTimestamp": moment, "lastTimestamp": moment, "source": {"component": SERVICE},
        "reportingComponent": SERVICE, "reportingInstance": SERVICE}


class Applier:
    """Writes differences. `allowed` says whether this process may write at the moment; `clock` gives the time."""

    def __init__(self, client: Client, snapshot: Snapshot, telemetry: Telemetry, allowed: Callable[[], bool],
                 clock: Callable[[], datetime]) -> None:
        self._client = client
        self._snapshot = snapshot
        self.telemetry = telemetry
        self._allowed = allowed
        self._clock = clock
        self._gate = asyncio.Semaphore(PARALLEL)
        self._posted: dict[tuple[str, str, str], datetime] = {}
        self._log = structlog.get_logger()

    async def apply(self, plan: Plan, noticed_ns: int) -> bool:
        """Writes what of `plan` does not stand yet. Whether all of it could be written."""
        change = difference(plan)
        done = await self._all(self._pool(item, noticed_ns) for item in change.pools)
        # A pool whose slices were just written is planned again at once; what this plan says of it is over.
        moved = {item.pool.key for item in change.pools} if done else set()
        done &= await self._all(self._status(item) for item in change.statuses if pool_of(item.resource) not in moved)
        await self._all(self._event(item) for item in plan.events)
        now = self._clock()
        self._posted = {said: at for said, at in self._posted.items() if (now - at).total_seconds() < EVENT_AGAIN_S}
        return done

    async def retire(self, retirement: Retirement) -> bool:
        """Writes what a deleted pool's slices come to. Whether all of it could be written."""
        done = await self._all(self._begin_retirement(piece, spec) for piece, spec in retirement.begun)
        done &= await self._all(self._replace(piece, spec) for piece, spec in retirement.writes)
        return await self._all(self._delete(piece) for piece in retirement.deletions) and done

    async def _begin_retirement(self, piece: ServicePortSlice, spec: ServicePortSliceSpec) -> bool:
        """The API server's own word is asked for: that a pool is not seen, or cannot be read, does not mean that it is gone."""
        namespace, pool = piece.metadata.namespace, piece.spec.pool
        try:
            found = (await self._client.get("ServicePortPool", namespace, pool.name))["metadata"]
            if found["uid"] == pool.uid and not found.get("deletionTimestamp"):
                self._log.warning("a pool is there but not seen or not understood; its slices stay as they are", pool=f"{namespace}/{pool.name}")
                return True
        except Missing:
            pass
        except ClientError as error:
            self._log.warning("a pool could not be looked for; will try again", pool=f"{namespace}/{pool.name}", error=str(error))
            return False
        self._log.info("a pool was deleted; its connections have a grace", pool=f"{namespace}/{pool.name}", slice=piece.metadata.name)
        return await self._replace(piece, spec)

    async def _replace(self, piece: ServicePortSlice, spec: ServicePortSliceSpec) -> bool:
        metadata = piece.metadata

        async def write() -> None:
            answer = await self._client.replace("ServicePortSlice", metadata.namespace, metadata.name, retired_body(piece, spec))
            self._snapshot.put("ServicePortSlice", answer, self._clock())

        try:
            return await self._guarded(write)
        except Missing as error:  # When it went the watch will tell: nodes are asked whether they know of it as of then.
            self._log.warning("a slice was deleted by someone else", slice=metadata.name, error=str(error))
            return False
        except ClientError as error:
            self._log.warning("a slice could not be written; will try again", slice=metadata.name, error=str(error))
            await self._look(metadata.namespace, metadata.name)
            return False

    async def _all(self, writes: Iterable[Awaitable[bool]]) -> bool:
        return all(await asyncio.gather(*writes))

    async def _pool(self, change: PoolChange, noticed_ns: int) -> bool:
        self.telemetry.counts.reconciles += 1
        span = self.telemetry.reconcile(change.pool, noticed_ns)
        span.set_attribute("wharfinger.slices", len(change.writes))
        try:
            writes = [self._write(item, span) for item in change.writes]
            done = await self._all([*writes, *(self._delete(item) for item in change.deletions)])
        finally:
            span.end()
        self._log.info("reconciled", pool="/".join(change.pool.key), generation=change.pool.metadata.generation, complete=done,
                       written=[item.name for item in change.writes], deleted=[item.metadata.name for item in change.deletions],
                       trace_id=f"{span.get_span_context().trace_id:032x}")
        return done

    async def _write(self, item: SliceWanted, span: Span) -> bool:
        namespace, body = item.pool.metadata.namespace, slice_body(item, traceparent(span))

        async def write() -> None:
            if "resourceVersion" in body["metadata"]:
                answer = await self._client.replace("ServicePortSlice", namespace, item.name, body)
            else:
                answer = await self._client.create("ServicePortSlice", namespace, body)
            self._snapshot.put("ServicePortSlice", answer, self._clock())

        try:
            return await self._guarded(write)
        except Conflict as error:
            self._log.info("a slice is not what was seen; looking again", slice=item.name, error=str(error))
            await self._look(namespace, item.name)
        except Missing as error:
            failed(span, error)  # When it went the watch will tell: nodes are asked whether they know of it as of then.
            self._log.warning("a slice was deleted by someone else", slice=item.name, error=str(error))
        except ClientError as error:
            failed(span, error)
            self._log.warning("a slice could not be written; will try again", slice=item.name, error=str(error))
        return False

    async def _delete(self, piece: ServicePortSlice) -> bool:
        metadata = piece.metadata

        async def delete() -> None:
            await self._client.delete("ServicePortSlice", metadata.namespace, metadata.name, metadata.uid, metadata.resource_version)
            self._forget(piece)

        try:
            return await self._guarded(delete)
        except Missing:
            self._forget(piece)
            return True
        except ClientError as error:
            self._log.warning("an empty slice could not be deleted; will try again", slice=metadata.name, error=str(error))
            await self._look(metadata.namespace, metadata.name)
            return False

    async def _status(self, item: StatusWanted) -> bool:
        metadata, kind = item.resource.metadata, type(item.resource).__name__

        async def patch() -> None:
            answer = await self._client.patch_status(kind, metadata.namespace, metadata.name, dump(item.status))
            self._snapshot.put(kind, answer, self._clock())

        try:
            return await self._guarded(patch)
        except Missing:
            return True  # Deleted meanwhile; the watch tells.
        except ClientError as error:
            self._log.warning("a status could not be written; will try again", object=str(item.resource), error=str(error))
            return False

    async def _event(self, item: EventWanted) -> bool:
        now, said = self._clock(), (item.resource.metadata.uid, item.reason, item.message)
        last = self._posted.get(said)
        if last is not None and (now - last).total_seconds() < EVENT_AGAIN_S:
            return True
        self._posted[said] = now

        async def post() -> None:
            await self._client.create("Event", item.resource.metadata.namespace, event_body(item, now))

        try:
            return await self._guarded(post)
        except Conflict:
            return True  # Said before a restart of this process.
        except ClientError as error:
            self._log.warning("an Event could not be posted", object=str(item.resource), reason=item.reason, error=str(error))
            return False

    async def _guarded(self, write: Callable[[], Awaitable[None]]) -> bool:
        async with self._gate:
            if not self._allowed():
                return False
            await write()
        return True

    async def _look(self, namespace: str, name: str) -> None:
        """Takes a slice as it stands now, before the watch tells of it."""
        try:
            self._snapshot.put("ServicePortSlice", await self._client.get("ServicePortSlice", namespace, name), self._clock())
        except ClientError as error:
            self._log.info("a slice could not be read; the watch will tell", slice=name, error=str(error))

    def _forget(self, piece: ServicePortSlice) -> None:
        """An empty slice is gone: no number of it rests, so it does not matter which node knows."""
        metadata = piece.metadata
        self._snapshot.remove("ServicePortSlice", {"metadata": {
            "namespace": metadata.namespace, "name": metadata.name, "resourceVersion": metadata.resource_version}}, self._clock())

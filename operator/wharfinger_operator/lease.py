"""Two writers never: the operator writes only while it holds its Lease.

The Lease is judged as client-go does it, by this process's own monotonic clock since it last saw it renewed, so that nobody's wall clock
matters. `held` turns False a good while before another may take over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from wharfinger_api import OPERATOR_LEASE

from .client import Client, ClientError, Conflict, Missing

RETRY_S = 1.0
MARGIN = 0.6
"""Part of the Lease's duration during which writes are allowed after a renewal: what is left covers a request under way."""


class LostLease(Exception):
    """The Lease could not be renewed in time, or another holds it: this process must end, and its successor starts from what stands."""


class OperatorLease:
    """The Lease `wharfinger-operator` of the release namespace. `clock` is monotonic seconds."""

    def __init__(self, client: Client, namespace: str, identity: str, duration_s: float, renew_s: float,
                 clock: Callable[[], float]) -> None:
        self._client = client
        self._namespace = namespace
        self._identity = identity
        self._duration_s = duration_s
        self._renew_s = renew_s
        self._clock = clock
        self._renewed: float | None = None
        self._seen: tuple[str, float] = ("", 0.0)

    def held(self) -> bool:
        """Whether writing is allowed now."""
        return self._renewed is not None and self._clock() - self._renewed < self._duration_s * MARGIN

    async def acquire(self) -> None:
        """Returns when the Lease is ours."""
        log = structlog.get_logger()
        waiting = False
        while True:
            try:
                if await self._try():
                    log.info("the Lease is held", holder=self._identity)
                    return
                if not waiting:
                    waiting = True
                    log.info("another operator holds the Lease; waiting", holder=self._identity)
            except ClientError as error:
                log.warning("the Lease cannot be read or written; will try again", error=str(error))
            await asyncio.sleep(RETRY_S)

    async def keep(self) -> None:
        """Renews until cancelled. LostLease when that failed for too long."""
        while True:
            await asyncio.sleep(self._renew_s)
            try:
                if not await self._try():
                    raise LostLease(f"Lease {self._namespace}/{OPERATOR_LEASE} was taken by another operator")
            except ClientError as error:
                if not self.held():
                    raise LostLease(f"Lease {self._namespace}/{OPERATOR_LEASE} could not be renewed: {error}") from error
                structlog.get_logger().warning("the Lease was not renewed; will try again", error=str(error))

    async def release(self) -> None:
        """Gives the Lease up, so that a successor need not wait."""
        if not self.held():
            return
        self._renewed = None
        try:
            lease = await self._client.get("Lease", self._namespace, OPERATOR_LEASE)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._client.replace("Lease", self._namespace, OPERATOR_LEASE, lease)
        except ClientError as error:
            structlog.get_logger().warning("the Lease was not given up; a successor waits for it to run out", error=str(error))

    async def _try(self) -> bool:
        """Whether the Lease is ours after this attempt to take or renew it."""
        asked = self._clock()
        try:
            lease = await self._client.get("Lease", self._namespace, OPERATOR_LEASE)
        except Missing:
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                     "metadata": {"name": OPERATOR_LEASE, "namespace": self._namespace}, "spec": {}}
        if not self._mine_to_take(lease):
            self._renewed = None
            return False
        self._sign(lease)
        try:
            if "resourceVersion" in lease["metadata"]:
                await self._client.replace("Lease", self._namespace, OPERATOR_LEASE, lease)
            else:
                await self._client.create("Lease", self._namespace, lease)
        except Conflict:
            return self.held()
        self._renewed = asked
        return True

    def _mine_to_take(self, lease: dict[str, Any]) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._identity):
            return True
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        return self._clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or self._duration_s)

    def _sign(self, lease: dict[str, Any]) -> None:
        spec = lease.setdefault("spec", {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if spec.get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        spec |= {"holderIdentity": self._identity, "renewTime": now, "leaseDurationSeconds": int(self._duration_s)}

"""The sign of life: a Lease renewed every ten seconds. And the node's own addresses, learned on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from wharfinger_api import agent_lease

from wharfinger_dataplane.agent.cluster import MERGE_PATCH, Cluster, Json, Refused, Unreachable

RETRY_S = 1.0


def lease(node: str, namespace: str, duration_s: int, now: datetime) -> Json:
    """The Lease as it is to be at `now` (coordination.k8s.io/v1)."""
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": agent_lease(node), "namespace": namespace},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": duration_s, "renewTime": moment}}


def addresses_of(node: Json) -> frozenset[str]:
    """The addresses that a Node object tells."""
    return frozenset(found["address"] for found in (node.get("status") or {}).get("addresses") or () if found["type"].endswith("IP"))


class Heartbeat:
    """Renews the Lease of `node`. `learned` is called once the node's addresses are known."""

    def __init__(self, cluster: Cluster, node: str, namespace: str, period_s: float, duration_s: int, learned: Callable[[], None]) -> None:
        self._cluster, self._node, self._namespace = cluster, node, namespace
        self._period_s, self._duration_s, self._learned = period_s, duration_s, learned
        self._stop = threading.Event()
        self._log = structlog.get_logger()
        self.node_addresses: frozenset[str] = frozenset()

    def start(self) -> None:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                self.beat(datetime.now(UTC))
                self._learn()
                wait_s = self._period_s
            except (Refused, Unreachable) as error:
                self._log.warning("heartbeat failed", error=str(error), retry_s=RETRY_S)
                wait_s = RETRY_S

    def beat(self, now: datetime) -> None:
        """Renews the Lease, or makes it."""
        body = lease(self._node, self._namespace, self._duration_s, now)
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases"
        try:
            self._cluster.request("PATCH", f"{path}/{agent_lease(self._node)}", {"spec": body["spec"]}, content_type=MERGE_PATCH)
        except Refused as error:
            if error.status != 404:
                raise
            self._cluster.request("POST", path, body)

    def _learn(self) -> None:
        if not self.node_addresses:
            self.node_addresses = addresses_of(self._cluster.request("GET", f"/api/v1/nodes/{self._node}"))
            self._learned()

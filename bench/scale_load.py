"""What the operator at full size is measured with: pools, pods and nodes as objects, agents that acknowledge, and a look at what it writes.

The agents' reports are built by the agent's own code (wharfinger_dataplane.agent.report), and sent as it sends them: 20 ms after a change.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from testbed import Cluster
from wharfinger_api import API_VERSION, AssignmentState, AttachedPod, NodeReportStatus, ProgrammedSlices, ServicePortSlice, agent_lease, dump, parse
from wharfinger_dataplane._records import Role
from wharfinger_dataplane.agent.desired import Attachment
from wharfinger_dataplane.agent.report import COALESCE_S, About, Troubles, node_report
from wharfinger_dataplane.attach import Mode
from wharfinger_operator.client import Client, ClientError, Missing, login

SYSTEM = "wharfinger-system"
SPACES = 10
LEASE_S, RENEW_S = 40, 10.0
PARALLEL = 24
ABOUT = About("bench", os.uname().release, Mode.TCX, Mode.TCX)
OWN = ("ServicePortPool", "RedirectPortPool")
QUIET_S = 0.3
"""So long after the last acknowledgement no status is awaited any more: there was nothing to say."""

Key = tuple[str, str]


@dataclass(frozen=True)
class Size:
    """How many of each; `servers` of each pool."""

    pools: int
    servers: int
    nodes: int


class Load:
    """Use as an asynchronous context. Moments are of time.monotonic()."""

    def __init__(self, cluster: Cluster, size: Size) -> None:
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
        self._cluster, self.size = cluster, size
        self._client = Client(login())
        self._tasks: list[asyncio.Task[None]] = []
        self._moved = asyncio.Event()
        self._agents = [Agent(f"n{number}", self._client) for number in range(size.nodes)]
        self._slices: dict[Key, ServicePortSlice] = {}
        self._slice_seen: dict[str, tuple[int, float]] = {}
        self._own: dict[tuple[str, Key], tuple[bool, int, float]] = {}
        self._wanting: set[tuple[str, Key]] = set()
        self._uids: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._serial = 0

    async def __aenter__(self) -> Load:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.__aexit__()

    # objects

    async def create(self) -> None:
        """Everything that there is before the operator starts."""
        for name in (SYSTEM, *(f"s{number}" for number in range(SPACES))):
            self._cluster.kubectl("create", "namespace", name)
        await gathered(agent.begin() for agent in self._agents)
        await gathered(self._service(number) for number in range(self.size.pools))
        await gathered(self._pod(pool, f"p{pool}-{index}") for pool in range(self.size.pools) for index in range(self.size.servers))
        await gathered(self._pool(number) for number in range(self.size.pools))
        self._tasks = [asyncio.create_task(self._follow("ServicePortSlice", self._saw_slice)),
                       *(asyncio.create_task(self._follow(kind, self._saw_own)) for kind in OWN),
                       *(asyncio.create_task(agent.run()) for agent in self._agents)]

    async def _service(self, number: int) -> None:
        await tried(lambda: self._client.create("Service", space(number), {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": f"p{number}"},
            "spec": {"selector": {"app": f"p{number}"}, "ports": [{"port": 80, "targetPort": 8080}]}}))

    async def _pod(self, pool: int, name: str) -> None:
        """A pod that runs and is ready, as its kubelet would say."""
        self._serial += 1
        serial, node = self._serial, f"n{self._serial % self.size.nodes}"
        made = await tried(lambda: self._client.create("Pod", space(pool), {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": f"p{pool}"}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0,
                     "containers": [{"name": "c", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}]}}))
        made = made or await tried(lambda: self._client.get("Pod", space(pool), name))  # An answer that was lost.
        self._uids[f"{space(pool)}/{name}"] = made["metadata"]["uid"]
        self._addresses[f"{space(pool)}/{name}"] = f"10.{128 + serial // 65000}.{serial // 250 % 250}.{1 + serial % 250}"
        await self._ready(pool, name, True)

    async def _ready(self, pool: int, name: str, ready: bool) -> None:
        address = self._addresses[f"{space(pool)}/{name}"]
        await tried(lambda: self._client.patch_status("Pod", space(pool), name, {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}))

    async def _delete(self, pool: int, name: str) -> None:
        del self._uids[f"{space(pool)}/{name}"]
        await tried(lambda: self._client._ask("DELETE", f"/api/v1/namespaces/{space(pool)}/pods/{name}", body={"gracePeriodSeconds": 0}))

    async def _pool(self, number: int) -> None:
        name, reference = f"p{number}", {"service": {"name": f"p{number}"}}
        await tried(lambda: self._client.create("ServicePortPool", space(number), {
            "apiVersion": API_VERSION, "kind": "ServicePortPool", "metadata": {"name": name},
            "spec": {"virtualAddresses": reference, "servers": reference, "portRanges": [{"from": 20000, "to": 20199}], "restTime": "1h",
                     "targets": [{"name": "http", "targetPort": 8080}]}}))
        await tried(lambda: self._client.create("RedirectPortPool", space(number), {
            "apiVersion": API_VERSION, "kind": "RedirectPortPool", "metadata": {"name": name},
            "spec": {"servicePortPool": {"name": name}, "target": "http", "ports": [{"from": 80, "to": 80}]}}))

    # changes

    def next_change(self, number: int) -> tuple[str, Callable[[], Awaitable[None]], str]:
        """What changes, the change, and the pool that it is of: a pod's readiness, a pod's end, a new pod, a pool's specification."""
        pool = number // 5 * 7 % self.size.pools
        name = next(server.partition("/")[2] for server in self._uids if server.startswith(f"{space(pool)}/p{pool}-"))
        policy = {"spec": {"policy": "Random"}}
        redirect = f"/apis/{API_VERSION}/namespaces/{space(pool)}/redirectportpools/p{pool}"
        ways: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("a pod is not ready", lambda: self._ready(pool, name, False)),
            ("a pod is ready again", lambda: self._ready(pool, name, True)),
            ("a pod is deleted", lambda: self._delete(pool, name)),
            ("a pod is new", lambda: self._pod(pool, f"{name}-{number}")),
            ("a redirect pool's policy", lambda: tried(lambda: self._client._ask(
                "PATCH", redirect, body=policy, content_type="application/merge-patch+json")))]
        return *ways[number % 5], f"{space(pool)}/p{pool}"

    async def burst(self, count: int, within_s: float) -> float:
        """Replaces `count` pods, one after the other pool by pool, at an even pace; seconds that it took."""
        names = {pool: [] for pool in range(self.size.pools)}
        for server in self._uids:
            pod = server.partition("/")[2]
            names[int(pod[1:].partition("-")[0])].append(pod)
        began, under_way = time.monotonic(), []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + within_s * number / count - time.monotonic()))
            pool = number % self.size.pools
            under_way.append(asyncio.create_task(self._replace(pool, names[pool].pop(), f"p{pool}-b{number}")))
        await asyncio.gather(*under_way)
        return time.monotonic() - began

    async def _replace(self, pool: int, old: str, new: str) -> None:
        await self._pod(pool, new)
        await self._delete(pool, old)

    # looking

    async def until(self, question: Callable[[], float | None], within_s: float, what: str) -> float:
        """The moment that `question` gives, once it gives one. TimeoutError after `within_s` seconds."""
        deadline = time.monotonic() + within_s
        while (moment := question()) is None:
            for task in self._tasks:
                if task.done():
                    task.result()  # What ended it is worth more than what then does not come.
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {within_s:.0f} s still not: {what}; {len(self._wanting)} pools are not Programmed")
            self._moved.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self._moved.wait()
            except TimeoutError:
                pass
        return moment

    def all_programmed(self) -> float | None:
        """When the last of all pools was seen Programmed."""
        known = len(self._own) == len(OWN) * self.size.pools
        return max(seen for _, _, seen in self._own.values()) if known and not self._wanting else None

    def all_ready(self) -> float | None:
        """Now, when every pod there is has an assignment that is Ready."""
        ready = {record.pod_uid for piece in self._slices.values() for record in piece.spec.assignments if record.state is AssignmentState.READY}
        return time.monotonic() if ready.issuperset(self._uids.values()) and self.all_programmed() else None

    def slice_after(self, pool: str, version: int) -> float | None:
        """When a slice of the pool newer than `version` was seen first."""
        seen, moment = self._slice_seen[pool]
        return moment if seen > version else None

    def slice_version(self, pool: str) -> int:
        """resourceVersion of the newest slice of the pool."""
        return self._slice_seen[pool][0]

    def programmed_after(self, pool: str, version: int) -> float | None:
        """When the pool was Programmed with all agents' word on its slices, the newest of which is newer than `version`."""
        space, _, name = pool.partition("/")
        newest, _ = self._slice_seen[pool]
        pieces = [piece for piece in self._slices.values() if piece.metadata.namespace == space and piece.spec.pool.name == name]
        words = [agent.said.get(piece.metadata.uid, (0, 0.0)) for piece in pieces for agent in self._agents]
        behind = any(agent.said.get(piece.metadata.uid, (0, 0.0))[0] < piece.metadata.generation for piece in pieces for agent in self._agents)
        programmed, seen_version, seen = self._own["ServicePortPool", (space, name)]
        if newest <= version or behind or not programmed or ("RedirectPortPool", (space, name)) in self._wanting:
            return None
        acknowledged = max(moment for _, moment in words)
        if seen_version > newest:
            return max(seen, acknowledged)
        return acknowledged if time.monotonic() - acknowledged > QUIET_S else None

    async def _follow(self, kind: str, saw: Callable[[str, dict[str, Any]], None]) -> None:
        while True:
            try:
                items, version = await self._client.list(kind)
                for raw in items:
                    saw("ADDED", {"apiVersion": API_VERSION, "kind": kind, **raw})
                async for event, raw in self._client.watch(kind, "", version):
                    if event != "BOOKMARK":
                        saw(event, raw)
                        self._moved.set()
            except ClientError:
                await asyncio.sleep(0.5)

    def _saw_own(self, event: str, raw: dict[str, Any]) -> None:
        metadata, status = raw["metadata"], raw.get("status") or {}
        key = (raw["kind"], (metadata["namespace"], metadata["name"]))
        true = any(each["type"] == "Programmed" and each["status"] == "True" for each in status.get("conditions") or ())
        programmed = true and status.get("observedGeneration") == metadata["generation"]
        self._own[key] = (programmed, int(metadata["resourceVersion"]), time.monotonic())
        (self._wanting.discard if programmed else self._wanting.add)(key)

    def _saw_slice(self, event: str, raw: dict[str, Any]) -> None:
        piece = parse(raw)
        assert isinstance(piece, ServicePortSlice)
        old = self._slices.pop(piece.key, None)
        if event != "DELETED":
            self._slices[piece.key] = piece
        pool, version = f"{piece.metadata.namespace}/{piece.spec.pool.name}", int(piece.metadata.resource_version)
        if version > self._slice_seen.get(pool, (0, 0.0))[0]:
            self._slice_seen[pool] = (version, time.monotonic())
        for agent in self._agents:
            agent.sees(old, self._slices.get(piece.key), version)


class Agent:
    """One node's agent, as far as the operator hears of it. `said`: slice uid -> generation acknowledged, and when that was answered."""

    def __init__(self, node: str, client: Client) -> None:
        self._node, self._client = node, client
        self._slices: dict[Key, ServicePortSlice] = {}
        self._attached: dict[Key, dict[str, Attachment]] = defaultdict(dict)
        self._dirty = asyncio.Event()
        self._sent: NodeReportStatus | None = None
        self._version = 0
        self.said: dict[str, tuple[int, float]] = {}

    async def begin(self) -> None:
        """Creates the node, its Lease and its report."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._node}}
        await tried(lambda: self._client.create("Node", "", node))
        await tried(lambda: self._client.create("NodeReport", "", {
            "apiVersion": API_VERSION, "kind": "NodeReport", "metadata": {"name": self._node}}))
        await self._renew()

    def sees(self, old: ServicePortSlice | None, new: ServicePortSlice | None, version: int) -> None:
        """A slice came, changed or went at resourceVersion `version`."""
        self._version = max(self._version, version)
        if old is not None:
            self._slices.pop(old.key, None)
            self._attached.pop(old.key, None)
        if new is not None:
            self._slices[new.key] = new
            mine = [record for record in new.spec.assignments if record.node == self._node and record.state is not AssignmentState.RESTING]
            self._attached[new.key] = {record.address: Attachment(interface=1, roles=Role.SERVER, pod=AttachedPod(
                pod=record.server, uid=record.pod_uid, address=record.address)) for record in mine}
        self._dirty.set()

    async def run(self) -> None:
        """Renews and reports, until cancelled."""
        await self._renew()  # Making ten thousand pods took longer than a Lease lasts.
        renewed = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(max(0.0, renewed + RENEW_S - time.monotonic())):
                    await self._dirty.wait()
                await asyncio.sleep(COALESCE_S)
                self._dirty.clear()
                await self._report()
            except TimeoutError:
                renewed = time.monotonic()
                await self._renew()

    async def _report(self) -> None:
        attachments = {address: found for of in self._attached.values() for address, found in of.items()}
        slices = list(self._slices.values())
        status = node_report(ABOUT, ProgrammedSlices(version=str(self._version)), attachments, Troubles(), self._sent, datetime.now(UTC))
        if status == self._sent:
            return
        body = dump(status.model_copy(update={"updated_at": datetime.now(UTC)}))
        await tried(lambda: self._client.patch_status("NodeReport", "", self._node, body))
        self._sent, moment = status, time.monotonic()
        for piece in slices:
            if self.said.get(piece.metadata.uid, (0, 0.0))[0] != piece.metadata.generation:
                self.said[piece.metadata.uid] = (piece.metadata.generation, moment)

    async def _renew(self) -> None:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        name = agent_lease(self._node)
        spec = {"holderIdentity": self._node, "leaseDurationSeconds": LEASE_S, "renewTime": stamp}
        path = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{name}"
        try:
            await tried(lambda: self._client._ask("PATCH", path, body={"spec": spec}, content_type="application/merge-patch+json"))
        except Missing:
            await tried(lambda: self._client.create("Lease", SYSTEM, {
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}))


def space(pool: int) -> str:
    """The namespace of a pool."""
    return f"s{pool % SPACES}"


async def gathered(jobs: Iterable[Awaitable[None]]) -> None:
    """Does all of the jobs, so many at a time."""
    gate = asyncio.Semaphore(PARALLEL)

    async def one(job: Awaitable[None]) -> None:
        async with gate:
            await job

    await asyncio.gather(*(one(job) for job in jobs))


async def tried(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, asked for again while the API server is too busy to give one; None for what is there already."""
    for pause_s in (0.2, 0.5, 1.0, 2.0, 4.0):
        try:
            return await ask()
        except Missing:
            raise
        except ClientError as error:
            if "409" in str(error):
                return None
            await asyncio.sleep(pause_s)
    return await ask()

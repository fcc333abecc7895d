"""The NodeReport and Events: what this node's agent has done, as the API server is told it. Builders are pure; `Reporter` sends."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from wharfinger_api import (
    API_VERSION,
    GROUP,
    PLURALS,
    VERSION,
    AttachedPod,
    Condition,
    Fallback,
    Finding,
    Metadata,
    NodeReportStatus,
    PoolFault,
    ProgrammedSlices,
    ServicePortSlice,
    SliceVersion,
    dump,
)

from wharfinger_dataplane._records import Role
from wharfinger_dataplane.agent.cluster import MERGE_PATCH, Cluster, Json, Refused, Unreachable
from wharfinger_dataplane.agent.desired import Attachment, LocalPod
from wharfinger_dataplane.agent.reflector import Copy
from wharfinger_dataplane.attach import Mode

COALESCE_S = 0.02
BACKOFF_S = (0.2, 10.0)
REFRESH_S = 300.0
"""How often the report is written though nothing changed: somebody may have deleted or changed it."""
SLICES_MAX, PODS_MAX, FAULTS_MAX, FINDINGS_MAX = 5000, 1000, 1000, 1000  # crds/nodereports.yaml
KERNEL_CHARACTERS = 128
REPORTS = f"/apis/{GROUP}/{VERSION}/{PLURALS['NodeReport']}"


@dataclass(frozen=True)
class About:
    """What is so as long as the agent runs: its version, the node's kernel (`uname -r`), how programs were to be attached and how they are."""

    version: str
    kernel: str
    asked: Mode
    mode: Mode

    @property
    def fallbacks(self) -> tuple[Fallback, ...]:
        """What the kernel has not; what somebody chose is none."""
        if (self.asked, self.mode) != (Mode.AUTO, Mode.CLSACT):
            return ()
        return (Fallback(name="ClassicFilters", message=f"kernel {self.kernel} has no tcx links (Linux has them from 6.6 on), so programs are "
                         "classic filters: who replaces an interface's clsact takes them away, and the agent puts them back"),)


def programmed_slices(seen: Copy[ServicePortSlice], programmed: Iterable[ServicePortSlice]) -> ProgrammedSlices:
    """What is to be said of the slices, when of those that were seen these versions are `programmed`: nothing when too many are to be excepted."""
    stand = {piece.metadata.uid: piece.metadata for piece in programmed}
    misread = {metadata["uid"]: SliceVersion(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])
               for metadata in seen.misread}
    kept = {(metadata["namespace"], metadata["name"]) for metadata in seen.misread}
    latest = {piece.metadata.uid: piece.metadata for piece in seen.objects if piece.key not in kept}
    older = {uid: _version(found, found.resource_version) for uid, found in stand.items()
             if uid not in latest or latest[uid].resource_version != found.resource_version}
    lacking = {uid: _version(found, "") for uid, found in latest.items() if uid not in stand}
    exceptions = sorted({**misread, **older, **lacking}.values(), key=lambda entry: (entry.namespace, entry.name, entry.uid))
    return ProgrammedSlices(version=seen.version, exceptions=tuple(exceptions)) if len(exceptions) <= SLICES_MAX else ProgrammedSlices()


def _version(metadata: Metadata, version: str) -> SliceVersion:
    return SliceVersion(namespace=metadata.namespace, name=metadata.name, uid=metadata.uid, version=version)


@dataclass(frozen=True)
class Troubles:
    """What is not as it could be. `faults` are what keeps the agent from doing all it should, in words, `pools` what of it is about a pool;
    `findings` are what else is at work on the node, with which the agent does as it should."""

    faults: Iterable[str] = ()
    pools: Iterable[PoolFault] = ()
    findings: Iterable[Finding] = ()


def node_report(about: About, slices: ProgrammedSlices, attachments: Mapping[str, Attachment], troubles: Troubles,
                before: NodeReportStatus | None, now: datetime, leaving: Condition | None = None) -> NodeReportStatus:
    """What is programmed and attached. `before` is the last report; `leaving` how far this node has been left, while it is."""
    pool_faults = sorted(troubles.pools, key=lambda fault: (fault.namespace, fault.name))
    faults = sorted([*troubles.faults,
                     *(f"ServicePortPool {fault.namespace}/{fault.name} keeps its former tables: {fault.message}"
                       for fault in pool_faults)])
    servers = [_judged_by(found.pod, found.ingress) for found in attachments.values() if found.pod and found.roles & Role.SERVER]
    clients = [_judged_by(found.pod, found.egress) for found in attachments.values() if found.pod and found.roles & Role.CLIENT]
    ready = Condition(type="Ready", status="False" if faults else "True", reason="Failing" if faults else "Programmed",
                      message="; ".join(faults)[:4096] or "Every slice is programmed and every translator attached.",
                      last_transition_time=now)
    former = next((found for found in before.conditions if found.type == "Ready"), None) if before else None
    if former and former.status == ready.status:
        ready = ready.model_copy(update={"last_transition_time": former.last_transition_time})
    return NodeReportStatus(
        agent_version=about.version, kernel=about.kernel[:KERNEL_CHARACTERS], attach_mode=about.mode, fallbacks=about.fallbacks,
        slices=slices, servers=_sorted(servers), clients=_sorted(clients), faults=tuple(pool_faults[:FAULTS_MAX]),
        findings=tuple(troubles.findings)[:FINDINGS_MAX],
        conditions=(ready, leaving) if leaving else (ready,))


def _judged_by(pod: AttachedPod, policy: str) -> AttachedPod:
    return pod.model_copy(update={"policy": policy}) if policy else pod


def _sorted(pods: Iterable[AttachedPod]) -> tuple[AttachedPod, ...]:
    return tuple(sorted(pods, key=lambda pod: (pod.pod, pod.address))[:PODS_MAX])


def event(pod: LocalPod, node: str, reason: str, message: str, now: datetime) -> Json:
    """A Warning about `pod`. One name for one pod and reason: saying it again is refused by the API server, and of no matter."""
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": f"{pod.name[:200]}.{pod.uid[:8]}.{reason.lower()}", "namespace": pod.namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
        "type": "Warning", "reason": reason, "message": message, "count": 1, "firstTimestamp": moment, "lastTimestamp": moment,
        "source": {"component": "wharfinger-agent", "host": node}, "reportingComponent": "wharfinger.io/agent", "reportingInstance": node,
    }


class Reporter:
    """Sends the latest report, once things are still for 20 ms, and Events; tries again while the API server is away."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._cluster, self._node = cluster, node
        self._wanted: NodeReportStatus | None = None
        self._sent: NodeReportStatus | None = None
        self._events: list[Json] = []
        self._stopping = False
        self._condition = threading.Condition()
        self._log = structlog.get_logger()

    def report(self, status: NodeReportStatus) -> None:
        """This is so from now on."""
        with self._condition:
            self._wanted = status
            self._condition.notify()

    def tell(self, event: Json) -> None:
        """Emits an Event."""
        with self._condition:
            self._events.append(event)
            self._condition.notify()

    def start(self) -> None:
        threading.Thread(target=self._run, name="reporter", daemon=True).start()

    def stop(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify()

    def _run(self) -> None:
        wait_s = 0.0
        while True:
            with self._condition:
                if not self._condition.wait_for(self._due, timeout=wait_s or REFRESH_S) and not wait_s:
                    self._sent = None
                if self._stopping:
                    return
                self._condition.wait_for(lambda: self._stopping, timeout=wait_s or COALESCE_S)
                status, events, self._events = self._wanted, self._events, []
            try:
                if status is not None and status != self._sent:
                    self._send(status)
                    self._sent = status
                while events:
                    self._create_event(events[0])
                    events.pop(0)
                wait_s = 0.0
            except (Refused, Unreachable) as error:
                wait_s = min(max(wait_s * 2, BACKOFF_S[0]), BACKOFF_S[1])
                self._log.warning("report not sent", error=str(error), retry_s=wait_s)
                with self._condition:
                    self._events = events + self._events

    def _due(self) -> bool:
        return self._stopping or bool(self._events) or self._wanted != self._sent

    def _send(self, status: NodeReportStatus) -> None:
        patch = {"status": dump(status.model_copy(update={"updated_at": datetime.now(UTC)}))}
        try:
            self._cluster.request("PATCH", f"{REPORTS}/{self._node}/status", patch, content_type=MERGE_PATCH)
        except Refused as error:
            if error.status != 404:
                raise
            self._cluster.request("POST", REPORTS, {"apiVersion": API_VERSION, "kind": "NodeReport", "metadata": self._metadata()})
            self._cluster.request("PATCH", f"{REPORTS}/{self._node}/status", patch, content_type=MERGE_PATCH)

    def _metadata(self) -> Json:
        """Owned by the node, so that the report goes with it."""
        uid = self._cluster.request("GET", f"/api/v1/nodes/{self._node}")["metadata"]["uid"]
        return {"name": self._node, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": uid}]}

    def _create_event(self, body: Json) -> None:
        try:
            self._cluster.request("POST", f"/api/v1/namespaces/{body['metadata']['namespace']}/events", body)
        except Refused as error:
            self._log.info("event not created", error=str(error))  # there already, or its namespace is going: telling once more is no use

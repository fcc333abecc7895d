"""The one loop that changes things: whatever happens wakes it, and it makes everything as it should be now.

Rules:
- Level-triggered: a round never asks what happened, only what is. What failed is tried again at the next round, 5 s later at the latest.
- Order: programs attached, then pods and tables written, then what is superfluous detached, and only then is it reported.
- Nothing is done before slices, pods and policies were listed and namespaces looked at once: what a former agent left goes on serving.
- While there is a marker, rounds lead out of the node (`leave`); once it is left, this process does nothing but wait for its end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog
from wharfinger_api import TRACEPARENT_ANNOTATION, Finding, NetworkPolicy, NodeReportStatus, Policies, PoolFault, ProgrammedSlices, ServicePortSlice

from wharfinger_dataplane._records import Pod, Role
from wharfinger_dataplane.agent.desired import Attachment, Desired, LocalPod, desire
from wharfinger_dataplane.agent.events import policed, refused, untimely
from wharfinger_dataplane.agent.flows import Collector
from wharfinger_dataplane.agent.leave import Leave, Marker, withdrawn
from wharfinger_dataplane.agent.namespaces import Namespaces
from wharfinger_dataplane.agent.placement import Placement, Reader
from wharfinger_dataplane.agent.reflector import Reflector
from wharfinger_dataplane.agent.report import About, Reporter, Troubles, event, node_report, programmed_slices
from wharfinger_dataplane.agent.ways import foreign_interface
from wharfinger_dataplane.attach import Attacher
from wharfinger_dataplane.kernel import Kernel
from wharfinger_dataplane.tables import Tables
from wharfinger_dataplane.telemetry import PodName, Telemetry

DEBOUNCE_S = 0.003
TICK_S, LEAVE_TICK_S = 5.0, 0.5
TAKEOVER_AGAIN_S = 30.0
"""Until the former tables are taken over is tried again."""
FAULT_CHARACTERS = 1024  # crds/nodereports.yaml
ALWAYS = datetime.min.replace(tzinfo=UTC)


@dataclass
class Progress:
    """What probes and metrics ask: times in seconds of the monotonic clock, durations in seconds."""

    alive_s: float = 0.0
    ready: bool = False
    rounds: int = 0
    failures: int = 0
    writes: int = 0
    last_latency_s: float = 0.0
    latency_sum_s: float = 0.0
    latencies: int = 0


@dataclass(frozen=True)
class Sources:
    """Where the loop looks. `node` is asked for what decides on packets' ways; `markers` has the one marker at which the node is left, or
    nothing."""

    slices: Reflector[ServicePortSlice]
    pods: Reflector[LocalPod]
    policies: Reflector[NetworkPolicy]
    namespaces: Namespaces
    node: Reader
    markers: Reflector[Marker]


class Worker:
    """The loop of one agent. `wake` may be called from any thread; `run` is the main thread's. `programmed` is told, after each round
    that wrote the tables, which slices are in them."""

    def __init__(self, node: str, about: About, late_s: float, sources: Sources, kernel: Kernel, attacher: Attacher, collector: Collector,
                 leave: Leave, reporter: Reporter, telemetry: Telemetry, programmed: Callable[[list[ServicePortSlice]], None]) -> None:
        self._node, self._about, self._late_s = node, about, late_s
        self._sources, self._kernel, self._attacher, self._collector = sources, kernel, attacher, collector
        self._leave, self._reporter, self._telemetry, self._tell_programmed = leave, reporter, telemetry, programmed
        self._tables = Tables(kernel)
        self._placement = Placement(sources.node, attacher, kernel, self._tables)
        self._pods: dict[str, Pod] = {}
        self._attached_at: dict[str, datetime] = {}
        self._generations: dict[str, int] = {}
        self._programmed: list[ServicePortSlice] = []
        self._acknowledged = ProgrammedSlices()
        self._told: set[tuple[str, str]] = set()
        self._report: NodeReportStatus | None = None
        self._renewed = False
        self._refused: OSError | None = None
        self._ask_again_s = 0.0
        self._woken = threading.Event()
        self._since_s: float | None = None
        self._stopping = False
        self._log = structlog.get_logger()
        self.claimed: frozenset[str] = frozenset()
        """Addresses of which the API server says whose they are."""
        self.progress = Progress(alive_s=time.monotonic())

    def counts(self) -> dict[str, int]:
        """Entries of each table that the agent writes. May be called from any thread."""
        return self._tables.counts()

    def adopt(self) -> None:
        """Learns what a former agent left. OSError when the kernel does not tell."""
        links = self._attacher.adopt()
        self._tables.adopt()
        self._pods = self._tables.pods()
        self._attached_at = dict.fromkeys(self._pods, ALWAYS)
        self._log.info("adopted", programs=links, pods=len(self._pods))

    def wake(self) -> None:
        """Something changed."""
        if self._since_s is None:
            self._since_s = time.monotonic()
        self._woken.set()

    def suspect(self) -> None:
        """Somebody may have detached programs: the next round looks."""
        self._placement.suspect()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()

    def run(self) -> None:
        """Rounds until `stop`, or until the marker at which the node was left is gone: another process then begins anew."""
        while not self._stopping:
            self._woken.wait(LEAVE_TICK_S if self._leave.condition else TICK_S)
            if self._stopping:
                return
            time.sleep(DEBOUNCE_S)
            self._woken.clear()
            since_s, self._since_s = self._since_s, None
            self.progress.alive_s = time.monotonic()
            if self._leave.left:
                if not self._sources.markers.objects():
                    self._log.info("the marker is gone: ending, for another agent to begin anew")
                    return
            elif self._seen():
                self._round(since_s)

    def _seen(self) -> bool:
        """Whether everything was seen once."""
        listed = (self._sources.slices, self._sources.pods, self._sources.policies, self._sources.markers)
        return all(source.synced for source in listed) and self._sources.namespaces.looked

    def _round(self, since_s: float | None) -> None:
        seen, pods, markers = self._sources.slices.copy(), self._sources.pods.objects(), self._sources.markers.objects()
        slices = seen.objects
        self.claimed = frozenset(address for pod in pods for address in pod.addresses)
        desired = desire(self._node, slices, pods, self._sources.namespaces.snapshot(), self._pods, Policies(self._sources.policies.objects()))
        faults = [*self._sources.slices.misread(), *self._sources.policies.misread(), *self._sources.markers.misread()]
        refusals = self._astray(desired, faults)
        started_ns = time.time_ns()
        self._placement.begin({found.interface for found in desired.attachments.values()}, faults)
        attached, changed = self._attach(desired, refusals, faults)
        writes = self._write_tables([withdrawn(piece) for piece in slices] if markers else slices, faults)
        ended_ns, ended_s = time.time_ns(), time.monotonic()
        changed += self._remove_pods(attached)
        self._placement.detach_others(faults)
        if writes is not None:
            self._trace(slices, started_ns, ended_ns, writes)
            # What a faulty pool had goes on, and stays acknowledged at its own version: its servers are attached and serve.
            faulty = self._tables.faults
            self._programmed = [*(piece for piece in slices if piece.spec.pool.uid not in faulty),
                                *(piece for piece in self._programmed if piece.spec.pool.uid in faulty)]
            self._acknowledged = programmed_slices(seen, self._programmed)
            self._tell_programmed(self._programmed)
        if markers:
            self._step_out(markers[0], faults)
        self._acknowledge(attached, faults, self._pool_faults(slices), [*refusals.values(), *self._placement.findings])
        self._tell_events(pods, attached, refusals, datetime.now(UTC))
        names = [PodName(address, found.pod.pod, self._node) for address, found in attached.items() if found.pod]
        self._telemetry.names.update(slices, names)
        self._measure(since_s, ended_s, writes, changed, faults)

    def _astray(self, desired: Desired, faults: list[str]) -> dict[str, Finding]:
        """The pods (namespace/name) without an interface at this node that could bear programs, as far as it is known why; the others are
        faults."""
        kinds = {address: kind for namespace in self._sources.namespaces.snapshot() for address, kind in namespace.foreign}
        found = {}
        for pod in desired.missing:
            kind = next((kinds[address] for address in pod.addresses if address in kinds), None)
            if kind is None:
                faults.append(f"{pod.reference}: no interface of this node leads to {', '.join(pod.addresses)}")
            else:
                found[pod.reference] = foreign_interface(kind).model_copy(update={"where": f"Pod {pod.reference}"})
        return found

    def _attach(self, desired: Desired, refusals: dict[str, Finding], faults: list[str]) -> tuple[dict[str, Attachment], int]:
        """Attaches programs and enters each pod as soon as its interface bears them, those that wait at the start gate first; adds the pods
        that get none to `refusals`. The attachments that stand, and the number of changes."""
        standing: dict[str, Attachment] = {}
        changes = 0
        for address, found in sorted(desired.attachments.items(), key=lambda item: item[1].pod is not None):
            name = found.pod.pod if found.pod else address
            refusal = self._placement.refusal(found.interface)
            if refusal:
                refusals[name] = refusal.model_copy(update={"where": f"Pod {name}"})
                continue
            failure = self._placement.attach_pod(found.interface)
            try:
                changes += self._put_pod(address, Pod(found.interface, found.roles, found.namespace)) if failure is None else 0
            except OSError as error:  # the table is full
                failure = error
            if failure:
                faults.append(f"{name}: {failure}")
                self._log.warning("not attached", pod=found.pod.pod if found.pod else "", address=address, error=str(failure))
                continue
            standing[address] = found
        self._placement.attach_uplinks(faults)
        changes += self._placement.put_ways(faults)
        return standing, changes

    def _put_pod(self, address: str, pod: Pod) -> bool:
        """Enters a pod; whether that changed anything."""
        former = self._pods.get(address)
        if pod.netns < 0 and former and former.ifindex == pod.ifindex:
            pod = pod._replace(netns=former.netns)  # its namespace is not found, as when its file was moved; it is still the one it was
        if former == pod:
            return False
        self._tables.put_pod(address, pod.ifindex, pod.roles, pod.netns)
        self._pods[address] = pod
        if former is None or former.ifindex != pod.ifindex:
            self._attached_at[address] = datetime.now(UTC)
        if former and former.ifindex != pod.ifindex:
            self._collector.pod_gone(address, time.monotonic_ns())
        return True

    def _remove_pods(self, standing: Mapping[str, Attachment]) -> int:
        """Removes the pods that are gone, or are none of ours any more; how many."""
        gone = self._pods.keys() - standing.keys()
        for address in gone:
            self._tables.remove_pod(address)
            del self._pods[address]
            self._attached_at.pop(address, None)
            self._collector.pod_gone(address, time.monotonic_ns())
        return len(gone)

    def _write_tables(self, slices: list[ServicePortSlice], faults: list[str]) -> int | None:
        """Tables; the number of values written, or None when that failed."""
        try:
            writes = self._tables.apply(slices)
            if not self._renewed:
                if self._tables.bereft and self._kernel.has_former:
                    faults.append("the former release's programs and tables go on unchanged: a pool does not fit into this release's")
                    return None
                self._renew()
        except OSError as error:
            faults.append(f"tables: {error}")
            self._log.error("tables not written", error=str(error))
            return None
        return writes

    def _renew(self) -> None:
        """This process's programs in place of a former agent's."""
        if self._kernel.has_former:
            if self._refused and time.monotonic() < self._ask_again_s:
                raise OSError(*self._refused.args)
            try:
                carried = self._kernel.replace_former(self._attacher.hold, self._attacher.renew)
            except OSError as error:  # Each try may hold TCP for a while, so not each round is one.
                self._refused, self._ask_again_s = error, time.monotonic() + TAKEOVER_AGAIN_S
                raise
            self._log.info("tables and programs renewed", records_carried=carried.records, held_ms=round(carried.held_ms, 2))
        else:
            self._attacher.renew()
            self._log.info("programs renewed")
        self._renewed = True

    def _step_out(self, marker: Marker, faults: list[str]) -> None:
        try:
            self._leave.step(marker, time.monotonic())
        except OSError as error:
            faults.append(f"leaving: {error}")
            self._log.error("not left", error=str(error), retry_s=LEAVE_TICK_S)

    def _pool_faults(self, slices: list[ServicePortSlice]) -> list[PoolFault]:
        """The pools that could not be written, with why."""
        whys = self._tables.faults
        named = {piece.spec.pool.uid: (piece.metadata.namespace, piece.spec.pool.name) for piece in slices}
        return [PoolFault(namespace=namespace, name=name, uid=uid, message=whys[uid][:FAULT_CHARACTERS])
                for uid, (namespace, name) in named.items() if uid in whys]

    def _acknowledge(self, attached: Mapping[str, Attachment], faults: list[str], pool_faults: list[PoolFault],
                     findings: list[Finding]) -> None:
        """Reports what stands: the slices of the last write that succeeded, and what keeps the agent from more; nothing once the node is left.
        A server whose service ports could not be written is not reported as attached."""
        if self._leave.left:
            self._programmed, self._acknowledged, attached, findings = [], ProgrammedSlices(), {}, []
        programmed = {(found.pod_uid, found.address) for piece in self._programmed for found in piece.spec.assignments}
        standing = {address: found if found.pod is None or (found.pod.uid, address) in programmed else replace(found, roles=found.roles & Role.CLIENT)
                    for address, found in attached.items()}
        report = node_report(self._about, self._acknowledged, standing, Troubles(faults, pool_faults, findings), self._report,
                             datetime.now(UTC), self._leave.condition)
        if report != self._report:
            self._report = report
            self._reporter.report(report)

    def _trace(self, slices: list[ServicePortSlice], started_ns: int, ended_ns: int, writes: int) -> None:
        """A span under each reconcile that wrote a slice which was programmed now."""
        written: dict[str, list[str]] = {}
        for piece in slices:
            if self._generations.get(piece.metadata.uid) != piece.metadata.generation:
                traceparent = piece.metadata.annotations.get(TRACEPARENT_ANNOTATION, "")
                written.setdefault(traceparent, []).append(f"{piece.metadata.namespace}/{piece.metadata.name}")
        self._generations = {piece.metadata.uid: piece.metadata.generation for piece in slices}
        for traceparent, names in written.items():
            self._telemetry.tables.table_write(traceparent, names, started_ns, ended_ns, writes)

    def _tell_events(self, pods: list[LocalPod], attached: Mapping[str, Attachment], refusals: Mapping[str, Finding], now: datetime) -> None:
        told = set()
        late = untimely((pod for pod in pods if pod.reference not in refusals), self._attached_at, now, self._late_s)
        for pod, reason, message in (*late, *policed(pods, attached), *refused(pods, refusals)):
            told.add((pod.uid, reason))
            if (pod.uid, reason) not in self._told:
                self._reporter.tell(event(pod, self._node, reason, message, now))
        self._told = told

    def _measure(self, since_s: float | None, ended_s: float, writes: int | None, changed: int, faults: list[str]) -> None:
        progress = self.progress
        progress.rounds += 1
        progress.ready = progress.ready or writes is not None
        progress.failures += bool(faults or self._tables.faults)
        progress.writes += (writes or 0) + changed
        if since_s is None or not (writes or changed):
            return
        progress.last_latency_s = ended_s - since_s
        progress.latency_sum_s += progress.last_latency_s
        progress.latencies += 1
        self._log.info("tables written", writes=writes, pods_changed=changed, event_to_write_ms=round(progress.last_latency_s * 1000, 2))

"""Puts the agent together and takes it apart. SIGTERM ends the process and nothing else: programs and maps go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import structlog
from wharfinger_api import GROUP, PLURALS, UNINSTALL_MARKER, VERSION, ApiError, NetworkPolicy, ServicePortSlice, network_policy, parse

from wharfinger_dataplane import telemetry
from wharfinger_dataplane._records import SETTING_FULL
from wharfinger_dataplane.agent.access import NoAccess
from wharfinger_dataplane.agent.cluster import Cluster, Json
from wharfinger_dataplane.agent.desired import LocalPod, local_pod
from wharfinger_dataplane.agent.flows import FLOWS, Collector, Pass, is_full
from wharfinger_dataplane.agent.gone import Ender, gone_servers
from wharfinger_dataplane.agent.health import Health, Metric
from wharfinger_dataplane.agent.heartbeat import Heartbeat
from wharfinger_dataplane.agent.leave import Leave, Marker, read_marker
from wharfinger_dataplane.agent.log import configure
from wharfinger_dataplane.agent.metrics import agent_metrics, kernel_metrics
from wharfinger_dataplane.agent.moves import Asker, draining
from wharfinger_dataplane.agent.namespaces import Namespaces
from wharfinger_dataplane.agent.reflector import Misread, Reflector
from wharfinger_dataplane.agent.report import About, Reporter
from wharfinger_dataplane.agent.room import capacities, memory_bytes
from wharfinger_dataplane.agent.settings import SettingError, Settings, settings_from
from wharfinger_dataplane.agent.watcher import NodeReader, Watcher
from wharfinger_dataplane.agent.worker import Sources, Worker
from wharfinger_dataplane.attach import Attacher
from wharfinger_dataplane.kernel import Kernel

STUCK_S = 60.0
PORT_RETRY_S = 0.2
CLOSE_S = 0.5
SLICES = f"/apis/{GROUP}/{VERSION}/{PLURALS['ServicePortSlice']}"
PODS = "/api/v1/pods"
POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"


def agent_version() -> str:
    """The distribution's version; "0" from a source tree."""
    try:
        return version("wharfinger")
    except PackageNotFoundError:
        return "0"


def read_slice(raw: Json) -> ServicePortSlice:
    """A slice. Misread when it is none; its former version then stays programmed, and acknowledged as such."""
    try:
        return parse(raw)
    except ApiError as error:
        raise Misread(str(error)) from error


def read_policy(raw: Json) -> NetworkPolicy:
    """A policy. Misread when it is none."""
    try:
        return network_policy(raw)
    except ApiError as error:
        raise Misread(str(error)) from error


class Agent:
    """One node's agent, put together: `run` until `stop`."""

    def __init__(self, settings: Settings, tracing: telemetry.Telemetry, cluster: Cluster) -> None:
        self._settings, self._telemetry = settings, tracing
        self._log = structlog.get_logger()
        self._health = self._bind_health()
        self.kernel = Kernel.open(settings.bpffs, {**capacities(memory_bytes()), **dict(settings.capacities)})
        self.kernel.trace(tracing.key, tracing.sampling.traced)
        self._attacher = Attacher(self.kernel.programs, self.kernel.links, settings.attach_mode)
        self._namespaces = Namespaces(settings.netns_directory)
        self._slices: Reflector[ServicePortSlice] = Reflector(cluster, SLICES, {}, read_slice, self._wake)
        mine = {"fieldSelector": f"spec.nodeName={settings.node}"}
        self._pods: Reflector[LocalPod] = Reflector(cluster, PODS, mine, local_pod, self._wake)
        self._policies: Reflector[NetworkPolicy] = Reflector(cluster, POLICIES, {}, read_policy, self._wake)
        self._heartbeat = Heartbeat(cluster, settings.node, settings.namespace, settings.lease_period_s, settings.lease_duration_s,
                                    self._node_learned)
        self._reader = NodeReader(settings.uplinks, lambda: self._heartbeat.node_addresses, self._namespaces)
        self._reporter = Reporter(cluster, settings.node)
        self._collector = Collector(self.kernel, self._namespaces, self._told, int(settings.flow_idle_s * 1e9))
        self._markers: Reflector[Marker] = Reflector(cluster, f"/api/v1/namespaces/{settings.namespace}/configmaps",
                                                     {"fieldSelector": f"metadata.name={UNINSTALL_MARKER}"}, read_marker, self._wake)
        self._ender = Ender(self.kernel, self._namespaces)
        self._asker = Asker(self.kernel)
        about = About(agent_version(), os.uname().release, settings.attach_mode, self._attacher.mode)
        self._worker = Worker(settings.node, about, settings.late_s,
                              Sources(self._slices, self._pods, self._policies, self._namespaces, self._reader, self._markers), self.kernel,
                              self._attacher, self._collector, Leave(self.kernel, self._attacher, self._namespaces), self._reporter, tracing,
                              self._programmed)
        self._watcher = Watcher(self._namespaces, self._reader, lambda: self._worker.claimed, self._wake, self._worker.suspect,
                                self.kernel.outdate)
        self._last = Pass()
        self._full = False
        self._collected = {"moved": 0, "removed": 0}
        self._stop = threading.Event()
        self._roused = threading.Event()
        self._drains = threading.Event()

    def run(self) -> None:
        """Everything, in this and other threads, until `stop`."""
        self._worker.adopt()
        for part in (self._watcher, self._slices, self._pods, self._policies, self._markers, self._reporter, self._heartbeat, self._health):
            part.start()
        threading.Thread(target=self._collect, name="collector", daemon=True).start()
        threading.Thread(target=self._ask, name="asker", daemon=True).start()
        if self._telemetry.sampling.wanted:
            self._telemetry.follow(self.kernel.ring())
        self._log.info("started", node=self._settings.node, health_port=self._health.port)
        self._worker.run()
        for part in (self._watcher, self._slices, self._pods, self._policies, self._markers, self._reporter, self._heartbeat, self._health):
            part.stop()
        self._telemetry.close(CLOSE_S)

    def stop(self) -> None:
        """Ends `run`; may be called from a signal's handler."""
        self._stop.set()
        self._roused.set()
        self._drains.set()
        self._worker.stop()

    @property
    def health_port(self) -> int:
        return self._health.port

    def _bind_health(self) -> Health:
        """The health port is also the fence: two agents never work on one node, so a port that is taken is waited for."""
        waited = False
        while True:
            try:
                return Health(self._settings.health_port, {"/healthz": self._alive, "/readyz": self._ready}, self._metrics)
            except OSError as error:
                if not waited:
                    self._log.warning("health port is taken: waiting for the other agent's end", port=self._settings.health_port,
                                      error=str(error))
                waited = True
                time.sleep(PORT_RETRY_S)

    def _wake(self) -> None:
        self._worker.wake()

    def _programmed(self, slices: list[ServicePortSlice]) -> None:
        if self._ender.say(gone_servers(slices)):
            self._roused.set()
        if self._asker.say(draining(self._settings.node, slices)):
            self._drains.set()

    def _node_learned(self) -> None:
        self._reader.changed()
        self._worker.wake()

    def _told(self, address: str) -> bool:
        return not self._pods.synced or any(address in pod.addresses for pod in self._pods.objects())

    def _alive(self) -> tuple[bool, str]:
        silent_s = time.monotonic() - self._worker.progress.alive_s
        return silent_s < STUCK_S, f"the loop ran {silent_s:.1f} s ago"

    def _ready(self) -> tuple[bool, str]:
        ready = self._worker.progress.ready
        return ready, "tables are written" if ready else "slices, pods and policies are not listed, or the tables are not written, yet"

    def _metrics(self) -> list[Metric]:
        entries = {FLOWS: self._last.seen, **self._worker.counts()}
        return [*kernel_metrics(self.kernel),
                *agent_metrics(self._worker.progress, self._attacher, entries, self.kernel, self._collected, self._ender.ended, self._asker.asked,
                               self._telemetry.counters())]

    def _collect(self) -> None:
        while True:
            self._roused.wait(self._settings.gc_period_s)
            self._roused.clear()
            if self._stop.is_set():
                return
            if not self._worker.progress.ready:
                continue
            try:
                self._ender.end()
            except OSError as error:
                self._log.warning("connections to servers that are gone not ended", error=str(error))
            try:
                self._last = self._collector.collect(time.monotonic_ns())
            except OSError as error:
                self._log.warning("flows not collected", error=str(error))
                continue
            self._full = is_full(self._last.seen, self.kernel.capacity(FLOWS), self._full)
            self.kernel.set(SETTING_FULL, int(self._full))
            self._collected = {"moved": self._collected["moved"] + self._last.moved,
                               "removed": self._collected["removed"] + self._last.removed}

    def _ask(self) -> None:
        while True:
            self._drains.wait(self._asker.pause_s if self._asker.wanted else None)
            self._drains.clear()
            if self._stop.is_set():
                return
            try:
                self._asker.ask()
            except OSError as error:
                self._log.warning("clients of servers that drain not asked to move", error=str(error))


def end_with_thread(failure: threading.ExceptHookArgs) -> None:
    """An agent that lacks a thread would look alive: it ends, and its successor adopts what runs."""
    structlog.get_logger().critical("thread failed", thread=failure.thread.name if failure.thread else "", exc_info=failure.exc_value)
    os._exit(1)


def main(environment: Mapping[str, str] = os.environ) -> None:
    """The process: `python -m wharfinger_dataplane.agent`."""
    try:
        settings = settings_from(environment)
        tracing_settings = telemetry.settings_from(environment)
    except (SettingError, telemetry.TelemetryError) as error:
        sys.exit(f"wharfinger agent: {error}")
    configure(settings.log_level)
    threading.excepthook = end_with_thread
    tracing = telemetry.start(tracing_settings, settings.node, agent_version())
    try:
        cluster = Cluster.connect(environment)
    except NoAccess as error:
        sys.exit(f"wharfinger agent: {error}")
    agent = Agent(settings, tracing, cluster)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    agent.run()

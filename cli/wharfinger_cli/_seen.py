"""What was read of a cluster, at one moment: the input of every builder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wharfinger_api import NodeReport, RedirectPortPool, ServicePortPool, ServicePortSlice

RELEASE = "app.kubernetes.io/name=wharfinger"
"""Selects everything that the chart makes."""
COMPONENT = "app.kubernetes.io/component"
REPORTED_CLIENTS = 1000
"""A NodeReport lists so many clients at most (crds/nodereports.yaml)."""


@dataclass(frozen=True)
class Workload:
    """A Deployment or DaemonSet of the release. `component` is operator, injector or agent; `version` the chart's appVersion."""

    kind: str
    namespace: str
    name: str
    component: str
    version: str
    wanted: int
    ready: int


@dataclass(frozen=True)
class AgentPod:
    """A pod of the agents' DaemonSet. `trouble` is a waiting container's reason (CrashLoopBackOff, ErrImagePull), if any."""

    namespace: str
    name: str
    node: str
    ready: bool
    trouble: str = ""


@dataclass(frozen=True)
class AgentLease:
    """A node's heartbeat. `renewed` is None when it was never renewed."""

    node: str
    renewed: datetime | None
    duration_s: int


@dataclass(frozen=True)
class Pools:
    """What users wrote and what the operator and the agents made of it."""

    services: tuple[ServicePortPool, ...] = ()
    redirects: tuple[RedirectPortPool, ...] = ()
    slices: tuple[ServicePortSlice, ...] = ()
    reports: tuple[NodeReport, ...] = ()


@dataclass(frozen=True)
class Installation:
    """The release's own objects, and the API server's clock."""

    now: datetime
    nodes: tuple[str, ...] = ()
    workloads: tuple[Workload, ...] = ()
    agents: tuple[AgentPod, ...] = ()
    leases: tuple[AgentLease, ...] = ()

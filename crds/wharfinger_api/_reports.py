"""NodeReport: what one node's agent says it has done (crds/nodereports.yaml)."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from ._base import Condition, Model, Resource, Timestamp
from ._slices import ServicePortSlice


class SliceVersion(Model):
    """A slice, and the resourceVersion of it that is programmed; empty when none is."""

    namespace: str
    name: str
    uid: str
    version: str = ""


class ProgrammedSlices(Model):
    """What is programmed of the slices: all as of resourceVersion `version`, but for `exceptions` (`except` in JSON)."""

    version: str = "0"
    exceptions: tuple[SliceVersion, ...] = Field(default=(), alias="except")

    def has(self, piece: ServicePortSlice) -> bool:
        """Whether the slice is programmed as it stands."""
        exception = next((entry for entry in self.exceptions if entry.uid == piece.metadata.uid), None)
        return int((self if exception is None else exception).version or -1) >= piece.version


class AttachedPod(Model):
    """A pod (namespace/name) or static server whose translator is attached. `uid` is empty for a static server; `policy` names the
    NetworkPolicy (namespace/name) that keeps its new connections unaware, if one does."""

    pod: str
    uid: str = ""
    address: str = ""
    policy: str = ""


class PoolFault(Model):
    """A ServicePortPool that the node cannot program as it stands: what it had goes on. `message`: what is wrong and the remedy."""

    namespace: str
    name: str
    uid: str
    message: str


class Fallback(Model):
    """Something that the node's kernel has not, and what the agent does without it. `message`: also what that means."""

    name: str
    message: str


class Effect(StrEnum):
    """What follows from a finding: pods without a translator, packets that take the stack, or nothing but that it is so."""

    REFUSED = "Refused"
    STACK = "Stack"
    NOTED = "Noted"


class Finding(Model):
    """What else is at work on the node, and what follows for our packets. `where`: a pod, an interface or the node; `reason` is for programs,
    `message` and `remedy` are for people."""

    effect: Effect
    where: str
    reason: str
    message: str
    remedy: str


class NodeReportStatus(Model):
    """What the node's data plane holds. `attach_mode` is empty in reports of agents that did not say it yet."""

    agent_version: str = ""
    kernel: str = ""
    attach_mode: str = ""
    fallbacks: tuple[Fallback, ...] = ()
    slices: ProgrammedSlices = ProgrammedSlices()
    servers: tuple[AttachedPod, ...] = ()
    clients: tuple[AttachedPod, ...] = ()
    faults: tuple[PoolFault, ...] = ()
    findings: tuple[Finding, ...] = ()
    updated_at: Timestamp | None = None
    conditions: tuple[Condition, ...] = ()


class NodeReport(Resource):
    """Kind NodeReport; the name is the node's."""

    status: NodeReportStatus = NodeReportStatus()

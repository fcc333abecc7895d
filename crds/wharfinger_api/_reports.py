"""NodeReport: what one node's agent says it has done (crds/nodereports.yaml)."""

from __future__ import annotations

from ._base import Condition, Model, Resource, Timestamp


class ProgrammedSlice(Model):
    """A slice whose tables are programmed on the node, and the generation of it."""

    namespace: str
    name: str
    uid: str
    generation: int


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


class NodeReportStatus(Model):
    """What the node's data plane holds."""

    agent_version: str = ""
    slices: tuple[ProgrammedSlice, ...] = ()
    servers: tuple[AttachedPod, ...] = ()
    clients: tuple[AttachedPod, ...] = ()
    faults: tuple[PoolFault, ...] = ()
    updated_at: Timestamp | None = None
    conditions: tuple[Condition, ...] = ()


class NodeReport(Resource):
    """Kind NodeReport; the name is the node's."""

    status: NodeReportStatus = NodeReportStatus()

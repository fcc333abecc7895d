"""ServicePortSlice: what the operator writes and agents compile their tables from (crds/serviceportslices.yaml)."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from ._base import Model, PortNumber, PortRange, Resource, Timestamp
from ._pools import Moves, Policy, Protocol


class AssignmentState(StrEnum):
    """Life of an assignment (docs/architecture.md, "Make before break")."""

    ASSIGNED = "Assigned"
    READY = "Ready"
    DRAINING = "Draining"
    RESTING = "Resting"


class PoolRef(Model):
    """The ServicePortPool that a slice is part of, in the slice's namespace. `deleted_at`: when it was seen deleted."""

    name: str
    uid: str
    generation: int
    deleted_at: Timestamp | None = None


class Redirect(Model):
    """One redirect port pool, as agents need it; the same in each slice of the pool."""

    name: str
    generation: int
    protocol: Protocol = "TCP"
    ports: tuple[PortRange, ...]
    target: str
    policy: Policy = "Hash"


class TargetPorts(Model):
    """Service ports of one server for one target, and the port its application listens on."""

    name: str
    protocol: Protocol = "TCP"
    target_port: PortNumber
    service_ports: tuple[PortNumber, ...]


class Assignment(Model):
    """Service ports of one server. They never change; a server that gets more has further assignments.

    `server` is namespace/name of a pod or a static server's name; `pod_uid` is empty for a static server; `since` is the moment in which
    `state` was entered, `since_version` a resourceVersion of the slice at which it stood already: empty until the slice is written again.
    `leaving`: it drains as its pod terminates, or is none of the pool's servers any more, so that its connections may be moved.
    """

    server: str
    address: str
    node: str | None = None
    pod_uid: str = Field(default="", alias="podUID")
    state: AssignmentState
    since: Timestamp
    since_version: str = ""
    leaving: bool = False
    redirects: tuple[str, ...] = ()
    targets: tuple[TargetPorts, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """All service ports, of all targets."""
        return tuple(port for target in self.targets for port in target.service_ports)


class ServicePortSliceSpec(Model):
    """Complete: an agent needs no other object."""

    pool: PoolRef
    scope: int = Field(ge=1, le=0xFFFFFFFF)
    forwarding_mode: str = "Network"
    moves: Moves = Moves()
    virtual_addresses: tuple[str, ...]
    redirects: tuple[Redirect, ...] = ()
    assignments: tuple[Assignment, ...] = ()


class ServicePortSlice(Resource):
    """Kind ServicePortSlice. Agents acknowledge by metadata.resourceVersion, which the API server orders over all slices."""

    spec: ServicePortSliceSpec

    @property
    def version(self) -> int:
        """metadata.resourceVersion as a number; 0 when it was not read."""
        return int(self.metadata.resource_version or 0)

    def version_of(self, record: Assignment) -> int:
        """A version of the slice from which on the record is in its state: its own at most, whatever a slice from elsewhere says."""
        return min(int(record.since_version or self.version), self.version)

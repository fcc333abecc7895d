"""ServicePortPool and RedirectPortPool: what users write (crds/serviceportpools.yaml, crds/redirectportpools.yaml)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from ._base import Condition, Model, PortNumber, PortRange, Resource

Protocol = Literal["TCP", "UDP"]
Policy = Literal["Hash", "Random", "RoundRobin"]
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(duration: str) -> float:
    """Seconds of a duration such as 60s or 1h30m (GEP-2257: up to four of h, m, s, ms). ValueError for anything else."""
    if not re.fullmatch(r"([0-9]{1,5}(h|m|s|ms)){1,4}", duration):
        raise ValueError(f"{duration!r} is not a duration: write 60s, 5m or 1h30m")
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)(ms|h|m|s)", duration))


class NamedService(Model):
    """A Service of the same namespace."""

    name: str


class VirtualAddresses(Model):
    """Exactly one of `service` (its cluster IPs) and `literal`."""

    service: NamedService | None = None
    literal: tuple[str, ...] | None = None


class MatchExpression(Model):
    """One requirement on labels (metav1.LabelSelectorRequirement)."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels meets it; one without the key meets NotIn and DoesNotExist."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case _:
                return value is None


class LabelSelector(Model):
    """metav1.LabelSelector. An empty one holds for every object; what a pool's empty selector means is the operator's affair."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: tuple[MatchExpression, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether it selects an object with these labels."""
        return (all(labels.get(key) == value for key, value in self.match_labels.items())
                and all(expression.holds(labels) for expression in self.match_expressions))


class StaticServer(Model):
    """A server by name and address. Without `node` no agent can confirm it."""

    name: str
    address: str
    node: str | None = None


class ServerSource(Model):
    """Exactly one of `service`, `selector` and `static`."""

    service: NamedService | None = None
    selector: LabelSelector | None = None
    static: tuple[StaticServer, ...] | None = None


class Target(Model):
    """A port of the servers' application: a number, or a container port's name."""

    name: str
    target_port: PortNumber | Annotated[str, Field(max_length=15)]
    protocol: Protocol = "TCP"
    ports_per_server: int = Field(default=1, ge=1, le=16)


class Pinned(Model):
    """The service ports of one server for one target."""

    server: str
    target: str
    ports: tuple[PortNumber, ...]


class Moves(Model):
    """How established connections may be moved. `on_drain`: a server that drains asks its clients to move."""

    mode: Literal["Never", "Close"] = "Never"
    on_drain: bool = False


class ServicePortPoolSpec(Model):
    """Which numbers of which virtual addresses are shared out among which servers."""

    virtual_addresses: VirtualAddresses
    port_ranges: tuple[PortRange, ...]
    servers: ServerSource
    targets: tuple[Target, ...]
    pinned: tuple[Pinned, ...] = ()
    forwarding_mode: Literal["Network"] = "Network"
    rest_time: str = "60s"
    surge_percent: int = Field(default=25, ge=0, le=400)
    moves: Moves = Moves()

    @property
    def rest_seconds(self) -> float:
        """restTime in seconds."""
        return seconds(self.rest_time)


class PortCounts(Model):
    """Numbers of service ports: total = used + resting + free."""

    total: int = 0
    used: int = 0
    resting: int = 0
    free: int = 0


class ServerCounts(Model):
    """Numbers of servers by the state of their assignments."""

    assigned: int = 0
    ready: int = 0
    draining: int = 0


class ServicePortPoolStatus(Model):
    """`scope` is the pool's number on the wire, 1 to 2**32-1; None until it was given one."""

    observed_generation: int = 0
    scope: int | None = None
    virtual_addresses: tuple[str, ...] = ()
    ports: PortCounts = PortCounts()
    servers: ServerCounts = ServerCounts()
    conditions: tuple[Condition, ...] = ()


class ServicePortPool(Resource):
    """Kind ServicePortPool."""

    spec: ServicePortPoolSpec
    status: ServicePortPoolStatus = ServicePortPoolStatus()


class ServerSubset(Model):
    """Exactly one of `match_labels` (of the server's pod) and `names` (of pods or static servers)."""

    match_labels: dict[str, str] | None = None
    names: tuple[str, ...] | None = None


class RedirectPortPoolSpec(Model):
    """Which ports of a service port pool's addresses are shared by which of its servers."""

    service_port_pool: NamedService
    target: str
    ports: tuple[PortRange, ...]
    protocol: Protocol = "TCP"
    policy: Policy = "Hash"
    servers: ServerSubset | None = None
    unaware: Literal["PassThrough"] = "PassThrough"


class RedirectServerCounts(Model):
    """`ready`: servers that new connections may be sent to."""

    ready: int = 0


class RedirectPortPoolStatus(Model):
    """What the operator found and did."""

    observed_generation: int = 0
    virtual_addresses: tuple[str, ...] = ()
    servers: RedirectServerCounts = RedirectServerCounts()
    conditions: tuple[Condition, ...] = ()


class RedirectPortPool(Resource):
    """Kind RedirectPortPool."""

    spec: RedirectPortPoolSpec
    status: RedirectPortPoolStatus = RedirectPortPoolStatus()

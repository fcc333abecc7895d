"""What of a plan does not stand yet. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from wharfinger_api import RedirectPortPool, ServicePortPool, ServicePortSlice

from .plan import Plan, SliceWanted, StatusWanted
from .records import Key


@dataclass(frozen=True, slots=True)
class PoolChange:
    """What is to be written for one pool."""

    pool: ServicePortPool
    writes: list[SliceWanted] = field(default_factory=list)
    deletions: list[ServicePortSlice] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Difference:
    """What is to be written. Empty when the plan stands already."""

    pools: tuple[PoolChange, ...]
    statuses: tuple[StatusWanted, ...]

    def __bool__(self) -> bool:
        return bool(self.pools or self.statuses)


def difference(plan: Plan) -> Difference:
    """What of `plan` does not stand yet."""
    changes: dict[str, PoolChange] = {}
    for item in plan.slices:
        if item.piece is None or not item.piece.metadata.uid or item.piece.spec != item.spec:
            changes.setdefault(item.pool.metadata.uid, PoolChange(item.pool)).writes.append(item)
    pools = {item.pool.metadata.uid: item.pool for item in plan.slices}
    for piece in plan.superfluous:
        pool = pools[piece.spec.pool.uid]
        changes.setdefault(pool.metadata.uid, PoolChange(pool)).deletions.append(piece)
    statuses = tuple(item for item in plan.statuses if item.resource.status != item.status)
    return Difference(tuple(changes.values()), statuses)


def pool_of(resource: ServicePortPool | RedirectPortPool) -> Key:
    """The name of the service port pool that `resource` is, or refers to."""
    if isinstance(resource, ServicePortPool):
        return resource.key
    return resource.metadata.namespace, resource.spec.service_port_pool.name

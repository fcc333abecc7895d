"""Names for numbers: whose address, whose scope. The agent feeds it from what it watches anyway; spans only look up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from wharfinger_api import ServicePortSlice

DEPARTED_MAX = 4096


@dataclass(frozen=True)
class PodName:
    """Who has an address: `name` is namespace/name of a pod, or a static server's name; `node` is empty when unknown."""

    address: str
    name: str
    node: str = ""


@dataclass(frozen=True)
class PoolName:
    """Which pool a scope is: `name` is namespace/name."""

    name: str
    virtual_addresses: tuple[str, ...]


class Names:
    """Address -> PodName, scope -> PoolName. An address that has gone keeps its last name until another pod has it, for the last record
    of a connection comes when its pod has ended; the last 4096 of them are remembered."""

    def __init__(self) -> None:
        self._pods: dict[str, PodName] = {}
        self._departed: OrderedDict[str, PodName] = OrderedDict()
        self._pools: dict[int, PoolName] = {}
        self.version = object()
        """Another one after each update: what was asked before it may have changed."""

    def update(self, slices: Iterable[ServicePortSlice], pods: Iterable[PodName]) -> None:
        """Replaces what is known by all slices of the cluster and all pods that the agent sees; a pod's own name goes before a slice's."""
        pools: dict[int, PoolName] = {}
        known: dict[str, PodName] = {}
        for piece in slices:
            pools[piece.spec.scope] = PoolName(f"{piece.metadata.namespace}/{piece.spec.pool.name}", piece.spec.virtual_addresses)
            for assignment in piece.spec.assignments:
                known[assignment.address] = PodName(assignment.address, assignment.server, assignment.node or "")
        known.update((pod.address, pod) for pod in pods)
        before = self._pods
        for address in before.keys() - known.keys():
            self._departed[address] = before[address]
            self._departed.move_to_end(address)
        self._pods, self._pools = known, pools  # at no moment is an address in neither: another thread looks up
        for address in self._departed.keys() & known.keys():
            del self._departed[address]
        while len(self._departed) > DEPARTED_MAX:
            self._departed.popitem(last=False)
        self.version = object()

    def pod(self, address: str | None) -> PodName | None:
        """Who has, or last had, `address`."""
        return None if address is None else self._pods.get(address) or self._departed.get(address)

    def pool(self, scope: int) -> PoolName | None:
        return self._pools.get(scope)

    def virtual_address(self, scope: int) -> str | None:
        """The pool's virtual address when it has exactly one: the server's side does not see which was dialled."""
        pool = self._pools.get(scope)
        return pool.virtual_addresses[0] if pool and len(pool.virtual_addresses) == 1 else None

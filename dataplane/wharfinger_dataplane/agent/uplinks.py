"""Which interfaces lead to the network: pure, from what the node's own tables say."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from wharfinger_dataplane.netlink import Interface, Route


def uplinks(interfaces: Iterable[Interface], routes: Iterable[Route], names: Collection[str],
            node_addresses: Collection[str]) -> frozenset[int]:
    """Indexes of the node's uplinks: those called `names`, or when that is empty, those that carry an address of the node, or by which a
    route leads to a gateway (the default route, and those to other nodes' pods). Interfaces without Ethernet headers are left out: the
    programs read one."""
    ethernet = {found.index: found for found in interfaces if found.ethernet}
    if names:
        return frozenset(index for index, found in ethernet.items() if found.name in names)
    leading = {route.interface for route in routes if route.gateway or not route.destination}
    carrying = {index for index, found in ethernet.items() if not set(node_addresses).isdisjoint(found.addresses)}
    return frozenset((leading | carrying) & ethernet.keys())

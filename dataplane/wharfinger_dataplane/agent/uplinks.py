"""Which interfaces lead to the network: pure, from what the node's own tables say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from wharfinger_dataplane.netlink import Interface, Route


def uplinks(interfaces: Iterable[Interface], routes: Iterable[Route], names: Collection[str],
            node_addresses: Collection[str], pods: Collection[int] = ()) -> frozenset[int]:
    """Indexes of the node's uplinks: those called `names`, or when that is empty, those that carry an address of the node, or by which a
    route leads to a gateway (the default route, and those to other nodes' pods). Interfaces without Ethernet headers are left out: the
    programs read one. `pods`: the host's sides of pods' interfaces. A pod may be a gateway, as VPNs' are, and makes no uplink of its
    interface, nor of a bridge that leads to pods alone."""
    ethernet = {found.index: found for found in interfaces if found.ethernet}
    if names:
        return frozenset(index for index, found in ethernet.items() if found.name in names)
    leading = {route.interface for route in routes if route.gateway or not route.destination}
    carrying = {index for index, found in ethernet.items() if not set(node_addresses).isdisjoint(found.addresses)}
    return frozenset((leading - _bridges_of(pods, ethernet) | carrying) & ethernet.keys() - set(pods))


def _bridges_of(pods: Collection[int], interfaces: Mapping[int, Interface]) -> set[int]:
    """What these pods' interfaces are ports of, and no interface that leads elsewhere is."""
    shared = {found.master for found in interfaces.values() if found.index not in pods and not found.leads_to_a_pod}
    return {interfaces[index].master for index in pods if index in interfaces} - shared

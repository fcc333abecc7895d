"""What of the node decides which ways packets may take, as the kernel says it: read in the calling thread's
network namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wharfinger_dataplane import netlink, netlink_node
from wharfinger_dataplane.netlink import Interface, Route
from wharfinger_dataplane.netlink_node import Chain, Filter, Rule

LOOSE = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")


@dataclass(frozen=True)
class Surroundings:
    """`interfaces` by index; `routes_by_service`: destinations of routes for one type of service; `qdiscs`:
    interface -> `clsact` or `ingress`; `filters`: all classic ones in these, ours too; `strict`: interfaces
    whose reverse-path filter is strict; `ipsec_policies`: how many the node has; `chains`: nftables' at
    ingresses; `picks_up`: whether connection tracking takes a connection of which it did not see the
    beginning."""

    interfaces: Mapping[int, Interface] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    routes_by_service: tuple[str, ...] = ()
    qdiscs: Mapping[int, str] = field(default_factory=dict)
    filters: tuple[Filter, ...] = ()
    strict: frozenset[int] = frozenset()
    ipsec_policies: int = 0
    chains: tuple[Chain, ...] = ()
    picks_up: bool = True


def look() -> Surroundings:
    """The node as it is now. OSError when the kernel does not tell."""
    qdiscs = netlink_node.qdiscs()
    return Surroundings(
        interfaces={found.index: found for found in netlink.interfaces()},
        routes=tuple(netlink.routes()),
        rules=tuple(netlink_node.rules()),
        routes_by_service=tuple(netlink_node.routes_by_service()),
        qdiscs=qdiscs,
        filters=tuple(found for index, kind in qdiscs.items() for found in netlink_node.filters(index, kind)),
        strict=netlink_node.strict(),
        ipsec_policies=netlink_node.ipsec_policies(),
        chains=tuple(netlink_node.ingress_chains()),
        picks_up=_picks_up(),
    )


def _picks_up() -> bool:
    try:
        return LOOSE.read_text().strip() != "0"
    except FileNotFoundError:  # there is no connection tracking
        return True

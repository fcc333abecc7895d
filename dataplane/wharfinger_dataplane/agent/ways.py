"""Which interfaces packets may be sent to past the node's stack, and which pods and uplinks bear our programs
at all: pure.

Rules:
- Nothing of others is passed by: no policy of IPsec, no queueing discipline or classic filter at an ingress,
  no rule or route that a look-up by a program does not follow. What would be is left to the stack, or not attached to,
  and told.
- Both directions of a connection go the same way, or connection tracking sees half of it. So an uplink bears
  wharf_from_net exactly when it is sent to directly, and when the way to one pod is not direct, the whole
  node is left to the stack.
- What is attached to a pod stays: its open connections need the translator. Only a pod that has none is
  refused one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from wharfinger_api import Effect, Finding

from wharfinger_dataplane._records import InterfaceBit
from wharfinger_dataplane.agent.surroundings import Surroundings
from wharfinger_dataplane.attach import HOLD_PRIORITY, HOLDING, POD_PROGRAMS, PRIORITY, UPLINK_PROGRAMS
from wharfinger_dataplane.netlink_node import Filter

OURS = POD_PROGRAMS | UPLINK_PROGRAMS | set(HOLDING.values())
NODE = "the node"
NOT_NEEDED = "none is needed"
REMEDIES = {
    "FiltersOfOthers": "take it away (a limit: the annotation kubernetes.io/egress-bandwidth; a program: "
    "the release of its maker that attaches by tcx), or leave it so",
    "InterfaceKind": "give the pod a network whose interface is a veth, or do not inject it",
    "PortOfAnother": "if that is a bridge or a bond, name it as the uplink (chart value agent.uplinks)",
    "PortsOfAnother": f"{NOT_NEEDED}; to a plain bridge, or routes to pods' own interfaces, they go direct",
    "BridgeLeadsElsewhere": f"{NOT_NEEDED}; to a bridge of pods alone, or an uplink, they go direct",
    "NoEthernetHeader": f"{NOT_NEEDED}; VXLAN or routes in place of the tunnel would be direct",
    "IpsecPolicies": f"{NOT_NEEDED}; once there are no policies (ip xfrm policy), packets go direct again",
    "RulesNotFollowed": f"{NOT_NEEDED}; rules by address (from, to) and by incoming interface (iif) are followed",
    "RoutesByService": f"{NOT_NEEDED}; once there are none (ip route show table all), packets go direct again",
    "RulesByMark": f"{NOT_NEEDED}, unless pods' packets to pods are marked: agent.uplinks: [none] leaves the "
    "wire to the stack",
    "ProgramsBehindOurs": "if it must see all packets, attach it before ours (BPF_F_BEFORE)",
}
Attached = Mapping[int, frozenset[str]]
"""Interface index -> names of our programs there."""


@dataclass(frozen=True)
class Ways:
    """What the programs are told: each interface's bits, of a pod's at a bridge the bridge, by which its
    packets come in, and whether nothing goes past the stack. And what people are told."""

    bits: Mapping[int, InterfaceBit]
    incoming: Mapping[int, int]
    left_to_stack: bool
    findings: tuple[Finding, ...]


def refusals(node: Surroundings, pods: Collection[int], attached: Attached) -> dict[int, Finding]:
    """The interfaces among `pods` that get no program, and why."""
    others = _others_at_ingress(node)
    return {
        index: _finding(
            Effect.REFUSED,
            _name(node, index),
            "FiltersOfOthers",
            f"{others[index]} is at the ingress of its interface {_short(node, index)}; what our program "
            "sends on would pass it by, so the pod is unaware",
        )
        for index in pods
        if index in others and index not in attached
    }


def foreign_interface(kind: str) -> Finding:
    """A pod whose own interface is of a kind that has no host side to attach to."""
    return _finding(
        Effect.REFUSED,
        "",
        "InterfaceKind",
        f"its interface is of kind {kind or 'physical'}, and only a veth has a side at the node that bears "
        "programs, so the pod is unaware",
    )


def open_uplinks(node: Surroundings, uplinks: Iterable[int]) -> tuple[frozenset[int], tuple[Finding, ...]]:
    """The uplinks that shall bear wharf_from_net, and why packets by others are left to the stack."""
    others, found, findings = _others_at_ingress(node), set(), []
    for index in sorted(uplinks):
        master = node.interfaces[index].master if index in node.interfaces else 0
        if index in others:
            findings.append(
                _left(
                    node,
                    index,
                    "FiltersOfOthers",
                    f"{others[index]} is at its ingress, which packets sent on would pass by",
                )
            )
        elif master:
            findings.append(
                _left(
                    node,
                    index,
                    "PortOfAnother",
                    f"it is a port of {_short(node, master)}, which has the say over what it receives",
                )
            )
        else:
            found.add(index)
    return frozenset(found), (*findings, *_headerless(node))


def ways(node: Surroundings, attached: Attached, behind: Collection[int] = ()) -> Ways:
    """`attached`: our programs, as they were read back; `behind`: interfaces where programs of others come
    after ours."""
    uplinks = {index for index, names in attached.items() if names >= UPLINK_PROGRAMS}
    pods = sorted(
        index for index, names in attached.items() if names >= POD_PROGRAMS and index in node.interfaces
    )
    others = _others_at_ingress(node)
    leaving = [*_of_ipsec(node), *_of_rules(node, pods), *_of_services(node, pods)]
    leaving += [
        _left(
            node,
            index,
            "FiltersOfOthers",
            f"{others[index]} came to the ingress of a pod whose connections go on",
        )
        for index in pods
        if index in others
    ]
    bits: dict[int, InterfaceBit] = dict.fromkeys(uplinks & node.interfaces.keys(), InterfaceBit.DIRECT)
    for way in sorted({node.interfaces[index].master or index for index in pods}):
        wrong = None if way in pods or way in uplinks else _wrong_with(node, way, others)
        if wrong:
            leaving.append(wrong)
        else:
            bits[way] = InterfaceBit.DIRECT if way in uplinks else InterfaceBit.DIRECT | InterfaceBit.PODS
    for index in node.strict & node.interfaces.keys():
        if not node.interfaces[index].master:  # nobody asks for a port's own value
            bits[index] = bits.get(index, InterfaceBit(0)) | InterfaceBit.STRICT
    masters = {index: node.interfaces[index].master for index in pods}
    incoming = {index: master for index, master in masters.items() if _is_bridge(node, master)}
    return Ways(bits, incoming, bool(leaving), (*leaving, *_notes(node, pods, behind)))


def _is_bridge(node: Surroundings, index: int) -> bool:
    return index in node.interfaces and node.interfaces[index].kind == "bridge"


def _wrong_with(node: Surroundings, master: int, others: Mapping[int, str]) -> Finding | None:
    """Why packets to pods whose interfaces are ports of `master` are not sent to it past the stack."""
    found = node.interfaces.get(master)
    if found is None or found.kind != "bridge" or found.master:
        kind = found.kind or "physical" if found else "in another namespace"
        return _left(
            node,
            master,
            "PortsOfAnother",
            f"pods' interfaces are its ports, and it ({kind}) is no bridge to which routes lead",
        )
    if master in others:
        return _left(
            node,
            master,
            "FiltersOfOthers",
            f"{others[master]} is at its ingress, which pods' packets sent on would pass by",
        )
    astray = sorted(
        port.name for port in node.interfaces.values() if port.master == master and not port.leads_to_a_pod
    )
    if astray:
        return _left(
            node,
            master,
            "BridgeLeadsElsewhere",
            f"its port {astray[0]} leads to others than this node's pods",
        )
    return None


def _others_at_ingress(node: Surroundings) -> dict[int, str]:
    """Interface -> what of others is at its ingress, and is passed by when our program there sends a packet
    on."""
    chains = {
        index: f"nftables' chain {chain.name}"
        for chain in reversed(node.chains)
        for index, each in node.interfaces.items()
        if chain.is_at(each.name)
    }
    found = {
        each.interface: f"a {each.kind} filter{each.name and ' ' + each.name} (priority {each.priority})"
        for each in reversed(node.filters)
        if each.direction == "ingress" and not _is_ours(each)
    }
    return {
        **chains,
        **found,
        **{index: "an ingress qdisc" for index, kind in node.qdiscs.items() if kind == "ingress"},
    }


def _is_ours(found: Filter) -> bool:
    return found.kind == "bpf" and found.name in OURS and found.priority in (PRIORITY, HOLD_PRIORITY)


def _headerless(node: Surroundings) -> Iterator[Finding]:
    """Interfaces without an Ethernet header by which routes lead: tunnels of IPIP, WireGuard and their
    like."""
    leading = {route.interface for route in node.routes}
    for index, found in sorted(node.interfaces.items()):
        if index in leading and not found.ethernet and found.name != "lo":
            yield _left(
                node,
                index,
                "NoEthernetHeader",
                f"it ({found.kind or 'of no kind'}) has no Ethernet header, so it "
                "bears no program, and packets by it are left to the stack",
            )


def _of_ipsec(node: Surroundings) -> Iterator[Finding]:
    if node.ipsec_policies:
        yield _finding(
            Effect.STACK,
            NODE,
            "IpsecPolicies",
            f"it has {node.ipsec_policies} policies of IPsec (xfrm), which only "
            "the stack obeys, so nothing is sent past it",
        )


def _of_rules(node: Surroundings, pods: Collection[int]) -> Iterator[Finding]:
    """Rules that steer pods' packets and that a look-up by a program does not follow."""
    asked = {word for rule in node.rules for word in rule.unfollowed}
    if asked and pods:
        yield _finding(
            Effect.STACK,
            NODE,
            "RulesNotFollowed",
            f"routing rules ask for {', '.join(sorted(asked))}, which only "
            "the stack follows, so nothing is sent past it",
        )


def _of_services(node: Surroundings, pods: Collection[int]) -> Iterator[Finding]:
    """Routes for one type of service: a look-up by a program has none, nor has what a connection remembers."""
    if node.routes_by_service and pods:
        yield _finding(
            Effect.STACK,
            NODE,
            "RoutesByService",
            f"{len(node.routes_by_service)} routes are for one type of service, to {node.routes_by_service[0]} "
            "say, which only the stack follows, so nothing is sent past it",
        )


def _notes(node: Surroundings, pods: Collection[int], behind: Iterable[int]) -> Iterator[Finding]:
    if pods and any(rule.marked for rule in node.rules):
        yield _finding(
            Effect.NOTED,
            NODE,
            "RulesByMark",
            "routing rules ask for firewall marks; packets that are sent past "
            "the stack have none and are routed so",
        )
    for index in sorted(behind):
        yield _finding(
            Effect.NOTED,
            _name(node, index),
            "ProgramsBehindOurs",
            "a tcx program of somebody else comes after ours and does not see what ours sends on",
        )


def _left(node: Surroundings, index: int, reason: str, message: str) -> Finding:
    return _finding(Effect.STACK, _name(node, index), reason, message)


def _finding(effect: Effect, where: str, reason: str, message: str) -> Finding:
    return Finding(effect=effect, where=where, reason=reason, message=message, remedy=REMEDIES[reason])


def _name(node: Surroundings, index: int) -> str:
    return f"interface {_short(node, index)}"


def _short(node: Surroundings, index: int) -> str:
    return node.interfaces[index].name if index in node.interfaces else str(index)

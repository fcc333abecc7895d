"""Which interfaces packets may be sent to past the stack: each thing that stands against it, by itself."""

from dataclasses import replace

import pytest
from wharfinger_api import Effect
from wharfinger_dataplane._records import InterfaceBit
from wharfinger_dataplane.agent.surroundings import Surroundings
from wharfinger_dataplane.agent.ways import NODE, REMEDIES, foreign_interface, open_uplinks, refusals, ways
from wharfinger_dataplane.attach import HOLD_PRIORITY, POD_PROGRAMS, PRIORITY, UPLINK_PROGRAMS
from wharfinger_dataplane.netlink import Interface, Route
from wharfinger_dataplane.netlink_node import Chain, Filter, Rule

DIRECT, STRICT = InterfaceBit.DIRECT, InterfaceBit.STRICT
PODS = DIRECT | InterfaceBit.PODS
LO = Interface(1, "lo", "", False, 0, None)
ETH0 = Interface(2, "eth0", "", True, 0, None, ("172.30.0.11",))
CNI0 = Interface(3, "cni0", "bridge", True, 0, None, ("10.244.1.1",))
PORT = Interface(4, "v1", "veth", True, 2, 0, master=3)
OTHER = Interface(5, "v2", "veth", True, 2, 1, master=3)
ROUTED = Interface(6, "cali1", "veth", True, 2, 2)
TUNNEL = Interface(7, "tunl0", "ipip", False, 0, None)
BRIDGED = {2: UPLINK_PROGRAMS, 4: POD_PROGRAMS}
LIMIT = Filter(4, "ingress", "ingress", "u32", 49152)


def node(*interfaces, **changes):
    return Surroundings(
        **{
            "interfaces": {
                found.index: found for found in interfaces or (LO, ETH0, CNI0, PORT, OTHER, ROUTED)
            },
            **changes,
        }
    )


def reasons(found):
    return [(finding.effect, finding.where, finding.reason) for finding in found]


def test_an_uplink_and_a_bridge_of_pods_are_direct_and_the_bridges_ports_have_no_bit():
    made = ways(node(), BRIDGED)
    assert (made.bits, made.left_to_stack, made.findings) == ({2: DIRECT, 3: PODS}, False, ())


def test_a_pods_own_interface_is_direct_where_routes_lead_to_it():
    assert ways(node(), {2: UPLINK_PROGRAMS, 6: POD_PROGRAMS}).bits == {2: DIRECT, 6: PODS}


def test_without_programs_nothing_is_direct():
    assert ways(node(), {}).bits == {}


def test_half_of_a_pods_programs_do_not_count():
    assert ways(node(), {2: UPLINK_PROGRAMS, 6: frozenset({"wharf_from_pod"})}).bits == {2: DIRECT}


def test_an_interface_that_is_gone_has_no_bit():
    assert ways(node(), {99: UPLINK_PROGRAMS, 98: POD_PROGRAMS}).bits == {}


@pytest.mark.parametrize(
    "astray",
    [
        Interface(9, "eth1", "", True, 0, None, master=3),
        Interface(9, "vxlan1", "vxlan", True, 0, None, master=3),
        Interface(9, "vethwe-bridge", "veth", True, 10, None, master=3),
    ],
    ids=["hardware", "vxlan", "veth-at-home"],
)
def test_a_bridge_with_a_port_that_leads_elsewhere_leaves_the_node_to_the_stack(astray):
    made = ways(node(LO, ETH0, CNI0, PORT, astray), BRIDGED)
    assert (made.bits, made.left_to_stack) == ({2: DIRECT}, True)
    assert reasons(made.findings) == [(Effect.STACK, "interface cni0", "BridgeLeadsElsewhere")]


def test_a_bridge_that_is_an_uplink_is_direct_wherever_its_ports_lead():
    astray = Interface(9, "eth1", "", True, 0, None, master=3)
    made = ways(node(LO, CNI0, PORT, astray), {3: UPLINK_PROGRAMS, 4: POD_PROGRAMS})
    assert (made.bits, made.left_to_stack) == ({3: DIRECT}, False)


@pytest.mark.parametrize(
    "master",
    [
        Interface(3, "ovs-system", "openvswitch", True, 0, None),
        Interface(3, "vrf1", "vrf", True, 0, None),
        replace(CNI0, master=8),
    ],
    ids=["openvswitch", "vrf", "bridge-in-a-vrf"],
)
def test_pods_at_something_else_than_a_plain_bridge_leave_the_node_to_the_stack(master):
    made = ways(node(LO, ETH0, master, PORT), BRIDGED)
    assert made.left_to_stack
    assert reasons(made.findings) == [(Effect.STACK, f"interface {master.name}", "PortsOfAnother")]


def test_filters_of_others_at_a_bridge_of_pods_leave_the_node_to_the_stack():
    made = ways(node(qdiscs={3: "clsact"}, filters=(Filter(3, "ingress", "clsact", "u32", 1),)), BRIDGED)
    assert reasons(made.findings) == [(Effect.STACK, "interface cni0", "FiltersOfOthers")]
    assert (made.bits, made.left_to_stack) == ({2: DIRECT}, True)


@pytest.mark.parametrize(
    "what",
    [
        Filter(4, "egress", "clsact", "u32", 1),
        Filter(4, "ingress", "clsact", "bpf", PRIORITY, "wharf_from_pod", 7),
        Filter(4, "ingress", "clsact", "bpf", HOLD_PRIORITY, "wharf_hold_from_pod", 8),
    ],
    ids=["egress", "ours", "our-hold"],
)
def test_filters_at_an_egress_and_our_own_stand_against_nothing(what):
    found = node(qdiscs={4: "clsact"}, filters=(what,))
    assert refusals(found, {4}, {}) == {}
    assert ways(found, BRIDGED).findings == ()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            node(qdiscs={4: "ingress"}, filters=(LIMIT,)),
            "an ingress qdisc is at the ingress of its interface v1",
        ),
        (node(qdiscs={4: "ingress"}), "an ingress qdisc is at"),
        (
            node(chains=(Chain("guard in", "v1"), Chain("guard in", "gone"))),
            "nftables' chain guard in is at the ingress",
        ),
        (node(chains=(Chain("guard in", "v1", prefix=True),)), "nftables' chain guard in is at the ingress"),
        (
            node(qdiscs={4: "clsact"}, filters=(Filter(4, "ingress", "clsact", "bpf", 1, "cil_from"),)),
            "a bpf filter cil_from (priority 1)",
        ),
        (
            node(qdiscs={4: "clsact"}, filters=(Filter(4, "ingress", "clsact", "bpf", 1, "wharf_from_pod"),)),
            "a bpf filter wharf_from_pod (priority 1)",
        ),
    ],
    ids=["limit", "empty-qdisc", "chain", "chain-by-prefix", "program", "our-name-elsewhere"],
)
def test_a_pod_with_something_of_others_at_its_ingress_is_refused(what, words):
    [(index, finding)] = refusals(what, {4, 5}, {}).items()
    assert index == 4
    assert reasons([finding]) == [(Effect.REFUSED, "interface v1", "FiltersOfOthers")]
    assert words in finding.message


def test_a_chain_is_at_all_interfaces_whose_names_begin_so_and_at_no_other():
    assert set(refusals(node(chains=(Chain("guard in", "v", prefix=True),)), {4, 5, 6}, {})) == {4, 5}
    assert refusals(node(chains=(Chain("guard in", "v"),)), {4, 5, 6}, {}) == {}


def test_a_pod_that_has_programs_already_keeps_them_and_the_node_is_left_to_the_stack():
    found = node(qdiscs={4: "ingress"}, filters=(LIMIT,))
    assert refusals(found, {4}, BRIDGED) == {}
    made = ways(found, BRIDGED)
    assert made.left_to_stack
    assert reasons(made.findings) == [(Effect.STACK, "interface v1", "FiltersOfOthers")]


def test_a_pod_whose_interface_has_no_host_side_is_refused():
    finding = foreign_interface("macvlan")
    assert (finding.effect, finding.reason) == (Effect.REFUSED, "InterfaceKind")
    assert "of kind physical" in foreign_interface("").message


def test_an_uplink_with_something_of_others_at_its_ingress_bears_no_program():
    uplinks, findings = open_uplinks(node(qdiscs={2: "ingress"}), {2, 7})
    assert uplinks == {7}
    assert reasons(findings) == [(Effect.STACK, "interface eth0", "FiltersOfOthers")]


def test_an_uplink_that_is_a_port_of_another_bears_no_program():
    bond = Interface(8, "bond0", "bond", True, 0, None)
    uplinks, findings = open_uplinks(node(LO, replace(ETH0, master=8), bond), {2, 8})
    assert uplinks == {8}
    assert reasons(findings) == [(Effect.STACK, "interface eth0", "PortOfAnother")]


def test_an_interface_without_ethernet_headers_by_which_routes_lead_is_told():
    routes = (
        Route(2, "", "172.30.0.1"),
        Route(7, "10.244.2.0/24", "172.30.0.12"),
        Route(1, "127.0.0.0/8", ""),
    )
    _, findings = open_uplinks(node(LO, ETH0, TUNNEL, routes=routes), {2})
    assert reasons(findings) == [(Effect.STACK, "interface tunl0", "NoEthernetHeader")]
    assert "(ipip)" in findings[0].message


def test_a_policy_of_ipsec_leaves_the_node_to_the_stack():
    made = ways(node(ipsec_policies=2), BRIDGED)
    assert (made.bits, made.left_to_stack) == ({2: DIRECT, 3: PODS}, True)
    assert reasons(made.findings) == [(Effect.STACK, NODE, "IpsecPolicies")]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        (Rule(), False),
        (Rule(unfollowed=("dport",)), True),
    ],
    ids=["plain", "by-port"],
)
def test_rules_that_a_look_up_does_not_follow_leave_the_node_to_the_stack(rule, left):
    made = ways(node(rules=(rule,)), BRIDGED)
    assert made.left_to_stack == left
    assert reasons(made.findings) == [(Effect.STACK, NODE, "RulesNotFollowed")] * left


def test_packets_of_a_pod_at_a_bridge_come_in_by_the_bridge_and_of_others_by_their_own_interface():
    assert ways(node(), {2: UPLINK_PROGRAMS, 4: POD_PROGRAMS, 6: POD_PROGRAMS}).incoming == {4: 3}


@pytest.mark.parametrize(
    "others",
    [(Interface(3, "ovs-system", "openvswitch", True, 0, None),), ()],
    ids=["openvswitch", "in-another-namespace"],
)
def test_what_is_no_bridge_of_this_node_is_no_incoming_interface(others):
    assert ways(node(LO, ETH0, PORT, *others), BRIDGED).incoming == {}


def test_a_route_for_one_type_of_service_leaves_the_node_to_the_stack():
    made = ways(node(routes_by_service=("10.244.2.0/24",)), BRIDGED)
    assert made.left_to_stack
    assert reasons(made.findings) == [(Effect.STACK, NODE, "RoutesByService")]
    assert "to 10.244.2.0/24" in made.findings[0].message


def test_rules_and_routes_stand_against_nothing_where_no_pod_is_ours():
    found = node(rules=(Rule(marked=True, unfollowed=("sport",)),), routes_by_service=("10.244.2.0/24",))
    assert ways(found, {2: UPLINK_PROGRAMS}).findings == ()


def test_what_only_wants_to_be_known_leaves_nothing_to_the_stack():
    made = ways(node(rules=(Rule(marked=True),)), BRIDGED, behind={4})
    assert not made.left_to_stack
    assert reasons(made.findings) == [
        (Effect.NOTED, NODE, "RulesByMark"),
        (Effect.NOTED, "interface v1", "ProgramsBehindOurs"),
    ]


def test_a_strict_reverse_path_filter_is_told_of_every_interface_but_ports():
    made = ways(node(strict=frozenset({2, 3, 4, 6, 77})), BRIDGED)
    assert made.bits == {2: DIRECT | STRICT, 3: PODS | STRICT, 6: STRICT}


def test_every_reason_has_a_remedy_and_fits_the_schema():
    assert all(len(remedy) <= 1024 and len(reason) <= 64 for reason, remedy in REMEDIES.items())

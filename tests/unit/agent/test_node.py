"""What the node's own tables tell: uplinks, the host's side of pods' interfaces, and when to look again."""

import math

import pytest
from wharfinger_dataplane.agent.namespaces import host_sides, next_look_s
from wharfinger_dataplane.agent.uplinks import uplinks
from wharfinger_dataplane.netlink import Interface, Route

ETH0 = Interface(2, "eth0", "", True, 0, None, ("172.30.0.11",))
ETH1 = Interface(3, "eth1", "", True, 0, None, ("192.168.7.2",))
TUNNEL = Interface(4, "tunl0", "ipip", False, 0, None, ("10.244.1.0",))
VXLAN = Interface(5, "flannel.1", "vxlan", True, 0, None, ("10.244.1.0",))
BRIDGE = Interface(6, "cni0", "bridge", True, 0, None, ("10.244.1.1",))
LO = Interface(1, "lo", "", False, 0, None, ("127.0.0.1",))
ALL = [LO, ETH0, ETH1, TUNNEL, VXLAN, BRIDGE]


def test_an_uplink_has_the_default_route():
    assert uplinks(ALL, [Route(2, "", "172.30.0.1")], (), ()) == {2}


def test_an_uplink_has_a_route_to_other_nodes_pods():
    routes = [Route(2, "10.244.2.0/24", "172.30.0.12"), Route(5, "10.244.3.0/24", "10.244.3.0"), Route(6, "10.244.1.0/24", "")]
    assert uplinks(ALL, routes, (), ()) == {2, 5}


def test_an_uplink_carries_the_nodes_address():
    assert uplinks(ALL, [], (), ["192.168.7.2"]) == {3}


def test_uplinks_that_are_named_are_the_only_ones():
    assert uplinks(ALL, [Route(2, "", "172.30.0.1")], ("eth1",), ["172.30.0.11"]) == {3}


def test_an_interface_without_ethernet_headers_is_no_uplink():
    assert uplinks(ALL, [Route(4, "10.244.2.0/24", "172.30.0.12")], (), ()) == frozenset()


GATEWAY = Interface(7, "cali1", "veth", True, 2, 4)
PORT = Interface(8, "v1", "veth", True, 2, 5, master=6)
OTHER_PORT = Interface(9, "v2", "veth", True, 2, 6, master=6)
BY_PODS = [Route(2, "", "172.30.0.1"), Route(7, "10.50.0.0/16", "10.244.1.7"), Route(6, "10.60.0.0/16", "10.244.1.8")]


def test_a_route_by_way_of_a_pod_makes_no_uplink_of_its_interface_nor_of_the_pods_bridge():
    assert uplinks([*ALL, GATEWAY, PORT, OTHER_PORT], BY_PODS, (), (), {7, 8}) == {2}


def test_a_bridge_of_pods_with_a_way_out_is_an_uplink_when_routes_lead_by_it():
    out = Interface(10, "eth2", "", True, 0, None, master=6)
    assert uplinks([*ALL, PORT, out], BY_PODS, (), (), {8}) == {2, 6}


def test_a_bridge_of_pods_that_carries_the_nodes_address_is_an_uplink():
    assert uplinks([*ALL, PORT], [], (), ["10.244.1.1"], {8}) == {6}


def test_a_pods_interface_is_no_uplink_though_it_carries_the_nodes_address():
    unnumbered = Interface(7, "veth1", "veth", True, 2, 4, ("172.30.0.11",))
    assert uplinks([*ALL, unnumbered], [], (), ["172.30.0.11"], {7}) == {2}


def test_a_pods_interface_that_is_named_is_an_uplink():
    assert uplinks([*ALL, GATEWAY], BY_PODS, ("cali1",), (), {7}) == {7}


def pod_side(**changes):
    return Interface(**{"index": 2, "name": "eth0", "kind": "veth", "ethernet": True, "peer": 21, "peer_namespace": 0,
                        "addresses": ("10.244.1.5", "fd00::5", "fe80::1"), **changes})


def test_the_hosts_side_is_the_peer_of_the_interface_with_the_address():
    host = {21: Interface(21, "veth1", "veth", True, 2, 3)}
    assert host_sides([LO, pod_side()], 3, host.get) == (("10.244.1.5", 21), ("fd00::5", 21))


def test_an_interface_whose_peer_is_elsewhere_is_not_taken_for_another():
    assert host_sides([pod_side()], 3, {21: Interface(21, "veth9", "veth", True, 7, 3)}.get) == ()
    assert host_sides([pod_side()], 3, {21: Interface(21, "eth0", "", True, 2, 3)}.get) == ()
    assert host_sides([pod_side()], 3, {}.get) == ()


@pytest.mark.parametrize("peer_namespace", [4, None])
def test_an_interface_that_leads_to_another_namespace_is_not_taken_for_this_ones(peer_namespace):
    assert host_sides([pod_side()], 3, {21: Interface(21, "veth1", "veth", True, 2, peer_namespace)}.get) == ()


def test_a_namespace_is_looked_at_until_it_has_settled():
    assert next_look_s(100.0, 0.1, False) == 100.0
    assert next_look_s(100.0, 0.1, True) == 100.5
    assert next_look_s(100.0, 10.0, True) == math.inf
    assert next_look_s(100.0, 90.0, False) == 110.0

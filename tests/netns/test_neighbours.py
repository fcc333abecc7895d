"""Beside whom and what we run: the layouts that CNI plugins make, and the work of others at the same
interfaces. In each of them an aware connection works (or the pod is unaware and works), its bytes arrive, and
connection tracking sees all of it or nothing. docs/neighbours.md has the matrix."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.lab import Lab, Node, Pod, Role, Spares, fall_back, sh
from support.layouts import (
    Foreign,
    judged,
    judging,
    macvlan_pod,
    nft,
    over_tunnel,
    over_vxlan,
    routed_pod,
    second_uplinks,
    tc,
    tracked,
    without_bridges,
)
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, server, sockets
from wharfinger_dataplane._records import InterfaceBit

BYTES = 300_000
DIRECT, PODS = InterfaceBit.DIRECT, InterfaceBit.DIRECT | InterfaceBit.PODS


@pytest.fixture
def lab(pins: Path, spares: Spares) -> Iterator[Lab]:
    lab = Lab(pins, spares=spares)
    try:
        lab.add_node()
        lab.add_node()
        judging(*lab.nodes)
        yield lab
    finally:
        lab.close()


def pair(lab: Lab) -> tuple[Pod, Pod]:
    """A client on the first node and a server on the second, by bridges and routes from node to node."""
    return lab.add_pod(lab.nodes[0], "client", Role.CLIENT), lab.add_pod(lab.nodes[1], "a", Role.SERVER)


def routed_pair(lab: Lab) -> tuple[Pod, Pod]:
    without_bridges(lab)
    return routed_pod(lab, lab.nodes[0], "client", Role.CLIENT), routed_pod(
        lab, lab.nodes[1], "a", Role.SERVER
    )


def counting(node: Node) -> Callable[[], Counter]:
    before = Counter(node.counts())
    return lambda: Counter(node.counts()) - before


@contextmanager
def served(lab: Lab, client: Pod, pod: Pod) -> Iterator[None]:
    """The pod serves a pool, and kube-proxy stands behind it for the unaware."""
    for node in lab.nodes:
        node.tables.apply([pool_slice({pod.short: pod.address})])
    fall_back(client.node, VIRTUAL, pod)
    with server(pod):
        yield


def talk(client: Pod, address: str = VIRTUAL, port: int = 80, timeout: float = 5) -> None:
    """One connection that carries bytes both ways, up to its last packet; a SYN that comes again would show by the time."""
    with Client(client, address, port, timeout=timeout) as connection:
        here = connection.socket.getsockname()[1]
        assert connection.get(BYTES) == checksum(BYTES)
        assert connection.put(BYTES) == checksum(BYTES)
    deadline = time.monotonic() + timeout
    while sockets(client, "state", "connected", "exclude", "time-wait", f"sport = :{here}"):
        assert time.monotonic() < deadline, "the server has not closed"


def goes_direct(lab: Lab, client: Pod, pod: Pod) -> tuple[Counter, Counter]:
    """An aware connection is seen by nobody's connection tracking; what the two nodes' programs counted."""
    counts = counting(client.node), counting(pod.node)
    with served(lab, client, pod):
        talk(client, timeout=0.9)  # the first SYN is answered
    near, far = (count() for count in counts)
    assert near["to_pod", "client_redirected"] == far["to_pod", "server_joined"] == 1
    for node in {client.node.name: client.node, pod.node.name: pod.node}.values():
        assert (tracked(node, client), tracked(node, pod), judged(node)) == ([], [], 0)
        assert not node.ways.left_to_stack
    assert not near["from_pod", "stack_no_route"] and not far["from_pod", "stack_no_route"]
    return near, far


def goes_by_the_stack(
    lab: Lab, client: Pod, pod: Pod, reason: str = "stack_by_rule"
) -> tuple[Counter, Counter]:
    """An aware connection works, and each node's connection tracking has both directions of it; what the two
    nodes' programs counted."""
    counts = counting(client.node), counting(pod.node)
    with served(lab, client, pod):
        talk(client, timeout=0.9)
    near, far = (count() for count in counts)
    assert near["to_pod", "client_redirected"] == far["to_pod", "server_joined"] == 1
    assert near["from_pod", reason] and far["from_pod", reason]
    for node in (client.node, pod.node):
        whole = [line for line in tracked(node, client) if f"dport={20_001} " in line]
        assert len(whole) == 1 and "[UNREPLIED]" not in whole[0]
        assert judged(node) == 0
    return near, far


def test_plain_bridges_and_routes_from_node_to_node(lab):
    """The bridge plugin, kubenet, Flannel's host-gw, kube-router."""
    client, pod = pair(lab)
    near, far = goes_direct(lab, client, pod)
    assert client.node.bits() == {"uplink": DIRECT, "cni0": PODS}
    assert far["from_net", "net_service_port"] and near["from_net", "net_client"]


def test_pods_of_one_node_and_one_bridge(lab):
    client = lab.add_pod(lab.nodes[0], "client", Role.CLIENT)
    goes_direct(lab, client, lab.add_pod(lab.nodes[0], "a", Role.SERVER))


def test_pods_that_routes_lead_to_one_by_one(lab):
    """Calico without an overlay."""
    client, pod = routed_pair(lab)
    goes_direct(lab, client, pod)
    assert client.node.bits() == {"uplink": DIRECT, "v-client": PODS}


def test_pods_of_one_node_that_routes_lead_to_one_by_one(lab):
    without_bridges(lab)
    client = routed_pod(lab, lab.nodes[0], "client", Role.CLIENT)
    goes_direct(lab, client, routed_pod(lab, lab.nodes[0], "a", Role.SERVER))
    assert client.node.bits() == {"uplink": DIRECT, "v-client": PODS, "v-a": PODS}


def test_a_routed_pod_that_is_none_of_ours_is_not_sent_to_past_the_stack(lab):
    without_bridges(lab)
    client = routed_pod(lab, lab.nodes[0], "client")
    pod = routed_pod(lab, lab.nodes[0], "a", Role.SERVER)
    assert pod.node.bits() == {"uplink": DIRECT, "v-a": PODS}
    with served(lab, client, pod):
        talk(client)
        talk(client, pod.address, 20_001)
    assert judged(pod.node) == 0


def test_a_pod_of_the_servers_bridge_that_is_none_of_ours_reaches_every_port_of_it(lab):
    client = lab.add_pod(lab.nodes[0], "client")
    pod = lab.add_pod(lab.nodes[0], "a", Role.SERVER)
    with served(lab, client, pod):
        talk(client)
        talk(client, pod.address, 20_001)
    assert judged(pod.node) == 0


def test_a_routed_client_of_ours_that_dials_a_service_port_of_its_own_node_takes_the_stack_both_ways(lab):
    without_bridges(lab)
    client, pod = (routed_pod(lab, lab.nodes[0], name, role) for name, role in (("client", Role.CLIENT), ("a", Role.SERVER)))
    with served(lab, client, pod):
        talk(client, pod.address, 20_001)
        talk(client, timeout=0.9)
    assert judged(pod.node) == 0


@pytest.mark.parametrize("kind", ["a direct dial", "one of kube-proxy's"])
@pytest.mark.parametrize("where", [0, 1], ids=["one node", "two nodes"])
def test_an_unaware_connection_under_a_substitute_takes_the_stack_both_ways(lab, where, kind):
    """From the client port that an aware connection to the same server has."""
    without_bridges(lab)
    client = routed_pod(lab, lab.nodes[0], "client", Role.CLIENT)
    pod = routed_pod(lab, lab.nodes[where], "a", Role.SERVER)
    nft(lab.nodes[0], "add table ip plain; add chain ip plain p { type nat hook prerouting priority dstnat; };"
                      f"add rule ip plain p ip daddr 10.96.0.13 tcp dport 80 dnat to {pod.address}:8080")
    with served(lab, client, pod), Client(client, VIRTUAL, 80, source_port=41_000) as aware:
        aware.ask()
        with Client(client, *((pod.address, 8080) if kind == "a direct dial" else ("10.96.0.13", 80)), source_port=41_000) as other:
            assert other.get(BYTES) == checksum(BYTES)
            other.bye()
        assert aware.get(BYTES) == checksum(BYTES)
    assert [judged(node) for node in lab.nodes] == [0, 0]


@pytest.mark.parametrize("pods", [pair, routed_pair], ids=["bridges", "routed"])
def test_nodes_that_reach_each_other_by_vxlan(lab, pods):
    """Flannel's and Calico's VXLAN."""
    client, pod = pods(lab)
    over_vxlan(lab)
    near, far = goes_direct(lab, client, pod)
    assert client.node.bits()["flannel.1"] == DIRECT
    assert far["from_net", "net_service_port"] and near["from_net", "net_client"]


@pytest.mark.parametrize("pods", [pair, routed_pair], ids=["bridges", "routed"])
def test_nodes_that_reach_each_other_by_a_tunnel_without_ethernet_headers(lab, pods):
    """Calico's IPIP and WireGuard."""
    client, pod = pods(lab)
    with over_tunnel(lab):
        assert "tunl0" not in client.node.bits()
        goes_by_the_stack(lab, client, pod, "stack_no_hook")


def test_pods_that_rules_send_by_an_uplink_of_their_own(lab):
    """The VPC plugins of clouds: the client's requests leave by eth1, and the answers come by either
    uplink."""
    client, pod = pair(lab)
    second_uplinks(lab)
    sh(f"ip -n {client.node.name} rule add from {client.address} lookup 2")
    client.node.settle()
    near, _ = goes_direct(lab, client, pod)
    assert client.node.bits() == {"uplink": DIRECT, "eth1": DIRECT, "cni0": PODS}
    assert near["from_net", "net_client"]
    [eth1] = json.loads(sh(f"ip -n {client.node.name} -j -s link show eth1"))
    assert eth1["stats64"]["tx"]["bytes"] > BYTES


def test_answers_that_rules_send_by_an_uplink_of_their_own(lab):
    client, pod = pair(lab)
    second_uplinks(lab)
    sh(f"ip -n {pod.node.name} rule add from {pod.address} lookup 2")
    pod.node.settle()
    goes_direct(lab, client, pod)


@pytest.mark.parametrize(("incoming", "way"), [("cni0", "eth1"), ("v-client", "uplink"), ("v-a", "uplink")])
def test_rules_by_incoming_interface_are_followed_as_the_stack_has_that(lab, incoming, way):
    """Of a pod at a bridge it is the bridge."""
    client, pod = pair(lab)
    second_uplinks(lab)
    for node in lab.nodes:
        sh(f"ip -n {node.name} rule add iif {incoming} lookup 2")
        node.settle()
    goes_direct(lab, client, pod)
    for node in lab.nodes:
        [link] = json.loads(sh(f"ip -n {node.name} -j -s link show {way}"))
        assert link["stats64"]["tx"]["bytes"] > BYTES


def test_rules_that_a_program_does_not_follow_leave_all_to_the_stack(lab):
    client, pod = pair(lab)
    second_uplinks(lab)
    for node in lab.nodes:
        sh(f"ip -n {node.name} rule add ipproto tcp dport 1-65534 lookup 2")
        node.settle()
    goes_by_the_stack(lab, client, pod)
    assert [finding.reason for finding in client.node.ways.findings] == ["RulesNotFollowed"]


def test_programs_of_others_before_and_after_ours_that_let_pass(lab, tmp_path):
    """Cilium's way to attach: those before ours see all, those after ours what ours does not send on."""
    client, pod = pair(lab)
    with closing(Foreign(client.node, tmp_path)) as foreign:
        for index in (client.ifindex, lab.uplink(client.node)):
            foreign.join(index, "before", first=True)
            foreign.join(index, "after")
        near, _ = goes_direct(lab, client, pod)
        direct = sum(
            packets
            for (hook, reason), packets in near.items()
            if (hook, reason.split("_")[0]) in (("from_pod", "client"), ("from_net", "net"))
        )
        assert foreign.seen("before") == direct
        assert foreign.seen("after") == 0
        with server(pod, 8081):
            talk(client, pod.address, 8081)
        assert foreign.seen("after") == foreign.seen("before") - direct > 0


def test_a_bridge_with_a_way_out_leaves_all_to_the_stack(lab):
    """Weave's, and a bridge that a machine's own interface is a port of."""
    client, pod = pair(lab)
    for node in lab.nodes:
        sh(f"ip -n {node.name} link add out0 type veth peer name out1")
        sh(f"ip -n {node.name} link set out0 master cni0 up")
        node.settle()
    goes_by_the_stack(lab, client, pod)
    assert [finding.reason for finding in client.node.ways.findings] == ["BridgeLeadsElsewhere"]


def test_a_filter_of_others_at_the_bridge_leaves_all_to_the_stack_and_sees_all(lab):
    client, pod = pair(lab)
    for node in lab.nodes:
        tc(node, "qdisc add dev cni0 clsact")
        tc(node, "filter add dev cni0 ingress protocol ip u32 match ip protocol 6 0xff flowid 1:1")
        node.settle()
    goes_by_the_stack(lab, client, pod)
    assert [finding.reason for finding in client.node.ways.findings] == ["FiltersOfOthers"]
    assert "Sent 0 bytes" not in tc(client.node, "-s filter show dev cni0 ingress")


def test_a_queue_at_a_pods_egress_holds_for_aware_connections(lab):
    """The bandwidth plugin's other half, kubernetes.io/ingress-bandwidth."""
    client, pod = pair(lab)
    tc(client.node, "qdisc add dev v-client root tbf rate 8mbit burst 32kbit latency 400ms")
    client.node.settle()
    near = counting(client.node)
    with served(lab, client, pod), Client(client, VIRTUAL, 80) as connection:
        began = time.monotonic()
        assert connection.get(2_000_000) == checksum(2_000_000)
        assert 2_000_000 * 8 / (time.monotonic() - began) < 8_000_000 * 1.2
    assert near()["to_pod", "client_redirected"] == 1
    assert client.node.ways.findings == ()


def test_a_port_of_the_host_leads_to_a_server(lab):
    """hostPort: the portmap plugin's rule, here in nftables' words. Unaware, as it is without us."""
    client, pod = pair(lab)
    nft(
        pod.node,
        "add table ip portmap; add chain ip portmap p { type nat hook prerouting priority dstnat; };"
        f"add rule ip portmap p ip daddr {pod.node.address} tcp dport 18080 dnat to {pod.address}:8080",
    )
    near, far = counting(client.node), counting(pod.node)
    with served(lab, client, pod):
        talk(client, pod.node.address, 18080)
        talk(client)
    assert near()["to_pod", "client_redirected"] == far()["to_pod", "server_joined"] == 1
    assert judged(client.node) == judged(pod.node) == 0


def test_a_pod_with_a_macvlan_is_unaware_and_reaches_every_port_of_a_server(lab):
    client, pod = pair(lab)
    apart = macvlan_pod(lab, lab.nodes[0], "apart")
    far = counting(pod.node)
    with served(lab, client, pod):
        for port in (8080, 20_001):
            talk(apart, pod.address, port)
    assert not far()["to_pod", "server_syn"]
    assert judged(client.node) == judged(pod.node) == 0

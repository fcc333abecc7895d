"""What an agent finds at its node and does about it: bandwidth limits, policies of IPsec, reverse-path
filters, programs that are replaced, routes that change. The agent is the real one, on a lab's nodes."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.agents import NodeAgent
from support.lab import SMALL, Lab, Pod, Spares, fall_back, inside, sh
from support.layouts import (
    blocked,
    chain_by_prefix,
    limited,
    macvlan_pod,
    nft,
    routed_pod,
    tc,
    without_bridges,
)
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, server
from wharfinger_api import Effect
from wharfinger_dataplane import _bpf, netlink
from wharfinger_dataplane import attach as attach_module
from wharfinger_dataplane._records import (
    SETTING_GENERATION,
    SETTING_LEFT_TO_STACK,
    Interface,
    InterfaceBit,
    pack_setting,
    unpack_interface,
)
from wharfinger_dataplane.attach import POD_PROGRAMS, UPLINK_PROGRAMS, Mode
from wharfinger_dataplane.kernel import Kernel

BYTES = 300_000
BOUND_S = 30
LIMIT_BITS = 8_000_000


@pytest.fixture(scope="module")
def kernel(pins: Path) -> Iterator[Kernel]:
    with closing(Kernel.open(pins / "agent", SMALL)) as made:
        yield made


@pytest.fixture
def bare(pins: Path, spares: Spares) -> Iterator[Lab]:
    """Two nodes whose programs an agent attaches."""
    with closing(Lab(pins, spares=spares)) as lab:
        lab.add_node(attach=False)
        lab.add_node(attach=False)
        yield lab


@pytest.fixture
def agent(bare: Lab, kernel: Kernel, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NodeAgent]:
    """The first node's; its mode is the test's parameter, if it has one."""
    with closing(NodeAgent(bare.nodes[0], kernel, tmp_path, getattr(request, "param", Mode.AUTO))) as made:
        yield made


def found(report: object) -> set[tuple[Effect, str, str]]:
    return {(finding.effect, finding.where, finding.reason) for finding in report.findings}


def setting(agent: NodeAgent, number: int) -> int:
    return int.from_bytes(agent.kernel.get("settings", pack_setting(number, 0)[0]), "little")


def bits(agent: NodeAgent) -> dict[str, InterfaceBit]:
    names = {each.index: each.name for each in inside(agent.node.name, netlink.interfaces)}
    told = {index: interface.bits for index, interface in interfaces(agent).items()}
    return {names[index]: each for index, each in told.items() if each}


def interfaces(agent: NodeAgent) -> dict[int, Interface]:
    """What the programs are told of each, by its index."""
    return {
        int.from_bytes(key, "little"): unpack_interface(value)
        for key, value in agent.kernel.items("interfaces")
    }


def programs(agent: NodeAgent, pod: Pod) -> list[int]:
    """Ids of what is attached to the pod by tcx."""
    return inside(
        agent.node.name,
        lambda: [
            number
            for kind in (_bpf.TCX_INGRESS, _bpf.TCX_EGRESS)
            for number, _ in _bpf.queried(pod.ifindex, kind)
        ],
    )


# what is at pods' interfaces


def test_a_pod_with_a_bandwidth_limit_is_refused_and_told_and_its_limit_holds(bare, agent):
    client, pod = bare.add_pod(bare.nodes[0], "client"), bare.add_pod(bare.nodes[1], "a")
    limited(client, f"{LIMIT_BITS}bit")
    agent.knows(client)
    agent.serves(pool_slice({"a": pod.address}))
    report = agent.round()
    assert (programs(agent, client), report.clients, agent.kernel.items("pods")) == ([], (), [])
    [refusal] = report.findings
    assert (refusal.effect, refusal.where, refusal.reason) == (
        Effect.REFUSED,
        "Pod test/client",
        "FiltersOfOthers",
    )
    assert "an ingress qdisc is at the ingress of its interface v-client" in refusal.message
    assert "kubernetes.io/egress-bandwidth" in refusal.remedy
    assert report.conditions[0].status == "True"
    assert [(event["reason"], event["involvedObject"]["name"]) for event in agent.events] == [
        ("TranslatorRefused", "client")
    ]
    fall_back(bare.nodes[0], VIRTUAL, pod)
    with server(pod), Client(client, VIRTUAL, 80, timeout=BOUND_S) as connection:
        began = time.monotonic()
        assert connection.put(2_000_000) == checksum(2_000_000)
        assert 2_000_000 * 8 / (time.monotonic() - began) < LIMIT_BITS * 1.2


@pytest.mark.parametrize("family", ["netdev", "inet"])
@pytest.mark.parametrize("devices", ["device v-client", "devices = { spare, v-client }"], ids=["one", "two"])
def test_a_pod_with_a_chain_of_nftables_at_its_ingress_is_refused(bare, agent, family, devices):
    client, node = bare.add_pod(bare.nodes[0], "client"), bare.nodes[0]
    sh(f"ip -n {node.name} link add spare type bridge")
    agent.knows(client)
    elsewhere = {"netdev": "egress device v-client", "inet": "forward"}[family]
    nft(
        node,
        f"add table {family} guard; add chain {family} guard out {{ type filter hook {elsewhere} priority 0; }};"
        f"add chain {family} guard in {{ type filter hook ingress {devices} priority 0; }}",
    )
    [refusal] = agent.round().findings
    assert refusal.message.startswith("nftables' chain guard in is at the ingress of its interface v-client")
    nft(node, f"delete chain {family} guard in")
    assert found(agent.round()) == set()


def linux() -> tuple[int, ...]:
    """This kernel's version, major and minor."""
    return tuple(map(int, platform.release().split(".")[:2]))


def test_a_pod_with_a_chain_of_nftables_at_all_interfaces_whose_names_begin_so_is_refused(bare, agent):
    agent.knows(bare.add_pod(bare.nodes[0], "client"))
    if linux() < (6, 16):  # nobody can make such a chain there
        with pytest.raises(OSError):
            chain_by_prefix(bare.nodes[0], "v-")
        return
    chain_by_prefix(bare.nodes[0], "v-")
    [refusal] = agent.round().findings
    assert refusal.message.startswith("nftables' chain guard in is at the ingress of its interface v-client")


def test_a_pod_whose_limit_goes_is_attached_to(bare, agent):
    client = bare.add_pod(bare.nodes[0], "client")
    limited(client, f"{LIMIT_BITS}bit")
    agent.knows(client)
    assert agent.round().clients == ()
    tc(bare.nodes[0], "qdisc del dev v-client ingress")
    report = agent.round()
    assert [each.pod for each in report.clients] == ["test/client"]
    assert report.findings == ()
    assert len(programs(agent, client)) == len(POD_PROGRAMS)


def test_filters_that_come_to_a_pod_which_has_connections_leave_the_node_to_the_stack(bare, agent):
    client = bare.add_pod(bare.nodes[0], "client")
    agent.knows(client)
    assert found(agent.round()) == set()
    limited(client, f"{LIMIT_BITS}bit")
    report = agent.round()
    assert found(report) == {(Effect.STACK, "interface v-client", "FiltersOfOthers")}
    assert [each.pod for each in report.clients] == ["test/client"]
    assert setting(agent, SETTING_LEFT_TO_STACK) == 1
    tc(bare.nodes[0], "qdisc del dev v-client ingress")
    assert found(agent.round()) == set()
    assert setting(agent, SETTING_LEFT_TO_STACK) == 0


def test_an_uplink_with_filters_of_others_bears_no_program_and_is_left_to_the_stack(bare, agent):
    client = bare.add_pod(bare.nodes[0], "client")
    agent.knows(client)
    agent.round()
    assert bits(agent) == {"uplink": InterfaceBit.DIRECT, "cni0": InterfaceBit.DIRECT | InterfaceBit.PODS}
    tc(bare.nodes[0], "qdisc add dev uplink clsact")
    tc(bare.nodes[0], "filter add dev uplink ingress protocol ip u32 match u32 0 0 flowid 1:1")
    report = agent.round()
    assert found(report) == {(Effect.STACK, "interface uplink", "FiltersOfOthers")}
    assert bits(agent) == {"cni0": InterfaceBit.DIRECT | InterfaceBit.PODS}
    assert (
        inside(bare.nodes[0].name, lambda: _bpf.queried(bare.uplink(bare.nodes[0]), _bpf.TCX_INGRESS)) == []
    )


@pytest.mark.parametrize("agent", [Mode.CLSACT], indirect=True)
def test_classic_programs_beside_an_ingress_qdisc_fail_and_leave_nothing(bare, agent):
    """Both directions' filters would go into the one that such a queueing discipline has, and one would take
    the other's place."""
    pod = bare.add_pod(bare.nodes[0], "b")
    tc(bare.nodes[0], "qdisc add dev v-b ingress")
    outcome = inside(bare.nodes[0].name, lambda: agent.attacher.attach({pod.ifindex: POD_PROGRAMS}))
    assert outcome.attached == []
    assert "has an ingress queueing discipline of somebody else's" in str(outcome.failed[pod.ifindex])
    assert agent.attacher.attached() == {}
    assert tc(bare.nodes[0], "filter show dev v-b ingress") == ""


@pytest.mark.parametrize("agent", [Mode.TCX, Mode.CLSACT], indirect=True)
def test_a_program_that_somebody_put_in_the_place_of_ours_is_noticed_and_replaced(bare, agent):
    client, node = bare.add_pod(bare.nodes[0], "client"), bare.nodes[0].name
    agent.knows(client)
    agent.round()
    assert inside(node, agent.attacher.verify) == []
    other = agent.kernel.programs["wharf_from_net"]
    pins = list(agent.kernel.links.glob("*-wharf_from_pod"))
    for pin in pins:
        with closing(_bpf.Link.adopt(pin)) as link:
            link.update(other)
    if not pins:
        inside(
            node,
            lambda: netlink.put_filter(
                client.ifindex, "ingress", other.fd, "wharf_from_pod", attach_module.PRIORITY
            ),
        )
    assert inside(node, agent.attacher.verify) == [(client.ifindex, "wharf_from_pod")]
    agent.round()
    assert inside(node, agent.attacher.verify) == []


def test_a_program_that_is_not_read_back_is_not_attached(bare, agent, monkeypatch):
    """Another program of the node's takes the link away between attaching and looking."""
    client = bare.add_pod(bare.nodes[0], "client")
    agent.knows(client)
    monkeypatch.setattr(attach_module, "queried", lambda index, kind: [])
    report = agent.round()
    assert "was attached to interface" in report.conditions[0].message
    assert (report.clients, agent.attacher.attached(), agent.kernel.items("pods"), bits(agent)) == (
        (),
        {},
        [],
        {},
    )
    monkeypatch.undo()
    assert agent.round().conditions[0].status == "True"


def test_programs_of_a_kernel_without_tcx_are_told_of_and_counted(bare, kernel, tmp_path, monkeypatch):
    client = bare.add_pod(bare.nodes[0], "client")
    monkeypatch.setattr(attach_module, "has_tcx", lambda: False)
    with closing(NodeAgent(bare.nodes[0], kernel, tmp_path)) as agent:
        agent.knows(client)
        report = agent.round()
        assert [fallback.name for fallback in report.fallbacks] == ["ClassicFilters"]
        assert [each.pod for each in report.clients] == ["test/client"]
        assert agent.attacher.fallbacks == len(POD_PROGRAMS) + 1


def test_programs_of_others_behind_ours_are_told_of(bare, agent):
    client = bare.add_pod(bare.nodes[0], "client")
    agent.knows(client)
    agent.round()
    other = agent.kernel.programs["wharf_from_net"]
    with closing(inside(bare.nodes[0].name, lambda: _bpf.Link.create(other, client.ifindex))):
        assert found(agent.round()) == {(Effect.NOTED, "interface v-client", "ProgramsBehindOurs")}
    assert found(agent.round()) == set()


def test_a_pod_with_a_macvlan_is_refused_and_told(bare, agent):
    agent.knows(macvlan_pod(bare, bare.nodes[0], "apart"))
    report = agent.round()
    [refusal] = report.findings
    assert (refusal.effect, refusal.where, refusal.reason) == (
        Effect.REFUSED,
        "Pod test/apart",
        "InterfaceKind",
    )
    assert "of kind macvlan" in refusal.message
    assert report.conditions[0].status == "True"
    assert [event["reason"] for event in agent.events] == ["TranslatorRefused"]


# routes


def test_a_route_by_way_of_a_pod_takes_it_no_program(bare, agent):
    """A VPN's gateway, say, where routes lead to pods one by one."""
    client = routed_pod(bare, bare.nodes[0], "client")
    without_bridges(bare)
    agent.knows(client)
    agent.round()
    before, told = programs(agent, client), bits(agent)
    assert len(before) == len(POD_PROGRAMS)
    sh(f"ip -n {agent.node.name} route add 10.50.0.0/16 via {client.address} dev v-client onlink")
    for _ in range(2):
        report = agent.round()
        assert [each.pod for each in report.clients] == ["test/client"]
        assert (report.findings, programs(agent, client), bits(agent)) == ((), before, told)


@pytest.mark.parametrize("gateway", ["of ours", "none of ours"])
def test_a_route_by_way_of_a_pod_makes_no_uplink_of_the_bridge(bare, agent, gateway):
    client, other = bare.add_pod(bare.nodes[0], "client"), bare.add_pod(bare.nodes[0], "other")
    agent.knows(client)
    agent.knows(other, injected=gateway == "of ours")
    agent.round()
    told = bits(agent)
    assert told["cni0"] == InterfaceBit.DIRECT | InterfaceBit.PODS
    sh(f"ip -n {agent.node.name} route add 10.50.0.0/16 via {other.address}")
    assert agent.round().findings == ()
    assert bits(agent) == told
    assert (
        inside(agent.node.name, lambda: _bpf.queried(bare.index(bare.nodes[0], "cni0"), _bpf.TCX_INGRESS))
        == []
    )


def test_a_pods_interface_that_is_named_as_an_uplink_bears_the_programs_of_both(bare, agent):
    client = routed_pod(bare, bare.nodes[0], "client")
    agent.knows(client)
    agent.reader._names = ("uplink", "v-client")
    for _ in range(2):
        assert [each.pod for each in agent.round().clients] == ["test/client"]
        assert agent.attacher.attached()[client.ifindex] == POD_PROGRAMS | UPLINK_PROGRAMS


@pytest.mark.parametrize("kind", ["unicast", "prohibit", "blackhole"])
@pytest.mark.parametrize("table", ["main", "7"])
def test_a_node_with_a_route_for_one_type_of_service_is_left_to_the_stack_while_it_has_one(
    bare, agent, kind, table
):
    agent.knows(bare.add_pod(bare.nodes[0], "client"))
    way = "via 172.31.0.2" if kind == "unicast" else ""
    agent.round()
    sh(f"ip -n {agent.node.name} route add {kind} 10.77.0.0/16 {way} tos 0x10 table {table}")
    [finding] = agent.round().findings
    assert (finding.effect, finding.where, finding.reason) == (Effect.STACK, "the node", "RoutesByService")
    assert "to 10.77.0.0/16" in finding.message
    assert setting(agent, SETTING_LEFT_TO_STACK) == 1
    sh(f"ip -n {agent.node.name} route del {kind} 10.77.0.0/16 {way} tos 0x10 table {table}")
    assert found(agent.round()) == set()
    assert setting(agent, SETTING_LEFT_TO_STACK) == 0


# policies of IPsec


@pytest.mark.parametrize("direction", ["out", "fwd", "in"])
def test_a_node_with_a_policy_of_ipsec_is_left_to_the_stack_while_it_has_one(bare, agent, direction):
    client = bare.add_pod(bare.nodes[0], "client")
    agent.knows(client)
    agent.round()
    assert setting(agent, SETTING_LEFT_TO_STACK) == 0
    blocked(bare.nodes[0], client, direction)
    assert found(agent.round()) == {(Effect.STACK, "the node", "IpsecPolicies")}
    assert setting(agent, SETTING_LEFT_TO_STACK) == 1
    sh(f"ip -n {bare.nodes[0].name} xfrm policy flush")
    assert found(agent.round()) == set()
    assert setting(agent, SETTING_LEFT_TO_STACK) == 0


IP_XFRM_POLICY = 17
BYPASS = b"\0" * 40 + b"\2\0" + b"\0" * 14 + b"\xff" * 32 + b"\0" * 72 + b"\1\0\0\0" + b"\0" * 4
"""struct xfrm_userpolicy_info: this socket's IPv4 packets go out as they are."""


def test_a_policy_of_one_socket_is_none_of_the_nodes(bare, agent):
    client = bare.add_pod(bare.nodes[0], "client")
    agent.knows(client)
    with inside(bare.nodes[0].name, socket.socket) as channel:
        channel.setsockopt(socket.IPPROTO_IP, IP_XFRM_POLICY, BYPASS)
        assert "dir socket" in sh(f"ip -n {bare.nodes[0].name} xfrm policy") or "socket out" in sh(
            f"ip -n {bare.nodes[0].name} xfrm policy"
        )
        assert found(agent.round()) == set()


def test_a_default_that_blocks_is_a_policy(bare, agent):
    client = bare.add_pod(bare.nodes[0], "client")
    agent.knows(client)
    sh(f"ip -n {bare.nodes[0].name} xfrm policy setdefault fwd block")
    assert found(agent.round()) == {(Effect.STACK, "the node", "IpsecPolicies")}


def test_connection_tracking_that_takes_nothing_in_the_middle_is_a_failure_where_packets_take_the_stack(
    bare, agent
):
    client, node = bare.add_pod(bare.nodes[0], "client"), bare.nodes[0].name
    agent.knows(client)
    inside(node, lambda: Path("/proc/sys/net/netfilter/nf_conntrack_tcp_loose").write_text("0"))
    assert agent.round().conditions[0].status == "True"
    blocked(bare.nodes[0], client)
    [ready] = agent.round().conditions
    assert ready.status == "False"
    assert "nf_conntrack_tcp_loose to 1" in ready.message


# reverse-path filters


@pytest.mark.parametrize("where", ["all", "uplink"])
def test_a_strict_reverse_path_filter_is_told_to_the_programs(bare, agent, where):
    agent.knows(bare.add_pod(bare.nodes[0], "client"))
    file = Path(f"/proc/sys/net/ipv4/conf/{where}/rp_filter")
    inside(agent.node.name, lambda: Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("0"))
    inside(agent.node.name, lambda: file.write_text("0"))
    agent.round()
    assert bits(agent)["uplink"] == InterfaceBit.DIRECT
    inside(agent.node.name, lambda: file.write_text("1"))
    agent.round()
    assert bits(agent)["uplink"] == InterfaceBit.DIRECT | InterfaceBit.STRICT
    assert "v-client" not in bits(agent)  # a bridge's port: its own value is nobody's
    inside(agent.node.name, lambda: file.write_text("2"))
    agent.round()
    assert bits(agent)["uplink"] == InterfaceBit.DIRECT


# bridges


def test_a_pod_at_a_bridge_is_told_with_it_and_one_that_leaves_it_is_not(bare, agent):
    client, node = bare.add_pod(bare.nodes[0], "client"), bare.nodes[0]
    agent.knows(client)
    agent.round()
    assert interfaces(agent)[client.ifindex] == Interface(InterfaceBit(0), bare.index(node, "cni0"))
    generation = setting(agent, SETTING_GENERATION)
    sh(f"ip -n {node.name} link set v-client nomaster")
    agent.round()
    assert interfaces(agent)[client.ifindex].incoming == 0
    assert setting(agent, SETTING_GENERATION) != generation


# changes


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def watching(bare: Lab, agent: NodeAgent) -> NodeAgent:
    """The agent after a round, while its watcher looks on and things are still."""
    agent.knows(bare.add_pod(bare.nodes[0], "client"))
    agent.round()
    agent.watch()
    before = -1
    while before != agent.wakes:
        before = agent.wakes
        time.sleep(0.5)
    return agent


@pytest.mark.parametrize(
    "change",
    [
        "route add 10.77.0.0/16 via 172.31.0.2",
        "rule add from 10.77.0.1 lookup main",
        "addr add 172.31.0.77/24 dev uplink",
        "link add spare type bridge",
        "xfrm policy add src 10.77.0.0/16 dst 10.77.0.0/16 dir out action block",
    ],
)
def test_what_changes_on_the_node_wakes_the_agent(watching, change):
    wakes, generation = watching.wakes, setting(watching, SETTING_GENERATION)
    sh(f"ip -n {watching.node.name} {change}")
    until(lambda: watching.wakes > wakes)
    if not change.startswith("xfrm"):
        until(lambda: setting(watching, SETTING_GENERATION) != generation)


def test_a_reverse_path_filter_that_changes_wakes_the_agent(watching):
    wakes = watching.wakes
    inside(watching.node.name, lambda: Path("/proc/sys/net/ipv4/conf/uplink/rp_filter").write_text("1"))
    until(lambda: watching.wakes > wakes)


def test_a_neighbour_with_another_link_address_makes_a_new_generation_and_wakes_nobody(watching):
    node = watching.node.name
    sh(f"ip -n {node} neigh replace 172.31.0.9 lladdr 02:00:00:00:00:09 dev uplink nud reachable")
    time.sleep(0.2)
    wakes, generation = watching.wakes, setting(watching, SETTING_GENERATION)
    sh(f"ip -n {node} neigh replace 172.31.0.9 lladdr 02:00:00:00:00:09 dev uplink nud stale")
    time.sleep(0.2)
    assert setting(watching, SETTING_GENERATION) == generation
    sh(f"ip -n {node} neigh replace 172.31.0.9 lladdr 02:00:00:00:00:0a dev uplink nud reachable")
    until(lambda: setting(watching, SETTING_GENERATION) != generation)
    assert watching.wakes == wakes


def test_bits_that_change_make_a_new_generation_and_a_round_without_changes_none(bare, agent):
    agent.knows(bare.add_pod(bare.nodes[0], "client"))
    agent.round()
    generation = setting(agent, SETTING_GENERATION)
    agent.round()
    assert setting(agent, SETTING_GENERATION) == generation
    tc(bare.nodes[0], "qdisc add dev uplink ingress")
    agent.round()
    assert setting(agent, SETTING_GENERATION) != generation

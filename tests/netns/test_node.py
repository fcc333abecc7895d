"""What an agent finds at its node and does about it: bandwidth limits, policies of IPsec, reverse-path filters, programs
that are replaced, routes that change. The agent is the real one, on a lab's nodes."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.agents import NodeAgent
from support.lab import SMALL, Lab, Node, Pod, Role, Spares, fall_back, inside, sh
from support.layouts import limited, macvlan_pod, nft, tc
from support.packets import tcp
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, server
from wharfinger_api import Effect
from wharfinger_dataplane import _bpf, netlink
from wharfinger_dataplane import attach as attach_module
from wharfinger_dataplane._records import SETTING_GENERATION, SETTING_LEFT_TO_STACK, InterfaceBit, pack_setting, unpack_interface
from wharfinger_dataplane.attach import POD_PROGRAMS, Mode
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


def counting(node: Node) -> Callable[[], Counter]:
    before = Counter(node.counts())
    return lambda: Counter(node.counts()) - before


def found(report: object) -> set[tuple[Effect, str, str]]:
    return {(finding.effect, finding.where, finding.reason) for finding in report.findings}


def setting(agent: NodeAgent, number: int) -> int:
    return int.from_bytes(agent.kernel.get("settings", pack_setting(number, 0)[0]), "little")


def bits(agent: NodeAgent) -> dict[str, InterfaceBit]:
    names = {each.index: each.name for each in inside(agent.node.name, netlink.interfaces)}
    return {names[int.from_bytes(key, "little")]: unpack_interface(value) for key, value in agent.kernel.items("interfaces")}


def programs(agent: NodeAgent, pod: Pod) -> list[int]:
    """Ids of what is attached to the pod by tcx."""
    return inside(agent.node.name, lambda: [number for kind in (_bpf.TCX_INGRESS, _bpf.TCX_EGRESS) for number, _ in _bpf.queried(pod.ifindex, kind)])


# what is at pods' interfaces

def test_a_pod_with_a_bandwidth_limit_is_refused_and_told_and_its_limit_holds(bare, agent):
    client, pod = bare.add_pod(bare.nodes[0], "client"), bare.add_pod(bare.nodes[1], "a")
    limited(client, f"{LIMIT_BITS}bit")
    agent.knows(client)
    agent.serves(pool_slice({"a": pod.address}))
    report = agent.round()
    assert (programs(agent, client), report.clients, agent.kernel.items("pods")) == ([], (), [])
    [refusal] = report.findings
    assert (refusal.effect, refusal.where, refusal.reason) == (Effect.REFUSED, "Pod test/client", "FiltersOfOthers")
    assert "an ingress qdisc is at the ingress of its interface v-client" in refusal.message
    assert "kubernetes.io/egress-bandwidth" in refusal.remedy
    assert report.conditions[0].status == "True"
    assert [(event["reason"], event["involvedObject"]["name"]) for event in agent.events] == [("TranslatorRefused", "client")]
    fall_back(bare.nodes[0], VIRTUAL, pod)
    with server(pod), Client(client, VIRTUAL, 80, timeout=BOUND_S) as connection:
        began = time.monotonic()
        assert connection.put(2_000_000) == checksum(2_000_000)
        assert 2_000_000 * 8 / (time.monotonic() - began) < LIMIT_BITS * 1.2


def test_a_pod_with_a_chain_of_nftables_at_its_ingress_is_refused(bare, agent):
    client, node = bare.add_pod(bare.nodes[0], "client"), bare.nodes[0]
    agent.knows(client)
    nft(node, 'add table netdev guard; add chain netdev guard in { type filter hook ingress device "v-client" priority 0; }')
    [refusal] = agent.round().findings
    assert refusal.message.startswith("nftables' chain guard in is at the ingress of its interface v-client")
    nft(node, "delete table netdev guard")
    assert found(agent.round()) == set()


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
    assert bits(agent) == {"uplink": InterfaceBit.DIRECT, "cni0": InterfaceBit.DIRECT}
    tc(bare.nodes[0], "qdisc add dev uplink clsact")
    tc(bare.nodes[0], "filter add dev uplink ingress protocol ip u32 match u32 0 0 flowid 1:1")
    report = agent.round()
    assert found(report) == {(Effect.STACK, "interface uplink", "FiltersOfOthers")}
    assert bits(agent) == {"cni0": InterfaceBit.DIRECT}
    assert inside(bare.nodes[0].name, lambda: _bpf.queried(bare.uplink(bare.nodes[0]), _bpf.TCX_INGRESS)) == []


@pytest.mark.parametrize("agent", [Mode.CLSACT], indirect=True)
def test_classic_programs_beside_an_ingress_qdisc_fail_and_leave_nothing(bare, agent):
    """Both directions' filters would go into the one that such a queueing discipline has, and one would take the other's place."""
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
        inside(node, lambda: netlink.put_filter(client.ifindex, "ingress", other.fd, "wharf_from_pod", attach_module.PRIORITY))
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
    assert (report.clients, agent.attacher.attached(), agent.kernel.items("pods"), bits(agent)) == ((), {}, [], {})
    monkeypatch.undo()
    assert agent.round().conditions[0].status == "True"


def test_programs_of_a_kernel_without_tcx_are_told_of(bare, agent, monkeypatch):
    class NoTcx(attach_module.Link):
        @staticmethod
        def create(program, index):
            raise OSError(22, "no such attach type")

    client = bare.add_pod(bare.nodes[0], "client")
    agent.knows(client)
    monkeypatch.setattr(attach_module, "Link", NoTcx)
    report = agent.round()
    assert found(report) == {(Effect.NOTED, "the node", "NoTcx")}
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
    assert (refusal.effect, refusal.where, refusal.reason) == (Effect.REFUSED, "Pod test/apart", "InterfaceKind")
    assert "of kind macvlan" in refusal.message
    assert report.conditions[0].status == "True"
    assert [event["reason"] for event in agent.events] == ["TranslatorRefused"]


# policies of IPsec

def blocked(node: Node, pod: Pod, direction: str = "out") -> None:
    sh(f"ip -n {node.name} xfrm policy add src 10.99.0.0/16 dst {pod.address}/32 dir {direction} action block")


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
        assert "dir socket" in sh(f"ip -n {bare.nodes[0].name} xfrm policy") or "socket out" in sh(f"ip -n {bare.nodes[0].name} xfrm policy")
        assert found(agent.round()) == set()


def test_a_default_that_blocks_is_a_policy(bare, agent):
    client = bare.add_pod(bare.nodes[0], "client")
    agent.knows(client)
    sh(f"ip -n {bare.nodes[0].name} xfrm policy setdefault fwd block")
    assert found(agent.round()) == {(Effect.STACK, "the node", "IpsecPolicies")}


def connects(client: Pod, address: str, port: int) -> bool:
    try:
        Client(client, address, port, timeout=4).close()
    except OSError:
        return False
    return True


def test_what_a_policy_of_ipsec_blocks_is_blocked_for_aware_connections_too(lab, pod):
    client, node = lab.pods["client"], lab.nodes[0]
    with Client(client, VIRTUAL, 80) as connection:
        connection.ask()
        blocked(node, pod)
        node.settle()
        assert not connects(client, pod.address, 8080)
        assert not connects(client, VIRTUAL, 80)
        sh(f"ip -n {node.name} xfrm policy flush")
        node.settle()
        connection.ask()


def test_connection_tracking_that_takes_nothing_in_the_middle_is_a_failure_where_packets_take_the_stack(bare, agent):
    client, node = bare.add_pod(bare.nodes[0], "client"), bare.nodes[0].name
    agent.knows(client)
    inside(node, lambda: Path("/proc/sys/net/netfilter/nf_conntrack_tcp_loose").write_text("0"))
    assert agent.round().conditions[0].status == "True"
    blocked(bare.nodes[0], client)
    [ready] = agent.round().conditions
    assert ready.status == "False"
    assert "nf_conntrack_tcp_loose to 1" in ready.message


# reverse-path filters

UNUSED = "10.99.2.200"
"""An address of the second node's pods that none of them has."""


def send(namespace: str, interface: str, frame: bytes) -> None:
    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as channel:
            channel.bind((interface, 0))
            channel.send(frame)
    inside(namespace, work)


def mac(namespace: str, interface: str) -> bytes:
    shown = sh(f"ip -n {namespace} -o link show {interface}")
    return bytes.fromhex(shown.split("link/ether ")[1].split()[0].replace(":", ""))


def from_the_wire(lab: Lab, source: str, pod: Pod, port: int, to: bytes = b"", tag: bytes = b"") -> None:
    """A SYN comes to the pod's node by its uplink; `to`: another's link address; `tag`: a VLAN's."""
    packet = tcp(f"{source}:5555", f"{pod.address}:{port}", "S", seq=9)[12:]
    frame = (to or mac(pod.node.name, "uplink")) + b"\x02\0\0\0\0\x09" + tag + packet
    send(lab.switch, f"port{pod.node.number}", frame)


@contextmanager
def reaches_nobody(pod: Pod) -> Iterator[None]:
    """None of the SYNs of `from_the_wire` meanwhile comes to the pod's stack, and none is sent on to the pod past the node's."""
    nft(pod, "add table ip seen; add chain ip seen c { type filter hook prerouting priority -400; };"
             "add rule ip seen c tcp sport 5555 counter")
    far = counting(pod.node)
    yield
    time.sleep(0.3)
    assert "counter packets 0 " in sh(f"nsenter --net=/run/netns/{pod.name} nft list table ip seen")
    assert not far()["from_net", "net_service_port"]


@pytest.fixture
def pod(lab: Lab) -> Iterator[Pod]:
    """A server on the second node that serves, its client on the first, where kube-proxy stands behind it."""
    client, made = lab.add_pod(lab.nodes[0], "client", Role.CLIENT), lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": made.address})])
    fall_back(client.node, VIRTUAL, made)
    with server(made):
        yield made


def ask(lab: Lab) -> None:
    """An aware connection works, its first SYN answered."""
    with Client(lab.pods["client"], VIRTUAL, 80, timeout=0.9) as connection:
        connection.ask()


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


@pytest.mark.parametrize("port", [8080, 20_001])
def test_a_spoofed_source_is_refused_at_a_service_port_as_at_any_other(lab, pod, port):
    for where in ("all", "uplink"):
        file = Path(f"/proc/sys/net/ipv4/conf/{where}/rp_filter")
        inside(pod.node.name, lambda file=file: file.write_text("1"))
    pod.node.settle()
    with reaches_nobody(pod):
        from_the_wire(lab, UNUSED, pod, port)
    ask(lab)


@pytest.mark.parametrize("port", [8080, 20_001])
@pytest.mark.parametrize("source", ["127.0.0.1", "224.0.0.1", "0.0.0.0", "172.31.0.2"], ids=["loopback", "group", "nobody", "own"])
def test_a_source_that_can_be_nobodys_is_refused_at_a_service_port_as_at_any_other(lab, pod, port, source):
    """Martians, which the stack refuses whatever its reverse-path filter."""
    with reaches_nobody(pod):
        from_the_wire(lab, source, pod, port)
    ask(lab)


# frames that the stack would not route

TAG = b"\x81\x00\x00\x42"


@pytest.mark.parametrize("port", [8080, 20_001])
def test_a_tagged_frame_at_the_uplink_does_not_reach_a_pod(lab, pod, port):
    with reaches_nobody(pod):
        from_the_wire(lab, "10.99.1.10", pod, port, tag=TAG)


def test_a_tagged_frame_of_a_pod_does_not_leave_the_node(lab, pod):
    client, near = lab.pods["client"], counting(lab.nodes[0])
    packet = tcp(f"{client.address}:40001", f"{VIRTUAL}:80", "S", seq=77)[12:]
    send(client.name, "eth0", mac(client.node.name, "cni0") + mac(client.name, "eth0") + TAG + packet)
    time.sleep(0.3)
    assert not near()["from_pod", "client_syn"]


@pytest.mark.parametrize("port", [8080, 20_001])
@pytest.mark.parametrize("to", [b"\x02\0\0\0\0\x77", b"\xff" * 6], ids=["another", "all"])
def test_a_frame_for_another_link_address_does_not_reach_a_pod(lab, pod, port, to):
    with reaches_nobody(pod):
        from_the_wire(lab, "10.99.1.10", pod, port, to=to)


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


@pytest.mark.parametrize("change", [
    "route add 10.77.0.0/16 via 172.31.0.2", "rule add from 10.77.0.1 lookup main", "addr add 172.31.0.77/24 dev uplink",
    "link add spare type bridge", "xfrm policy add src 10.77.0.0/16 dst 10.77.0.0/16 dir out action block"])
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


# next hops

def test_a_next_hop_of_the_other_family_is_gone_by(lab, pod):
    """IPv4 routes by IPv6 gateways (RFC 8950), as BGP without numbered links has them."""
    for node in lab.nodes:
        sh(f"ip -n {node.name} -6 addr add fe80::{node.number}/64 dev uplink nodad")
    for node, other in (lab.nodes, lab.nodes[::-1]):
        sh(f"ip -n {node.name} route replace 10.99.{other.number}.0/24 via inet6 fe80::{other.number} dev uplink")
        node.settle()
    near = counting(lab.nodes[0])
    with Client(lab.pods["client"], VIRTUAL, 80, timeout=0.9) as connection:
        assert connection.get(BYTES) == checksum(BYTES)
        assert connection.put(BYTES) == checksum(BYTES)
    assert near()["to_pod", "client_redirected"] == 1

"""What the node's stack would not let through does not get through past it either: spoofed and martian
sources, frames that are not for this node, what policies of IPsec block. At a service port all of it ends as
it does at any other port."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.lab import Lab, Node, Pod, Role, fall_back, inside, sh
from support.layouts import blocked, judging, nft
from support.packets import CONFIRM, PORT, icmp, option, tcp
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, arrives, checksum, offloads_off, server

BYTES = 300_000
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


def from_the_wire(
    lab: Lab, source: str, pod: Pod, port: int, to: bytes = b"", tag: bytes = b"", **segment: object
) -> None:
    """A SYN comes to the pod's node by its uplink; `to`: another's link address; `tag`: a VLAN's; `segment`: what
    else is in it, as `tcp` takes it."""
    packet = tcp(f"{source}:5555", f"{pod.address}:{port}", **{"flags": "S", "seq": 9, **segment})[12:]
    frame = (to or mac(pod.node.name, "uplink")) + b"\x02\0\0\0\0\x09" + tag + packet
    send(lab.switch, f"port{pod.node.number}", frame)


@contextmanager
def reaches_nobody(pod: Pod) -> Iterator[None]:
    """None of the SYNs of `from_the_wire` meanwhile comes to the pod's stack, and none is sent on to the pod
    past the node's."""
    nft(
        pod,
        "add table ip seen; add chain ip seen c { type filter hook prerouting priority -400; };"
        "add rule ip seen c tcp sport 5555 counter",
    )
    far = counting(pod.node)
    yield
    time.sleep(0.3)
    assert "counter packets 0 " in sh(f"nsenter --net=/run/netns/{pod.name} nft list table ip seen")
    counted = far()
    assert counted["from_net", "net_service_port"] == counted["from_net", "stack_source_route"]


def error_from_the_wire(lab: Lab, source: str, to: Pod, about: Pod) -> None:
    """An ICMP error comes to the pod's node by its uplink; it embeds a packet from a service port."""
    embedded = tcp(f"{about.address}:20001", f"{lab.pods['client'].address}:5555", "A")
    frame = mac(to.node.name, "uplink") + b"\x02\0\0\0\0\x09" + icmp(source, to.address, embedded)[12:]
    send(lab.switch, f"port{to.node.number}", frame)


@contextmanager
def hears_of_errors(pod: Pod) -> Iterator[Callable[[], bool]]:
    """Calling it answers whether an ICMP error has come to the pod's stack."""
    def came() -> bool:
        try:
            return bool(raw.recv(2000))
        except TimeoutError:
            return False

    with pod.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as raw:
        raw.settimeout(0.5)
        yield came


@pytest.fixture
def pod(lab: Lab) -> Iterator[Pod]:
    """A server on the second node that serves, its client on the first, where kube-proxy stands behind it."""
    client, made = (
        lab.add_pod(lab.nodes[0], "client", Role.CLIENT),
        lab.add_pod(lab.nodes[1], "a", Role.SERVER),
    )
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": made.address})])
    fall_back(client.node, VIRTUAL, made)
    with server(made):
        yield made


def ask(lab: Lab) -> None:
    """An aware connection works, its first SYN answered."""
    with Client(lab.pods["client"], VIRTUAL, 80, timeout=0.9) as connection:
        connection.ask()


def counting(node: Node) -> Callable[[], Counter]:
    before = Counter(node.counts())
    return lambda: Counter(node.counts()) - before


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


@pytest.mark.parametrize("family", ["netdev", "inet"])
def test_what_a_chain_at_a_pods_ingress_drops_is_dropped_for_aware_connections_too(lab, pod, family):
    client, node = lab.pods["client"], lab.nodes[0]
    with Client(client, VIRTUAL, 80) as connection:
        connection.ask()
        nft(
            node,
            f"add table {family} guard; add chain {family} guard in "
            "{ type filter hook ingress device v-client priority 0; };"
            f"add rule {family} guard in ip daddr {{ {pod.address}, {VIRTUAL} }} drop",
        )
        node.settle()
        assert not connects(client, pod.address, 8080)
        assert not connects(client, VIRTUAL, 80)
        nft(node, f"delete table {family} guard")
        node.settle()
        connection.ask()


def test_a_route_for_one_type_of_service_holds_for_aware_connections_too(lab, pod):
    client, node = lab.pods["client"], lab.nodes[0]

    def dial(address, port):
        with socket.socket() as made:
            made.settimeout(4)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
            return made.connect_ex((address, port)) == 0

    places = ((pod.address, 8080), (VIRTUAL, 80))
    assert all(client.run(lambda place=place: dial(*place)) for place in places)
    sh(f"ip -n {node.name} route add prohibit 10.99.2.0/24 tos 0x10")
    node.settle()
    assert not any(client.run(lambda place=place: dial(*place)) for place in places)
    ask(lab)
    sh(f"ip -n {node.name} route del prohibit 10.99.2.0/24 tos 0x10")
    node.settle()
    assert all(client.run(lambda place=place: dial(*place)) for place in places)


def forwarding(node: Node, interface: str, value: int) -> None:
    file = Path(f"/proc/sys/net/ipv4/conf/{interface}/forwarding")
    inside(node.name, lambda: file.write_text(f"{value}"))
    node.settle()


def test_from_a_bridge_that_does_not_forward_nothing_is_sent_on(lab, pod):
    client, node = lab.pods["client"], lab.nodes[0]
    with Client(client, VIRTUAL, 80) as connection:
        connection.ask()
        forwarding(node, "cni0", 0)
        assert not connects(client, pod.address, 8080)
        assert not connects(client, VIRTUAL, 80)
        forwarding(node, "cni0", 1)
        connection.ask()


def test_whether_a_bridges_port_forwards_by_itself_is_of_no_matter(lab, pod):
    client, near = lab.pods["client"], counting(lab.nodes[0])
    for each in (client, pod):
        forwarding(each.node, f"v-{each.short}", 0)
    with Client(client, VIRTUAL, 80, timeout=0.9) as connection:
        assert connection.get(BYTES) == checksum(BYTES)
        assert connection.put(BYTES) == checksum(BYTES)
    assert near()["to_pod", "client_redirected"] == 1
    assert not near()["from_pod", "stack_no_route"]


def strict(node: Node) -> None:
    """Its stack takes no source by the uplink that a route by another interface leads to."""
    for where in ("all", "uplink"):
        file = Path(f"/proc/sys/net/ipv4/conf/{where}/rp_filter")
        inside(node.name, lambda file=file: file.write_text("1"))
    node.settle()


@pytest.mark.parametrize("port", [8080, 20_001])
def test_a_spoofed_source_is_refused_at_a_service_port_as_at_any_other(lab, pod, port):
    strict(pod.node)
    with reaches_nobody(pod):
        from_the_wire(lab, UNUSED, pod, port)
    ask(lab)


def test_a_spoofed_answer_of_which_no_record_speaks_is_refused(lab, pod):
    """It names a port, and goes to a service port of a pod that is a client as well."""
    both = lab.add_pod(lab.nodes[1], "both", Role.CLIENT | Role.SERVER)
    lab.nodes[1].tables.apply([pool_slice({"a": pod.address, "both": both.address}, generation=2)])
    strict(both.node)
    with reaches_nobody(both):
        from_the_wire(lab, UNUSED, both, 20_002, flags="SA", ack=77, options=option(CONFIRM | PORT, 20_001))
    ask(lab)


@pytest.mark.parametrize("port", [8080, 20_001])
@pytest.mark.parametrize(
    "source", ["127.0.0.1", "224.0.0.1", "0.0.0.0", "172.31.0.2"], ids=["loopback", "group", "nobody", "own"]
)
def test_a_source_that_can_be_nobodys_is_refused_at_a_service_port_as_at_any_other(lab, pod, port, source):
    """Martians, which the stack refuses whatever its reverse-path filter."""
    with reaches_nobody(pod):
        from_the_wire(lab, source, pod, port)
    ask(lab)


def test_an_error_to_another_pod_than_it_is_about_is_judged_as_any_packet(lab, pod):
    """A rule of the node keeps strangers from pod b; what is inside the error is about pod a."""
    other = lab.add_pod(pod.node, "b", Role.CLIENT)
    nft(
        pod.node,
        "add table ip guard; add chain ip guard f { type filter hook forward priority 0; };"
        f"add rule ip guard f ip daddr {other.address} drop",
    )
    with hears_of_errors(other) as other_hears, hears_of_errors(pod) as pod_hears:
        error_from_the_wire(lab, "172.31.0.1", other, pod)
        assert not other_hears()
        error_from_the_wire(lab, "172.31.0.1", pod, pod)
        assert pod_hears()


@pytest.mark.parametrize(
    "source", [UNUSED, "127.0.0.1", "224.0.0.1", "172.31.0.2"], ids=["a pod's", "loopback", "group", "own"]
)
def test_an_error_from_a_spoofed_source_is_refused_as_any_packet(lab, pod, source):
    strict(pod.node)
    with hears_of_errors(pod) as hears:
        error_from_the_wire(lab, source, pod, pod)
        assert not hears()
        error_from_the_wire(lab, "172.31.0.1", pod, pod)
        assert hears()


@pytest.mark.parametrize("port", [8080, 20_001])
@pytest.mark.parametrize("kind", [131, 137], ids=["loose", "strict"])
def test_a_source_route_is_refused_at_a_service_port_as_at_any_other(lab, pod, port, kind):
    """All its hops are behind it. The node takes no source routes."""
    file = Path("/proc/sys/net/ipv4/conf/all/accept_source_route")
    inside(pod.node.name, lambda: file.write_text("0"))
    with reaches_nobody(pod):
        from_the_wire(lab, "10.99.1.10", pod, port, ip=bytes([kind, 7, 8, 10, 99, 1, 10, 0]))
    ask(lab)


RECORD_ROUTE = bytes([1, 7, 15, 4]) + bytes(12)
"""NOP, and room for three addresses."""
NOPS = bytes([1, 1, 1, 1])


@pytest.mark.parametrize("port", [80, 20_001])
@pytest.mark.parametrize("options", [RECORD_ROUTE, NOPS], ids=["record route", "nothing but padding"])
@pytest.mark.parametrize("when", ["from its SYN on", "once it is established"])
def test_a_connection_with_other_options_of_ip_is_aware_and_goes_on(lab, port, options, when):
    """The server's stack writes a route to record into its answers, and leaves the padding out."""
    client = lab.add_pod(lab.nodes[0], "client", Role.CLIENT)
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    offloads_off(client, pod)
    judging(*lab.nodes)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address})])

    def dial() -> socket.socket:
        made = socket.socket()
        made.settimeout(5)
        if when == "from its SYN on":
            made.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        made.connect((VIRTUAL, port))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        return made

    with (
        pod.run(lambda: socket.create_server((pod.address, 8080))) as listener,
        client.run(dial) as near,
        listener.accept()[0] as far,
    ):
        far.settimeout(5)
        assert arrives(near, far, BYTES)
        assert arrives(far, near, BYTES)
    assert lab.nodes[0].counts()["to_pod", "client_redirected" if port == 80 else "client_confirmed"] == 1


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


def test_a_next_hop_of_the_other_family_is_gone_by(lab, pod):
    """IPv4 routes by IPv6 gateways (RFC 8950), as BGP without numbered links has them."""
    for node in lab.nodes:
        sh(f"ip -n {node.name} -6 addr add fe80::{node.number}/64 dev uplink nodad")
    for node, other in (lab.nodes, lab.nodes[::-1]):
        sh(
            f"ip -n {node.name} route replace 10.99.{other.number}.0/24 "
            f"via inet6 fe80::{other.number} dev uplink"
        )
        node.settle()
    near = counting(lab.nodes[0])
    with Client(lab.pods["client"], VIRTUAL, 80, timeout=0.9) as connection:
        assert connection.get(BYTES) == checksum(BYTES)
        assert connection.put(BYTES) == checksum(BYTES)
    assert near()["to_pod", "client_redirected"] == 1

"""Nodes as CNI plugins lay them out, made of a lab's: each function changes one thing, and they go
together."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wharfinger_dataplane import _bpf, netlink_node
from wharfinger_dataplane._records import Role
from wharfinger_dataplane.attach import UPLINK_PROGRAMS

from support.lab import Lab, Node, Pod, inside, sh

SOURCE = Path(__file__).with_name("passing.bpf.c")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000  # linux/if_tun.h
TUNNEL_MTU = 1480
NFPROTO_NETDEV, NFTA_HOOK_PRIORITY, NFTA_CHAIN_TYPE = 5, 2, 7  # linux/netfilter/nf_tables.h
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES = 16, 17, 10  # linux/netfilter/nfnetlink.h
NLM_F_REQUEST, NLM_F_CREATE = 0x1, 0x405
"""The latter with what asks for an answer, and is a request too."""


def tc(node: Node, words: str) -> str:
    return sh(f"tc -n {node.name} {words}")


def nft(node: Node | Pod, rules: str) -> None:
    subprocess.run(["nsenter", f"--net=/run/netns/{node.name}", "nft", rules], check=True)


def chain_by_prefix(node: Node, prefix: str) -> None:
    """A chain of nftables' family netdev, `guard in`, at the ingress of every interface whose name begins
    so. nft(8) of before 2025 cannot say that, and kernels before 6.18 cannot do it: OSError."""
    device = _attribute(netlink_node.NFTA_DEVICE_PREFIX, prefix.encode() + b"\0")
    hook = _attribute(netlink_node.NFTA_HOOK_HOOKNUM, bytes(4)) + _attribute(NFTA_HOOK_PRIORITY, bytes(4))
    hook += _attribute(netlink_node.NFTA_HOOK_DEVS, device, nested=True)
    table = _attribute(netlink_node.NFTA_CHAIN_TABLE, b"guard\0")
    chain = table + _attribute(netlink_node.NFTA_CHAIN_NAME, b"in\0")
    chain += _attribute(netlink_node.NFTA_CHAIN_HOOK, hook, nested=True) + _attribute(
        NFTA_CHAIN_TYPE, b"filter\0"
    )
    batch = [
        (NFNL_MSG_BATCH_BEGIN, 0, socket.htons(NFNL_SUBSYS_NFTABLES), b""),
        (netlink_node.NFT_MSG_NEWCHAIN, NFPROTO_NETDEV, 0, chain),
        (NFNL_MSG_BATCH_END, 0, socket.htons(NFNL_SUBSYS_NFTABLES), b""),
    ]
    nft(node, "add table netdev guard")
    inside(node.name, lambda: _send_batch(batch))


def _attribute(kind: int, value: bytes, *, nested: bool = False) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind | nested << 15) + value + bytes(-len(value) % 4)


def _send_batch(messages: list[tuple[int, int, int, bytes]]) -> None:
    """(type, family, resource, attributes) of each, in one batch of NETLINK_NETFILTER; OSError when the
    kernel refuses one."""
    data = b"".join(
        struct.pack("=IHHIIBxH", 20 + len(body), kind, NLM_F_CREATE if body else NLM_F_REQUEST, 0, 0, *rest)
        + body
        for kind, *rest, body in messages
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink_node.NETLINK_NETFILTER) as channel:
        channel.settimeout(1)
        channel.send(data)
        number = -struct.unpack_from("=i", channel.recv(1 << 12), 16)[0]
        if number:
            raise OSError(number, os.strerror(number))


def tracked(node: Node, pod: Pod) -> list[str]:
    """What the node's connection tracking has of the pod's TCP, a line each. The node's rules must ask for
    it, or nothing is tracked."""
    listed = sh(f"nsenter --net=/run/netns/{node.name} conntrack -L -p tcp")
    return [line for line in listed.splitlines() if f"src={pod.address} " in line]


def judging(*nodes: Node) -> None:
    """What kube-proxy does beside balancing: half of a connection is INVALID, and dropped."""
    for node in nodes:
        nft(
            node,
            "add table ip judge; add chain ip judge f { type filter hook forward priority 0; };"
            "add rule ip judge f ct state invalid counter drop",
        )


def judged(node: Node) -> int:
    """How many packets `judging` dropped."""
    listed = sh(f"nsenter --net=/run/netns/{node.name} nft list table ip judge")
    return int(listed.split("packets ")[1].split()[0])


def routed_pod(lab: Lab, node: Node, name: str, roles: Role | None = None) -> Pod:
    """A pod as Calico has it: no bridge, an address of its own (/32), a gateway that is nobody's and that the
    node answers for."""
    full = lab.namespace(name)
    address = f"10.99.{node.number}.{10 + len(lab.pods)}"
    sh(f"ip -n {node.name} link add v-{name} type veth peer name eth0 netns {full}")
    for setting, value in ((f"conf/v-{name}/proxy_arp", "1"), (f"neigh/v-{name}/proxy_delay", "0")):
        inside(
            node.name,
            lambda setting=setting, value=value: Path("/proc/sys/net/ipv4", setting).write_text(value),
        )
    sh(f"ip -n {node.name} link set v-{name} up")
    sh(f"ip -n {node.name} route add {address}/32 dev v-{name} scope link")
    sh(f"ip -n {full} addr add {address}/32 dev eth0")
    sh(f"ip -n {full} link set eth0 up")
    sh(f"ip -n {full} route add 169.254.1.1 dev eth0 scope link")
    sh(f"ip -n {full} route add default via 169.254.1.1 dev eth0")
    return lab.enter(Pod(full, node, address, lab.index(node, f"v-{name}")), roles)


def without_bridges(lab: Lab) -> None:
    """Nodes of `routed_pod` have none; their way to everything else is the default route, for which the
    gateway's address is answered."""
    lab.add_outside()
    for node in lab.nodes:
        sh(f"ip -n {node.name} link del cni0")


def over_vxlan(lab: Lab) -> None:
    """Other nodes' pods are reached by a VXLAN device, as Flannel and Calico have it: its neighbours are
    written, not learned."""
    macs = {}
    for node in lab.nodes:
        sh(
            f"ip -n {node.name} link add flannel.1 mtu 1450 type vxlan id 1 local {node.address} "
            "dstport 8472 nolearning dev uplink"
        )
        sh(f"ip -n {node.name} addr add 10.99.{node.number}.0/32 dev flannel.1")
        sh(f"ip -n {node.name} link set flannel.1 up")
        macs[node.number] = sh(f"ip -n {node.name} -o link show flannel.1").split("link/ether ")[1].split()[0]
    for node in lab.nodes:
        for other in lab.nodes:
            if other is not node:
                gateway = f"10.99.{other.number}.0"
                sh(
                    f"ip -n {node.name} neigh add {gateway} lladdr {macs[other.number]} "
                    "dev flannel.1 nud permanent"
                )
                sh(f"bridge -n {node.name} fdb add {macs[other.number]} dev flannel.1 dst {other.address}")
                sh(
                    f"ip -n {node.name} route replace 10.99.{other.number}.0/24 via {gateway} "
                    "dev flannel.1 onlink"
                )
        lab.attach(node, "flannel.1", *UPLINK_PROGRAMS)
    shorten(lab, 1450)


def shorten(lab: Lab, mtu: int) -> None:
    """Pods' interfaces as plugins make them where a tunnel takes some bytes of each packet."""
    for pod in lab.pods.values():
        sh(f"ip -n {pod.name} link set eth0 mtu {mtu}")


def nested(lab: Lab, pod: Pod, mtu: int) -> str:
    """A namespace in the pod, as of a container engine, which has the pod's port 8080 and dials by the pod's
    address. The pod has a link of `mtu` bytes to it, of which nobody but the pod knows."""
    name = lab.namespace(f"in-{pod.short}")
    sh(f"ip -n {pod.name} link add inner mtu {mtu} type veth peer name eth0 netns {name}")
    sh(f"ip -n {pod.name} addr add 172.20.0.1/24 dev inner")
    sh(f"ip -n {pod.name} link set inner up")
    sh(f"ip -n {name} addr add 172.20.0.2/24 dev eth0")
    sh(f"ip -n {name} link set eth0 up")
    sh(f"ip -n {name} route add default via 172.20.0.1")
    inside(pod.name, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
    nft(
        pod,
        "add table ip engine; add chain ip engine p { type nat hook prerouting priority dstnat; };"
        "add rule ip engine p iifname eth0 tcp dport 8080 dnat to 172.20.0.2:8080;"
        "add chain ip engine s { type nat hook postrouting priority srcnat; };"
        "add rule ip engine s oifname eth0 masquerade",
    )
    for namespace, interface in ((name, "eth0"), (pod.name, "inner"), (pod.name, "eth0")):
        sh(f"nsenter --net=/run/netns/{namespace} ethtool -K {interface} tx off tso off gso off gro off")
    return name


@contextmanager
def over_tunnel(lab: Lab) -> Iterator[None]:
    """The two nodes' pods reach each other by an interface without Ethernet headers. A TUN device stands for
    IPIP and WireGuard, which not every kernel has: to the node's stack and to programs all three look alike,
    and this one's other side is carried by hand."""
    ends = [inside(node.name, _open_tunnel) for node in lab.nodes]
    stop = os.eventfd(0)
    carrier = threading.Thread(target=_carry, args=(*ends, stop))
    carrier.start()
    try:
        for node, other in (lab.nodes, lab.nodes[::-1]):
            sh(f"ip -n {node.name} link set tunl0 up mtu {TUNNEL_MTU}")
            sh(f"ip -n {node.name} route replace 10.99.{other.number}.0/24 dev tunl0")
            node.settle()
        shorten(lab, TUNNEL_MTU)
        yield
    finally:
        os.eventfd_write(stop, 1)
        carrier.join()
        for fd in (*ends, stop):
            os.close(fd)


def _open_tunnel() -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tunl0", IFF_TUN | IFF_NO_PI))
    return fd


def _carry(one: int, other: int, stop: int) -> None:
    while True:
        ready = select.select([one, other, stop], [], [])[0]
        if stop in ready:
            return
        for source in ready:
            try:
                os.write(other if source == one else one, os.read(source, 65536))
            except OSError as error:  # nothing there, no room, or the other end is down: a wire loses, too
                if error.errno not in (errno.EAGAIN, errno.EIO):
                    raise


def second_uplinks(lab: Lab) -> None:
    """Each node has a second interface on a wire of its own, by which table 2 leads to other nodes' pods;
    nobody asks that table yet."""
    sh(f"ip -n {lab.switch} link add br1 type bridge")
    sh(f"ip -n {lab.switch} link set br1 up")
    for node in lab.nodes:
        sh(f"ip -n {lab.switch} link add second{node.number} type veth peer name eth1 netns {node.name}")
        sh(f"ip -n {lab.switch} link set second{node.number} master br1 up")
        sh(f"ip -n {node.name} addr add 172.32.0.{node.number}/24 dev eth1")
        sh(f"ip -n {node.name} link set eth1 up")
    for node in lab.nodes:
        for other in lab.nodes:
            if other is not node:
                sh(
                    f"ip -n {node.name} route add 10.99.{other.number}.0/24 via 172.32.0.{other.number} "
                    "dev eth1 table 2"
                )
        lab.attach(node, "eth1", *UPLINK_PROGRAMS)


def macvlan_pod(lab: Lab, node: Node, name: str) -> Pod:
    """A pod whose interface is a macvlan of the node's uplink: the node has no side of it."""
    full = lab.namespace(name)
    address = f"172.31.0.{100 + len(lab.pods)}"
    sh(f"ip -n {node.name} link add link uplink name eth0 netns {full} type macvlan mode bridge")
    sh(f"ip -n {full} addr add {address}/24 dev eth0")
    sh(f"ip -n {full} link set eth0 up")
    for other in lab.nodes:
        if other is not node:
            sh(f"ip -n {full} route add 10.99.{other.number}.0/24 via {other.address}")
    return lab.enter(Pod(full, node, address, 0), None)


def blocked(node: Node, pod: Pod, direction: str = "out") -> None:
    """A policy of IPsec of the node: what goes to the pod from others is not let through."""
    sh(
        f"ip -n {node.name} xfrm policy add src 10.99.0.0/16 dst {pod.address}/32 "
        f"dir {direction} action block"
    )


def limited(pod: Pod, rate: str) -> None:
    """What the bandwidth plugin does for kubernetes.io/egress-bandwidth: all that the pod sends takes a
    detour by an ifb device with a queue."""
    node, interface = pod.node, f"v-{pod.short}"
    sh(f"ip -n {node.name} link add ifb-{pod.short} type ifb")
    sh(f"ip -n {node.name} link set ifb-{pod.short} up")
    tc(node, f"qdisc add dev ifb-{pod.short} root handle 1: htb default 1")
    tc(node, f"class add dev ifb-{pod.short} parent 1: classid 1:1 htb rate {rate}")
    tc(node, f"qdisc add dev {interface} ingress")
    tc(
        node,
        f"filter add dev {interface} parent ffff: protocol ip u32 match u32 0 0 "
        f"action mirred egress redirect dev ifb-{pod.short}",
    )


class Foreign:
    """Programs of somebody else at an interface, that count and let pass (passing.bpf.c)."""

    def __init__(self, node: Node, folder: Path) -> None:
        target = folder / "passing.bpf.o"
        subprocess.run(
            [
                "clang",
                "-O2",
                "-g",
                "-Wall",
                "-Werror",
                "-target",
                "bpf",
                "-mcpu=v3",
                "-I/usr/include/x86_64-linux-gnu",
                "-I/usr/include/aarch64-linux-gnu",
                "-c",
                str(SOURCE),
                "-o",
                str(target),
            ],
            check=True,
        )
        self.object = _bpf.Object(target, folder / f"pins-{node.name}")
        self._node, self._links = node, []

    def join(self, index: int, program: str, *, first: bool = False) -> None:
        """Its `program` ("before" or "after") is at the interface's ingress, before all others or after
        them."""
        self._links.append(
            inside(self._node.name, lambda: _bpf.Link.create(self.object.programs[program], index, first))
        )
        self._node.settle()

    def seen(self, program: str) -> int:
        """Packets of TCP that it saw."""
        key = {"before": 0, "after": 1}[program].to_bytes(4, "little")
        return sum(int.from_bytes(one, "little") for one in self.object.maps["seen"].get_per_cpu(key))

    def close(self) -> None:
        for link in self._links:
            link.close()
        self.object.close()

"""Nodes and pods as network namespaces on one machine: bridges, uplinks and routes as a plain bridge CNI lays them, with the real programs
attached. What a test sees here is the kernel's own forwarding, and TCP's.

    pod - veth - bridge [node] uplink - switch - uplink [node] bridge - veth - pod
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns
from wharfinger_dataplane import _bpf, _engine, netlink
from wharfinger_dataplane._records import (
    SETTING_GENERATION,
    SETTING_LEFT_TO_STACK,
    SETTING_MADE,
    TRACES_ALL,
    Asked,
    Batch,
    InterfaceBit,
    Role,
    pack_index,
    pack_setting,
    pack_tracing,
    pack_v4,
    unpack_interface,
)
from wharfinger_dataplane.agent.moves import Asker
from wharfinger_dataplane.agent.surroundings import look
from wharfinger_dataplane.agent.ways import Ways, ways
from wharfinger_dataplane.attach import POD_PROGRAMS, PRIORITY, UPLINK_PROGRAMS, Mode
from wharfinger_dataplane.kernel import CONNECTION_TABLES
from wharfinger_dataplane.tables import Tables

T = TypeVar("T")
SMALL = dict.fromkeys(CONNECTION_TABLES, 1024)
"""Capacities of tables of connections that are quickly made."""
OBJECT = Path(_bpf.__file__).with_name("wharfinger.bpf.o")
PREFIX = os.environ.get("WHARFINGER_LAB", "wharf-lab")
"""Of the namespaces' names, so that two checkouts' tests can run at the same time."""
PROGRAMS = {"wharf_from_pod": "from_pod", "wharf_to_pod": "to_pod", "wharf_from_net": "from_net"}


def sh(command: str, **options) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Runs `work` in a thread of its own that has entered the namespace, and returns or raises what it does."""
    outcome: list = []

    def run() -> None:
        try:
            netns.setns(namespace)
            outcome.append((work(), None))
        except BaseException as error:  # handed to the caller's thread below
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = outcome[0]
    if error:
        raise error
    return value


@dataclass
class Store:
    """The kernel's maps as the tables' store."""

    maps: dict
    programs: dict = field(default_factory=dict)

    def ask(self, frame: bytes, ifindex: int) -> Asked:
        return Asked(self.programs["wharf_ask"].run(frame, ifindex=ifindex)[0])

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.maps[table].put(key, value)

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.maps[table].get(key)

    def delete(self, table: str, key: bytes) -> bool:
        return self.maps[table].delete(key)

    def items(self, table: str) -> list[tuple[bytes, bytes]]:
        return self.maps[table].items()

    def capacity(self, table: str) -> int:
        return self.maps[table].max_entries

    def batches(self, table: str) -> Iterator[Batch]:
        return (Batch(*found) for found in self.maps[table].buffers())

    def take(self, table: str, key: bytes) -> bytes | None:
        return self.maps[table].take(key)

    def set(self, setting: int, value: int) -> None:
        self.maps["settings"].put(*pack_setting(setting, value))

    def outdate(self) -> None:
        generation = int.from_bytes(self.maps["settings"].get(pack_index(SETTING_GENERATION)), "little")
        self.set(SETTING_GENERATION, generation + 1)


@dataclass
class Node:
    """A node: its namespace, its programs and its tables."""

    name: str
    number: int
    bpf: _bpf.Object
    tables: Tables
    spare: bool
    links: list[_bpf.Link | Filter] = field(default_factory=list)
    ways: Ways | None = None
    """What was last told of its interfaces."""

    @property
    def address(self) -> str:
        return f"172.31.0.{self.number}"

    def trace(self, key: bytes = bytes(16), traced: int = TRACES_ALL) -> None:
        """As Kernel.trace."""
        for setting, value in pack_tracing(key, traced):
            self.bpf.maps["settings"].put(setting, value)

    def settle(self) -> Ways:
        """Tells the programs what holds of the node's interfaces now, as the agent would of what is attached."""
        self.ways = inside(self.name, lambda: ways(look(), attached(self.bpf.programs.values())))
        settings = self.bpf.maps["settings"]
        self.tables.put_interfaces(self.ways.bits, self.ways.incoming)
        settings.put(*pack_setting(SETTING_LEFT_TO_STACK, int(self.ways.left_to_stack)))
        key, _ = pack_setting(SETTING_GENERATION, 0)
        settings.put(*pack_setting(SETTING_GENERATION, int.from_bytes(settings.get(key), "little") + 1))
        return self.ways

    def ask(self, *servers: Pod, ports: Iterable[int] = (20_001,)) -> dict[Asked, int]:
        """These servers of the node ask their clients to move, once: what became of it."""
        asker = Asker(self.tables._store)
        asker.say({pack_v4(server.address): frozenset(ports) for server in servers})
        inside(self.name, asker.ask)
        return dict(asker.asked)

    def bits(self) -> dict[str, InterfaceBit]:
        """What the programs were told of each interface, by its name."""
        names = {found.index: found.name for found in inside(self.name, netlink.interfaces)}
        told = {int.from_bytes(key, "little"): unpack_interface(value).bits for key, value in self.bpf.maps["interfaces"].items()}
        return {names[index]: bits for index, bits in told.items() if bits}

    def counts(self) -> dict[tuple[str, str], int]:
        """Packets by (hook, reason), those not zero."""
        out = {}
        stride = self.bpf.maps["counters"].max_entries // len(_engine.HOOKS)
        for h, hook in enumerate(_engine.HOOKS):
            for reason in _engine.REASONS:
                cells = self.bpf.maps["counters"].get_per_cpu((h * stride + reason.number).to_bytes(4, "little"))
                packets = sum(int.from_bytes(cell[:8], "little") for cell in cells)
                if packets:
                    out[hook, reason.name] = packets
        return out


@dataclass
class Pod:
    name: str
    node: Node
    address: str
    ifindex: int

    @property
    def short(self) -> str:
        """Its name without the lab's prefix."""
        return self.name.rsplit("-", 1)[1]

    def run(self, work: Callable[[], T]) -> T:
        return inside(self.name, work)


@dataclass
class Filter:
    """A program attached the classic way, until it is closed."""

    namespace: str
    index: int
    program: _bpf.Program

    @property
    def direction(self) -> str:
        return "ingress" if self.program.attach_type == _bpf.TCX_INGRESS else "egress"

    def put(self) -> Filter:
        """In the calling thread's namespace."""
        netlink.put_filter(self.index, self.direction, self.program.fd, self.program.name, PRIORITY)
        return self

    def close(self) -> None:
        inside(self.namespace, lambda: netlink.drop_filter(self.index, self.direction, PRIORITY))


def attached(programs: Iterable[_bpf.Program]) -> dict[int, frozenset[str]]:
    """Interface -> names of those of `programs` that the kernel says are at it, in the calling thread's namespace."""
    names = {program.number: program.name for program in programs}
    found = {}
    for interface in netlink.interfaces():
        ids = {number for kind in (_bpf.TCX_INGRESS, _bpf.TCX_EGRESS) for number, _ in _bpf.queried(interface.index, kind)}
        classic = {name for direction in netlink.CLSACT_PARENTS for name in netlink.filter_names(interface.index, direction)}
        found[interface.index] = frozenset({names[number] for number in ids & names.keys()} | (classic & set(names.values())))
    return {index: each for index, each in found.items() if each}


def clear(maps: Mapping[str, _bpf.Map]) -> None:
    """Makes the programs' maps as if they were new."""
    for name in _engine.TABLES:
        for key, _ in maps[name].items():
            maps[name].delete(key)
    for name in ("counters", "turns", "settings", "events_lost"):
        for number in range(maps[name].max_entries):
            key = pack_index(number)
            if any(value := maps[name].get(key)):
                maps[name].put(key, bytes(len(value)))
    _bpf.Ring(maps["events"]).drain()


class Spares:
    """Loaded programs for one lab after the other: the verifier takes two seconds for each node's."""

    def __init__(self, pins: Path) -> None:
        self._pins, self._made, self._idle = pins, [], []

    def take(self) -> _bpf.Object:
        """Programs whose maps are as if new."""
        if self._idle:
            return self._idle.pop()
        self._made.append(_bpf.Object(OBJECT, self._pins / f"spare{len(self._made)}"))
        return self._made[-1]

    def give_back(self, bpf: _bpf.Object) -> None:
        """They are at no interface any more."""
        clear(bpf.maps)
        self._idle.append(bpf)

    def close(self) -> None:
        for bpf in self._made:
            bpf.close()


class Lab:
    """Builds it all under one prefix, and takes all of it away again; but for `spares`, which other labs have after it."""

    def __init__(self, pins: Path, prefix: str = PREFIX, spares: Spares | None = None, mode: Mode = Mode.TCX) -> None:
        self.prefix, self.pins, self._spares, self._mode = prefix, pins, spares, mode
        self.nodes: list[Node] = []
        self.pods: dict[str, Pod] = {}
        self._namespaces: list[str] = []
        self.switch = self.namespace("switch")
        sh(f"ip -n {self.switch} link add br0 type bridge")
        sh(f"ip -n {self.switch} link set br0 up")

    def namespace(self, name: str) -> str:
        """A namespace of the lab's; its whole name."""
        full = f"{self.prefix}-{name}"
        if full in netns.listnetns():
            netns.remove(full)
        netns.create(full)
        self._namespaces.append(full)
        sh(f"ip -n {full} link set lo up")
        return full

    def add_outside(self) -> str:
        """The namespace of a host that is no node, on the nodes' wire as `eth0`: their way to everything else, where all that they send ends."""
        full = self.namespace("outside")
        sh(f"ip -n {self.switch} link add outside type veth peer name eth0 netns {full}")
        sh(f"ip -n {self.switch} link set outside master br0 up")
        sh(f"ip -n {full} addr add 172.31.0.254/24 dev eth0")
        sh(f"ip -n {full} link set eth0 up")
        for node in self.nodes:
            sh(f"ip -n {node.name} route add default via 172.31.0.254")
        return full

    def add_node(self, attach: bool = True, capacity: Mapping[str, int] | None = None) -> Node:
        """`capacity`: entries of maps that shall differ from what the object says."""
        number = len(self.nodes) + 1
        name = self.namespace(f"node{number}")
        sh(f"ip -n {self.switch} link add port{number} type veth peer name uplink netns {name}")
        sh(f"ip -n {self.switch} link set port{number} master br0 up")
        sh(f"ip -n {name} addr add 172.31.0.{number}/24 dev uplink")
        sh(f"ip -n {name} link set uplink up")
        sh(f"ip -n {name} link add cni0 type bridge")
        sh(f"ip -n {name} addr add 10.99.{number}.1/24 dev cni0")
        sh(f"ip -n {name} link set cni0 up")
        inside(name, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        spare = self._spares.take() if self._spares and capacity is None else None
        bpf = spare or _bpf.Object(OBJECT, self.pins / name, capacity)
        node = Node(name, number, bpf, Tables(Store(bpf.maps, bpf.programs)), spare is not None)
        node.trace()
        bpf.maps["settings"].put(*pack_setting(SETTING_MADE, number))
        for other in self.nodes:
            sh(f"ip -n {name} route add 10.99.{other.number}.0/24 via {other.address}")
            sh(f"ip -n {other.name} route add 10.99.{number}.0/24 via {node.address}")
        self.nodes.append(node)
        if attach:
            self.attach(node, "uplink", *UPLINK_PROGRAMS)
        return node

    def uplink(self, node: Node) -> int:
        """Its interface index."""
        return self.index(node, "uplink")

    def index(self, node: Node, interface: str) -> int:
        """An interface's index at the node."""
        return _ifindex(node.name, interface)

    def attach(self, node: Node, interface: str, *programs: str) -> None:
        """Attaches programs, and tells them what holds then."""
        def work() -> None:
            index = _ifindex(node.name, interface)
            for program in map(node.bpf.programs.__getitem__, programs):
                classic = self._mode is Mode.CLSACT
                node.links.append(Filter(node.name, index, program).put() if classic else _bpf.Link.create(program, index))
        inside(node.name, work)
        node.settle()

    def add_pod(self, node: Node, name: str, roles: Role | None = None) -> Pod:
        """A pod on the node's bridge; `roles` None: a pod that is none of our business."""
        full = self.namespace(name)
        address = f"10.99.{node.number}.{10 + len(self.pods)}"
        sh(f"ip -n {node.name} link add v-{name} type veth peer name eth0 netns {full}")
        sh(f"ip -n {node.name} link set v-{name} master cni0 up")
        sh(f"ip -n {full} addr add {address}/24 dev eth0")
        sh(f"ip -n {full} link set eth0 up")
        sh(f"ip -n {full} route add default via 10.99.{node.number}.1")
        return self.enter(Pod(full, node, address, _ifindex(node.name, f"v-{name}")), roles)

    def enter(self, pod: Pod, roles: Role | None) -> Pod:
        """The pod is the lab's, and has our programs if it has `roles`."""
        self.pods[pod.short] = pod
        if roles is not None:
            self.attach(pod.node, f"v-{pod.short}", *POD_PROGRAMS)
            self.know(pod, roles)
        return pod

    def know(self, pod: Pod, roles: Role) -> None:
        """The pod's node has it in its tables, as its agent would."""
        namespace = inside(pod.node.name, lambda: netlink.interface(pod.ifindex)).peer_namespace
        pod.node.tables.put_pod(pod.address, pod.ifindex, roles, namespace)

    def close(self) -> None:
        for node in self.nodes:
            for link in node.links:
                link.close()
            if self._spares and node.spare:
                self._spares.give_back(node.bpf)
                continue
            node.bpf.close()
            for pin in sorted((self.pins / node.name).rglob("*"), reverse=True):
                pin.unlink() if not pin.is_dir() else pin.rmdir()
            (self.pins / node.name).rmdir()
        for name in reversed(self._namespaces):
            netns.remove(name)


def fall_back(node: Node, address: str, pod: Pod) -> None:
    """What kube-proxy does for those who are unaware: the virtual address becomes a server's."""
    rules = ("add table ip proxy; add chain ip proxy p { type nat hook prerouting priority dstnat; };"
             f"add rule ip proxy p ip daddr {address} tcp dport 80 dnat to {pod.address}:8080;"
             "add chain ip proxy m { type nat hook postrouting priority srcnat; };"
             f"add rule ip proxy m ip saddr {pod.address} ip daddr {pod.address} masquerade")
    subprocess.run(["nsenter", f"--net=/run/netns/{node.name}", "nft", rules], check=True)


def _ifindex(namespace: str, interface: str) -> int:
    return int(sh(f"ip -n {namespace} -o link show {interface}").split(":")[0])


@contextmanager
def bpffs(path: Path) -> Iterator[Path]:
    """A BPF file system of the test's own."""
    path.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(path):
        sh(f"mount -t bpf bpf {path}")
    try:
        yield path
    finally:
        sh(f"umount {path}")

"""A node that is left (docs/architecture.md, "Uninstall"): real connections have their grace, and nothing of ours stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.lab import SMALL, Lab, Node, Pod, Role, bpffs, inside, sh
from support.programs import attached, exists
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, server
from wharfinger_dataplane import netlink
from wharfinger_dataplane.agent.leave import QUIET_S, Leave, Marker, withdrawn
from wharfinger_dataplane.agent.namespaces import Namespaces
from wharfinger_dataplane.agent.surroundings import look
from wharfinger_dataplane.agent.ways import ways
from wharfinger_dataplane.attach import POD_PROGRAMS, UPLINK_PROGRAMS, Attacher, Mode
from wharfinger_dataplane.kernel import Kernel
from wharfinger_dataplane.tables import Tables


class Agent:
    """What an agent has of one node, put together as the agent does it; its clock is told."""

    def __init__(self, lab: Lab, node: Node, fs: Path, directory: Path, mode: Mode, **pods: tuple[Pod, Role]) -> None:
        self.node, self.root, self.now_s = node, fs / node.name / "wharfinger", 1000.0
        self.kernel = Kernel.open(fs / node.name, SMALL)
        self.attacher = Attacher(self.kernel.programs, self.kernel.links, mode)
        self.tables = Tables(self.kernel)
        self.namespaces = Namespaces(directory)
        self.leave = Leave(self.kernel, self.attacher, self.namespaces)
        self.interfaces = [lab.uplink(node), *(pod.ifindex for pod, _ in pods.values())]
        wanted = {self.interfaces[0]: UPLINK_PROGRAMS, **dict.fromkeys(self.interfaces[1:], POD_PROGRAMS)}
        assert inside(node.name, lambda: self.attacher.attach(wanted)).failed == {}
        made = inside(node.name, lambda: ways(look(), self.attacher.attached()))
        self.tables.put_interfaces(made.bits, made.incoming)
        for pod, role in pods.values():
            self.tables.put_pod(pod.address, pod.ifindex, role)
        inside(node.name, lambda: self.namespaces.look(0.0))

    def step(self, later_s: float = 0.0, grace_s: float = 60.0) -> bool:
        """One look of the leave; whether the node is left."""
        self.now_s += later_s
        inside(self.node.name, lambda: self.leave.step(Marker(grace_s), self.now_s))
        return self.leave.left

    def programs(self) -> list[int]:
        return inside(self.node.name, lambda: [number for index in self.interfaces for number in attached(index)])

    def close(self) -> None:
        self.namespaces.close()
        self.kernel.close()


class Scene:
    """A client on the first node, a server on the second, one pool, and their agents."""

    def __init__(self, lab: Lab, fs: Path, scratch: Path, mode: Mode, stack: ExitStack) -> None:
        nodes = [lab.add_node(attach=False), lab.add_node(attach=False)]
        self.client, self.server = lab.add_pod(nodes[0], "client"), lab.add_pod(nodes[1], "a")
        stack.enter_context(server(self.server))
        self.agents = []
        for node, pod, role in ((nodes[0], self.client, Role.CLIENT), (nodes[1], self.server, Role.SERVER)):
            directory = scratch / node.name
            directory.mkdir(parents=True)
            (directory / "pod").touch()
            sh(f"mount --bind /run/netns/{pod.name} {directory / 'pod'}")
            stack.callback(sh, f"umount {directory / 'pod'}")
            self.agents.append(stack.enter_context(closing(Agent(lab, node, fs, directory, mode, pod=(pod, role)))))
        self.slices = [pool_slice({"a": self.server.address})]
        for agent in self.agents:
            agent.tables.apply(self.slices)

    def withdraw(self) -> None:
        for agent in self.agents:
            agent.tables.apply([withdrawn(piece) for piece in self.slices])

    def count(self, hook: str, reason: str) -> int:
        return self.agents[0].kernel.counters().get((hook, reason), (0, 0))[0]

    def servers_connections(self) -> set[netlink.Connection]:
        with closing(self.server.run(netlink.diag_socket)) as channel:
            return netlink.connections(channel)


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """Its programs are attached by tcx, or as a test's parameter says."""
    with ExitStack() as stack:
        fs = stack.enter_context(bpffs(tmp_path / "bpf"))
        lab = Lab(fs)
        stack.callback(lab.close)
        yield Scene(lab, fs, tmp_path / "netns", getattr(request, "param", Mode.TCX), stack)


def test_open_connections_go_on_and_new_ones_are_unaware(scene):
    with Client(scene.client, VIRTUAL, 80) as connection:
        assert connection.ask()[0] == "a"
        scene.withdraw()
        assert not any(agent.step() for agent in scene.agents)
        with pytest.raises(OSError):  # nobody but us serves this address in the lab
            Client(scene.client, VIRTUAL, 80, timeout=1)
        assert scene.count("from_pod", "not_virtual") >= 1
        assert scene.count("from_pod", "client_syn") == 1
        assert not any(agent.step(QUIET_S) for agent in scene.agents)
        assert connection.ask("still here")[2] == "still here"


def test_nodes_are_left_once_their_connections_have_ended(scene):
    connection = Client(scene.client, VIRTUAL, 80)
    connection.ask()
    scene.withdraw()
    assert not any(agent.step(QUIET_S) for agent in scene.agents)
    connection.bye()
    for agent in scene.agents:
        agent.step()
        assert agent.step(QUIET_S)
        assert agent.leave.condition.message.startswith("No aware connection was open")


def test_what_is_open_when_the_grace_is_over_ends_at_once_at_both_ends(scene):
    with Client(scene.client, VIRTUAL, 80, timeout=60) as connection:
        connection.ask()
        scene.withdraw()
        assert scene.agents[0].step(grace_s=0)
        assert scene.agents[1].step(grace_s=0)
        assert scene.agents[0].leave.condition.message.startswith(
            "1 ends of aware connections were open when the grace was over; 1 were ended with RST")
        with pytest.raises(ConnectionError):
            connection.socket.recv(1)
        assert not scene.servers_connections()


def test_the_server_that_leaves_first_ends_them_for_the_client_as_well(scene):
    with Client(scene.client, VIRTUAL, 80, timeout=60) as connection:
        connection.ask()
        scene.withdraw()
        assert scene.agents[1].step(grace_s=0)
        with pytest.raises(ConnectionResetError):
            connection.socket.recv(1)


@pytest.mark.parametrize("scene", [Mode.TCX, Mode.CLSACT], indirect=True)
def test_nothing_of_ours_is_left_in_the_kernel_or_below_the_bpf_file_system(scene):
    programs = [number for agent in scene.agents for number in agent.programs()]
    for agent in scene.agents:
        assert agent.step(grace_s=0)
        assert agent.programs() == []
        assert not agent.root.exists()
        for number in agent.interfaces:
            assert inside(agent.node.name, lambda index=number: netlink.filter_names(index, "ingress")) == {}
        assert "clsact" not in sh(f"tc -n {agent.node.name} qdisc show")
        agent.close()
    deadline = time.monotonic() + 30  # the kernel frees what nobody holds in its own time
    while remaining := [number for number in programs if exists("program", number)]:
        assert time.monotonic() < deadline, remaining
        time.sleep(0.02)


@pytest.mark.parametrize("scene", [Mode.CLSACT], indirect=True)
def test_a_discipline_that_others_use_as_well_stays(scene):
    agent = scene.agents[0]
    inside(agent.node.name, lambda: netlink.put_filter(agent.interfaces[1], "ingress", agent.kernel.programs["wharf_from_net"].fd, "other", 5))
    assert agent.step(grace_s=0)
    assert inside(agent.node.name, lambda: netlink.filter_names(agent.interfaces[1], "ingress")) == {"other": 5}

"""One connection between two nodes, through the programs at both ends, while the server's node gets another
agent. Nothing else in these namespaces knows the virtual address: what is not translated has no answer."""

from __future__ import annotations

from pathlib import Path

from support.lab import Lab, Node, Pod, Role, Spares, inside
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, server
from wharfinger_dataplane import _bpf
from wharfinger_dataplane.attach import POD_PROGRAMS, UPLINK_PROGRAMS, Attacher, Mode

LENGTH = 300_000


class Prepared(Spares):
    """Programs that are loaded already, for a lab's nodes in order."""

    def __init__(self, *loaded: _bpf.Object) -> None:
        self._made, self._idle = [], list(loaded)

    def take(self) -> _bpf.Object:
        return self._idle.pop(0)


def start_agent(lab: Lab, node: Node, pod: Pod, role: Role, links: Path, mode: Mode) -> None:
    """The node's programs at its uplink and its pod, in its first agent's way."""
    attacher = Attacher(node.bpf.programs, links / node.name, mode)
    assert (
        inside(
            node.name, lambda: attacher.attach({lab.uplink(node): UPLINK_PROGRAMS, pod.ifindex: POD_PROGRAMS})
        ).failed
        == {}
    )
    lab.know(pod, role)


def test_a_connection_lives_while_another_agent_takes_over(loaded, pins, mode):
    links = pins / f"links-{mode}"
    lab = Lab(pins, spares=Prepared(loaded.client, loaded.server))
    try:
        nodes = [lab.add_node(attach=False), lab.add_node(attach=False)]
        client, pod = lab.add_pod(nodes[0], "client"), lab.add_pod(nodes[1], "a")
        start_agent(lab, nodes[0], client, Role.CLIENT, links, mode)
        start_agent(lab, nodes[1], pod, Role.SERVER, links, mode)
        for node in nodes:
            node.tables.apply([pool_slice({"a": pod.address})])
        with server(pod), Client(client, VIRTUAL, 80) as connection:
            assert connection.ask("before") == (
                "a",
                f"{client.address}:{connection.socket.getsockname()[1]}",
                "before",
            )
            assert connection.get(LENGTH) == checksum(LENGTH)

            successor = Attacher(loaded.successor.programs, links / nodes[1].name, mode)
            assert inside(nodes[1].name, successor.adopt) == len(POD_PROGRAMS) + len(UPLINK_PROGRAMS)
            inside(nodes[1].name, successor.renew)
            runs = {name: program.totals()[1] for name, program in loaded.successor.programs.items()}

            with _bpf.statistics():
                assert connection.ask("after") == (
                    "a",
                    f"{client.address}:{connection.socket.getsockname()[1]}",
                    "after",
                )
                assert connection.get(LENGTH) == checksum(LENGTH)
            for name in POD_PROGRAMS | UPLINK_PROGRAMS:
                assert loaded.successor.programs[name].totals()[1] > runs[name], (
                    f"{name} of the new agent saw no packet"
                )
            with Client(client, VIRTUAL, 80) as another:
                assert another.ask()[0] == "a"
            inside(nodes[1].name, successor.detach_all)
    finally:
        lab.close()

"""docs/protocol.md, "NetworkPolicy": with an engine's rules in the nodes' forward chains, a denied pod stays denied, whatever it sends."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.lab import PREFIX, Lab, Node, Pod, Role
from support.packets import REDIRECT, option, tcp
from support.policies import FORMS, Selected, enforce, relax
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, server

DENIED = (ConnectionRefusedError, TimeoutError)
OUT, IN = Role.EGRESS_SELECTED, Role.INGRESS_SELECTED
Y = 20_001


def on(node: Node):
    def run(words: list[str], *, input: str | None = None) -> None:
        subprocess.run(["nsenter", f"--net=/run/netns/{node.name}", *words], input=input, text=True, check=True, capture_output=True)
    return run


@pytest.fixture(scope="module")
def lab(pins: Path) -> Iterator[Lab]:
    """One lab for all: its nodes are the slowest part of it."""
    lab = Lab(pins, f"{PREFIX}-policy")
    try:
        lab.add_node()
        lab.add_node()
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def listening(lab: Lab) -> Iterator[Pod]:
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    for node in lab.nodes:
        on(node)(["nft", f"add table ip proxy; add chain ip proxy p {{ type nat hook prerouting priority dstnat; }};"
                         f"add rule ip proxy p ip daddr {VIRTUAL} tcp dport 80 dnat to {pod.address}:8080"])
    with server(pod):
        yield pod


@pytest.fixture
def pod(lab: Lab, listening: Pod) -> Pod:
    """The server, on the second node. Who is unaware gets to it by the virtual address as by kube-proxy."""
    role(listening, Role.SERVER)
    serve(lab, listening)
    return listening


@pytest.fixture(params=FORMS)
def engine(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable]:
    """Puts rules into every node's forward chain; without any, takes them away."""
    def put(*selected: Selected) -> None:
        for node in lab.nodes:
            enforce(request.param, on(node), selected) if selected else relax(request.param, on(node))
    yield put
    put()


@pytest.fixture(autouse=True)
def before(lab: Lab) -> dict[str, dict]:
    """Every node's counts when the test begins."""
    return {node.name: node.counts() for node in lab.nodes}


@pytest.fixture
def counts(before: dict[str, dict]) -> Callable[[Node], dict]:
    """What a node has counted since the test began."""
    def since(node: Node) -> dict[tuple[str, str], int]:
        return {key: n - before[node.name].get(key, 0) for key, n in node.counts().items() if n != before[node.name].get(key, 0)}
    return since


def add(lab: Lab, node: int, roles: Role | None = None) -> Pod:
    return lab.add_pod(lab.nodes[node], f"p{len(lab.pods)}", roles)


def serve(lab: Lab, pod: Pod, *, ready: bool = True) -> None:
    """The tables; a server that a policy selects has left the redirect port's set once the operator knows."""
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address}, states={"a": "Ready" if ready else "Draining"}, generation=2 - ready)])


def role(pod: Pod, roles: Role) -> None:
    """What the agent makes of a pod's policies."""
    former = pod.node.tables.pods()[pod.address]
    pod.node.tables.put_pod(pod.address, former.ifindex, roles, former.netns)


def ask(pod: Pod, address: str, port: int) -> str:
    """The server's name."""
    with Client(pod, address, port, timeout=20) as connection:
        return connection.ask()[0]


def denied(pod: Pod, address: str, port: int, *, seconds: float = 20) -> bool:
    """Refused by the engine, or unanswered for some seconds."""
    try:
        Client(pod, address, port, timeout=seconds).close()
    except DENIED:
        return True
    return False


def raw_syn(pod: Pod, to: str, options: bytes = b"", sport: int = 45_000) -> None:
    """A SYN that no stack made."""
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as channel:
            channel.sendto(tcp(f"{pod.address}:{sport}", to, "S", seq=1000, options=options)[14:], (to.split(":")[0], 0))
    pod.run(send)


def become(value: Callable[[], int], wanted: int) -> None:
    deadline = time.monotonic() + 10
    while value() != wanted:
        assert time.monotonic() < deadline, f"{value()} and not {wanted}"
        time.sleep(0.01)


@pytest.mark.parametrize("where", [0, 1], ids=["another-node", "one-node"])
def test_a_client_that_the_servers_policy_denies_is_denied_aware_or_not(lab, engine, pod, counts, where):
    client, plain = add(lab, where, Role.CLIENT), add(lab, where)
    engine(Selected("Ingress", pod.address))
    assert denied(plain, VIRTUAL, 80)
    assert ask(client, VIRTUAL, 80) == "a"  # no engine sees what goes from hook to hook: this is what must not be
    role(pod, Role.SERVER | IN)
    assert denied(client, VIRTUAL, 80)  # before the operator knows
    serve(lab, pod, ready=False)
    assert denied(client, VIRTUAL, 80)
    assert denied(plain, VIRTUAL, 80)
    assert denied(client, pod.address, Y)
    assert counts(lab.nodes[where])["from_pod", "no_server"] >= 1
    assert counts(lab.nodes[1])["to_pod", "server_syn"] == 1


def test_a_client_that_the_servers_policy_allows_goes_unaware(lab, engine, pod, counts):
    client = add(lab, 0, Role.CLIENT)
    engine(Selected("Ingress", pod.address, [(client.address, 8080, 8080)]))
    role(pod, Role.SERVER | IN)
    assert ask(client, VIRTUAL, 80) == "a"  # by its third SYN, before the operator knows
    assert counts(lab.nodes[1])["from_net", "policy_server"] == 2
    serve(lab, pod, ready=False)
    assert ask(client, VIRTUAL, 80) == "a"
    assert counts(lab.nodes[0])["from_pod", "no_server"] == 1
    assert counts(lab.nodes[1])["from_net", "policy_server"] == 2
    assert ("to_pod", "server_syn") not in counts(lab.nodes[1])


@pytest.mark.parametrize("where", [0, 1], ids=["another-node", "one-node"])
def test_a_client_whose_own_policy_denies_is_denied_and_one_whose_policy_allows_is_unaware(lab, engine, pod, counts, where):
    client = add(lab, where, Role.CLIENT | OUT)
    engine(Selected("Egress", client.address))
    assert denied(client, VIRTUAL, 80)
    engine(Selected("Egress", client.address, [(pod.address, 8080, 8080)]))
    assert ask(client, VIRTUAL, 80) == "a"
    assert counts(lab.nodes[where])["from_pod", "policy_client"] >= 2
    assert ("to_pod", "server_syn") not in counts(lab.nodes[1])


def test_connections_go_on_when_a_policy_comes_and_new_ones_are_aware_when_it_goes(lab, engine, pod, counts):
    client = add(lab, 0, Role.CLIENT)
    with Client(client, VIRTUAL, 80) as standing:
        assert standing.ask()[0] == "a"
        engine(Selected("Ingress", pod.address), Selected("Egress", client.address))
        role(pod, Role.SERVER | IN)
        role(client, Role.CLIENT | OUT)
        serve(lab, pod, ready=False)
        assert standing.get(2_000_000) == checksum(2_000_000)
        assert denied(client, VIRTUAL, 80)
        engine()
        role(pod, Role.SERVER)
        role(client, Role.CLIENT)
        serve(lab, pod)
        assert ask(client, VIRTUAL, 80) == "a"
        assert standing.get(2_000_000) == checksum(2_000_000)
    assert counts(lab.nodes[1])["to_pod", "server_joined"] == 2


def test_a_policy_that_allows_the_numbers_of_service_ports_does_not_open_what_is_behind_them(lab, engine, pod, counts):
    """At either end: an engine judges the numbers that it sees, not the target ports that translators make of them."""
    hostile = add(lab, 0, Role(0))
    engine(Selected("Egress", hostile.address, [(pod.address, 20_000, 30_000)]))
    assert denied(hostile, pod.address, 8080)
    assert ask(hostile, pod.address, Y) == "a"  # this is what must not be
    role(hostile, OUT)
    assert denied(hostile, pod.address, Y, seconds=0.5)
    assert counts(lab.nodes[0])["from_pod", "policy_service_port"] >= 1
    role(hostile, Role(0))
    role(pod, Role.SERVER | IN)
    engine(Selected("Ingress", pod.address, [(hostile.address, 20_000, 30_000)]))
    assert denied(hostile, pod.address, Y)
    assert counts(lab.nodes[1])["from_net", "policy_untranslated"] >= 1
    assert counts(lab.nodes[1])["to_pod", "server_syn_service"] == 1


@pytest.mark.parametrize("where", [0, 1], ids=["another-node", "one-node"])
def test_forged_options_reach_nothing_that_a_policy_denies(lab, engine, pod, counts, where):
    hostile, guarded = add(lab, where), add(lab, where, OUT)
    engine(*[Selected("Egress", each.address, [(pod.address, 80, 80), (pod.address, Y, Y)]) for each in (hostile, guarded)])
    forged = option(REDIRECT, scope=7)
    raw_syn(hostile, f"{pod.address}:80", forged)
    become(lambda: counts(lab.nodes[1]).get(("to_pod", "server_syn"), 0), 1)  # this is what must not be
    for port in (80, Y):
        raw_syn(guarded, f"{pod.address}:{port}", forged)
    become(lambda: counts(lab.nodes[where]).get(("from_pod", "forged_option"), 0), 2)
    role(pod, Role.SERVER | IN)
    for port in (80, Y):
        raw_syn(hostile, f"{pod.address}:{port}", forged, sport=45_001)
    hook = ("to_pod", "from_net")[where == 0]
    become(lambda: counts(lab.nodes[1]).get((hook, "policy_server"), 0), 2)
    after = counts(lab.nodes[1])
    assert (after["to_pod", "server_syn"], after.get(("to_pod", "server_syn_service"), 0)) == (1, 0)

"""docs/protocol.md, "Establishing", between real TCP stacks: two nodes, their bridges and uplinks, the kernel's programs."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from contextlib import ExitStack

import pytest
from support.badwire import Deed, Rule, bad_wire
from support.capture import Capture
from support.lab import Lab, Node, Pod, Role, fall_back
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, checksum, offloads_off, server
from wharfinger_dataplane._records import SETTING_FULL, FlowState, pack_setting, unpack_flow

BOUND_S = 8


def serve(lab: Lab, slices) -> None:
    for node in lab.nodes:
        node.tables.apply(slices)


@pytest.fixture
def client(lab: Lab) -> Pod:
    return lab.add_pod(lab.nodes[0], "client", Role.CLIENT)


@pytest.fixture
def servers(lab: Lab):
    """a and b across the network, c on the client's own node."""
    pods = [lab.add_pod(lab.nodes[1], "a", Role.SERVER), lab.add_pod(lab.nodes[1], "b", Role.SERVER), lab.add_pod(lab.nodes[0], "c", Role.SERVER)]
    with server(pods[0]), server(pods[1]), server(pods[2]):
        yield pods


def addresses(pods: list[Pod]) -> dict[str, str]:
    return {pod.short: pod.address for pod in pods}


def test_p03_connections_to_a_redirect_port_spread_over_its_servers_on_both_nodes(lab, client, servers):
    serve(lab, [pool_slice(addresses(servers))])
    seen = Counter()
    for _ in range(60):
        with Client(client, VIRTUAL, 80) as connection:
            assert connection.socket.getpeername() == (VIRTUAL, 80)
            seen[connection.ask()[0]] += 1
    assert set(seen) == {"a", "b", "c"}
    assert lab.nodes[0].counts()["from_pod", "client_syn"] == 60
    assert lab.nodes[0].counts()["to_pod", "client_redirected"] == 60


def test_p03_p21_the_wire_has_redirect_then_confirm_with_y_and_then_only_y(lab, client, servers):
    offloads_off(client, *servers)
    serve(lab, [pool_slice({"a": servers[0].address})])
    with Capture(["nsenter", f"--net=/run/netns/{lab.nodes[0].name}", "tcpdump"], "uplink") as capture:
        with Client(client, VIRTUAL, 80) as connection:
            assert connection.get(100_000) == checksum(100_000)
    packets = capture.tcp()
    syn, answer, *rest = packets
    assert (syn.dst, syn.dport, syn.flags, syn.option.flags, syn.option.scope) == (servers[0].address, 80, "S", {"REDIRECT"}, 7)
    assert (answer.sport, answer.flags, answer.option.flags, answer.option.port) == (80, "SA", {"CONFIRM", "PORT"}, 20_001)
    joins = [packet for packet in rest if packet.option]
    assert {(p.dport, p.flags, p.option.port) for p in joins} == {(20_001, "A", 80)}
    assert len(rest) > 4
    assert all(20_001 in (p.sport, p.dport) for p in rest)
    assert all(packet.checksums_right for packet in packets)


def test_p02_p04_a_connection_to_a_service_port_is_served_there(lab, client, servers):
    serve(lab, [pool_slice(addresses(servers))])
    for port, name in ((20_001, "a"), (20_002, "b"), (20_003, "c")):
        with Client(client, VIRTUAL, port) as connection:
            assert connection.ask()[0] == name
    counts = lab.nodes[0].counts()
    assert counts["from_pod", "client_syn_service"] == 3
    assert counts["to_pod", "client_confirmed"] == 3
    assert ("to_pod", "client_redirected") not in counts


def test_the_servers_stack_sees_the_real_client(lab, client, servers):
    serve(lab, [pool_slice(addresses(servers))])
    with Client(client, VIRTUAL, 80) as connection:
        assert connection.ask()[1] == "{}:{}".format(*connection.socket.getsockname())


@pytest.mark.parametrize("name", ["a", "c"])
def test_bulk_transfers_are_intact_with_offloads_on(lab, client, servers, name):
    serve(lab, [pool_slice({pod.short: pod.address for pod in servers if pod.short == name})])
    with Client(client, VIRTUAL, 80, timeout=30) as connection:
        assert connection.get(200_000_000) == checksum(200_000_000)


@pytest.mark.parametrize("name", ["a", "c"])
def test_bulk_transfers_are_intact_with_offloads_off(lab, client, servers, name):
    offloads_off(client, *servers)
    serve(lab, [pool_slice({pod.short: pod.address for pod in servers if pod.short == name})])
    with Client(client, VIRTUAL, 80, timeout=30) as connection:
        assert connection.get(20_000_000) == checksum(20_000_000)


def test_no_connection_tracking_entry_is_made(lab, client, servers):
    for node in lab.nodes:
        track(node)
    serve(lab, [pool_slice(addresses(servers))])
    with ExitStack() as live:
        connections = [live.enter_context(Client(client, VIRTUAL, port)) for port in (20_001, 20_003, *[80] * 10)]
        assert {connection.ask()[0] for connection in connections} >= {"a", "c"}
        assert [tracked(node) for node in lab.nodes] == [0, 0]
        with Client(client, servers[0].address, 8080):
            assert [tracked(node) for node in lab.nodes] == [1, 1]


def track(node: Node) -> None:
    """Connection tracking as kube-proxy's rules switch it on, and the rule that drops what it does not understand."""
    rules = "add table ip t; add chain ip t f { type filter hook forward priority 0; }; add rule ip t f ct state invalid counter drop"
    subprocess.run(["nsenter", f"--net=/run/netns/{node.name}", "nft", rules], check=True)


def tracked(node: Node) -> int:
    out = subprocess.run(["nsenter", f"--net=/run/netns/{node.name}", "conntrack", "-L", "-p", "tcp"], capture_output=True, text=True, check=True)
    return len(out.stdout.splitlines())


QUIET = ("not_ip", "not_tcp", "not_ours", "not_virtual", "no_record", "other_host")


def test_unaware_pods_and_direct_dials_are_nobodys_business(lab, client, servers):
    serve(lab, [pool_slice(addresses(servers))])
    plain = lab.add_pod(lab.nodes[0], "plain")
    for pod in (plain, client):
        with Client(pod, servers[0].address, 8080) as connection:
            assert connection.ask()[0] == "a"
    for node in lab.nodes:
        assert all((hook == "from_net" and "not_" in reason) or reason in QUIET
                   for hook, reason in node.counts())
        assert node.bpf.maps["flows"].items() == []


@pytest.mark.parametrize("policy", ["RoundRobin", "Random"])
def test_p08_round_robin_is_even_and_random_reaches_all(lab, client, servers, policy):
    serve(lab, [pool_slice(addresses(servers), policy=policy)])
    seen = Counter()
    for _ in range(45):
        with Client(client, VIRTUAL, 80) as connection:
            seen[connection.ask()[0]] += 1
    assert set(seen) == {"a", "b", "c"}
    if policy == "RoundRobin":
        assert set(seen.values()) == {15}


def test_a_draining_server_gets_no_new_connection_and_keeps_its_old_ones(lab, client, servers):
    serve(lab, [pool_slice({"a": servers[0].address})])
    with Client(client, VIRTUAL, 80) as old:
        assert old.ask()[0] == "a"
        serve(lab, [pool_slice(addresses(servers[:2]), states={"a": "Draining"}, generation=2)])
        for _ in range(8):
            with Client(client, VIRTUAL, 80) as fresh:
                assert fresh.ask()[0] == "b"
        assert old.ask()[0] == "a"


def test_p09_tables_rewritten_by_a_new_agent_break_nothing(lab, client, servers):
    slices = [pool_slice(addresses(servers))]
    serve(lab, slices)
    connections = [Client(client, VIRTUAL, 80) for _ in range(9)]
    names = [connection.ask()[0] for connection in connections]
    for node in lab.nodes:
        successor = type(node.tables)(node.tables._store)
        successor.adopt()
        successor.apply(slices)
    assert [connection.ask()[0] for connection in connections] == names
    with Client(client, VIRTUAL, 80) as fresh:
        assert fresh.ask()[0] in {pod.short for pod in servers}  # of whom nine connections may all have missed one
    for connection in connections:
        connection.close()


def test_a_pod_is_never_chosen_as_the_server_of_its_own_connection(lab, servers):
    both = lab.add_pod(lab.nodes[0], "both", Role.CLIENT | Role.SERVER)
    with server(both):
        serve(lab, [pool_slice({"both": both.address, "a": servers[0].address})])
        for _ in range(10):
            with Client(both, VIRTUAL, 80) as connection:
                assert connection.ask()[0] == "a"


def test_a_closed_port_refuses_at_once(lab, client):
    closed = lab.add_pod(lab.nodes[1], "closed", Role.SERVER)
    serve(lab, [pool_slice({"closed": closed.address})])
    with pytest.raises(ConnectionRefusedError):
        Client(client, VIRTUAL, 80)
    assert lab.nodes[1].counts()["from_pod", "server_refuses"] == 1


def test_a_lost_server_entry_is_rebuilt_from_the_next_packet(lab, client, servers):
    serve(lab, [pool_slice({"a": servers[0].address})])
    with Client(client, VIRTUAL, 80) as connection:
        assert connection.ask()[0] == "a"
        flows, wires = (lab.nodes[1].bpf.maps[table] for table in ("flows", "wires"))
        for table in (flows, wires):
            for key, _ in table.items():
                table.delete(key)
        assert connection.ask()[0] == "a"
        assert [unpack_flow(flow).state for _, flow in flows.items()] == [FlowState.SERVER_ESTABLISHED]
    assert lab.nodes[1].counts()["from_pod", "server_rebuilt"] == 1


def test_a_syn_that_went_unaware_and_comes_again_goes_unaware_again(lab, tmp_path):
    """Its node's tables were nearly full and are not any more; the answers to both its SYNs are late."""
    nodes, settings = lab.nodes, lab.nodes[0].bpf.maps["settings"]
    client = lab.add_pod(nodes[0], "client", Role.CLIENT)
    behind, chosen = lab.add_pod(nodes[1], "a", Role.SERVER), lab.add_pod(nodes[1], "b", Role.SERVER)
    for node in nodes:
        node.tables.apply([pool_slice({"b": chosen.address})])
    fall_back(nodes[0], VIRTUAL, behind)
    with server(behind), server(chosen), bad_wire(lab, tmp_path) as wire:
        wire.obey(Rule(Deed.LOSE, src=f"{behind.address}:8080", flags="SA", count=1),
                  Rule(Deed.LOSE, src=f"{chosen.address}:80", flags="SA", count=1))
        settings.put(*pack_setting(SETTING_FULL, 1))
        roomy = threading.Timer(0.5, lambda: settings.put(*pack_setting(SETTING_FULL, 0)))
        roomy.start()
        with Client(client, VIRTUAL, 80, timeout=BOUND_S) as connection:
            connection.socket.settimeout(BOUND_S)
            assert connection.ask()[0] in ("a", "b")
            assert connection.ask()[0] in ("a", "b")
        roomy.join()

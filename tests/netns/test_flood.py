"""10⁶ spoofed SYNs from distinct sources at full rate, at each of the three roles and from a pod, beside 100 established connections.

What is asserted of throughput: the share of its quiet throughput that the 100 aware connections keep while the flood lasts, over the share that
100 connections keep which a pod without programs dialled directly, in the same flood at the same time; the median of the rounds, quiet and flood
in turn. The flood takes a processor for itself, so neither share alone says anything of the programs.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import pytest
from support.flood import FIRST, Beating, compile_flood, flood, to_node
from support.lab import Lab, Node, Role, fall_back
from support.packets import REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from support.traffic import Client, server
from wharfinger_dataplane._records import SETTING_FULL

CONNECTIONS, RATE, FLOOD, ROUNDS, QUIET_S = 100, 4, 1_000_000, 6, 1.0
ROUND = -(-FLOOD // ROUNDS)
TAG = option(REDIRECT, scope=7)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compile_flood(tmp_path_factory.mktemp("flood"))


@dataclass(frozen=True)
class Flood:
    """SYNs to a port of an address; `own`: from the sender's address, not from others'."""

    address: str
    port: int
    options: bytes = b""
    own: bool = False


def floods(side: str, client: str, pod: str, port: int) -> list[Flood]:
    """What comes in turn, a round each. `port`: of a live connection of the client's."""
    return {
        "client": [Flood(client, port), Flood(client, port, TAG), Flood(client, 9)],
        "balancer": [Flood(VIRTUAL, 80, TAG), Flood(VIRTUAL, 80), Flood(VIRTUAL, 20_001, TAG)],
        "server": [Flood(pod, 80, TAG), Flood(pod, 20_001), Flood(pod, 8080)],
        "pod": [Flood(VIRTUAL, 80), Flood(pod, 80, TAG), Flood(VIRTUAL, 80, own=True)],
    }[side]


def connections(node: Node) -> set[bytes]:
    return {key for key, _ in node.bpf.maps["flows"].items()}


@pytest.mark.parametrize("side", ["client", "balancer", "server", "pod"])
def test_a_flood_of_spoofed_syns_breaks_nothing_and_takes_no_room(lab: Lab, program, side: str):
    """At `pod` the flood comes from another client's pod, so that this node's programs balance what they believe."""
    client, plain = lab.add_pod(lab.nodes[0], "client", Role.CLIENT), lab.add_pod(lab.nodes[0], "plain")
    pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
    hostile = lab.add_pod(lab.nodes[0], "hostile", Role.CLIENT)
    sender = hostile.name if side == "pod" else lab.add_outside()
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": pod.address})])
    with server(pod), ExitStack() as live:
        aware = [live.enter_context(Client(client, VIRTUAL, 80, timeout=20)) for _ in range(CONNECTIONS)]
        direct = [live.enter_context(Client(plain, pod.address, 8080, timeout=20)) for _ in range(CONNECTIONS)]
        assert {each.ask()[0] for each in (*aware, *direct)} == {"a"}
        before, events = [connections(node) for node in lab.nodes], [node.bpf.maps["events_lost"].get_per_cpu(bytes(4)) for node in lab.nodes]
        target = lab.nodes[1] if side == "server" else lab.nodes[0]
        kinds = floods(side, client.address, pod.address, aware[0].socket.getsockname()[1])
        kept, rates = [], []
        with Beating((aware, direct), RATE).going() as beating:
            for number in range(ROUNDS):
                beating.taken()
                time.sleep(QUIET_S)
                kind = kinds[number % len(kinds)]
                source = hostile.address if kind.own else FIRST + number * ROUND
                frame = tcp(f"{source}:1024", f"{kind.address}:{kind.port}", "S", options=kind.options)
                frame = to_node(frame, target, "cni0" if side == "pod" else "uplink")
                quiet = beating.taken()
                while not all(beat.due for beat in beating.beats):  # a fast flood may end before a line is due
                    rates.append(flood(program, sender, frame, ROUND, 1 if kind.own else ROUND))
                kept.append([now.kept(then) for now, then in zip(beating.taken(), quiet, strict=True)])
        print(f"{side}: {median(rates):,.0f} SYNs/s; kept: aware {median(k[0] for k in kept):.3f}, direct {median(k[1] for k in kept):.3f}")
        assert beating.errors == []
        assert median(k[0] for k in kept) >= 0.95 * median(k[1] for k in kept)
        for number in range(len(kinds)):  # of one kind there are few rounds: no more than that it does not stop them
            assert sum(k[0] for k in kept[number::len(kinds)]) >= 0.5 * sum(k[1] for k in kept[number::len(kinds)])
        assert {each.ask()[0] for each in (*aware, *direct)} == {"a"}
        own = socket.inet_aton(hostile.address)  # what it does as itself are connections, if they end at once
        assert [{key for key in connections(node) if own not in key} for node in lab.nodes] == before
        if side != "pod":  # whose own connections are told of like any, as long as the ring has room
            assert [node.bpf.maps["events_lost"].get_per_cpu(bytes(4)) for node in lab.nodes] == events
        arrived = sum(n for (hook, _), n in target.counts().items() if hook == ("from_pod" if side == "pod" else "from_net"))
        assert arrived > FLOOD / 2
        if side == "pod":
            for reason in ("not_attached", "forged_option", "client_syn"):  # of each kind
                assert target.counts()["from_pod", reason] >= 2 * ROUND
        if side == "server":
            assert target.counts()["to_pod", "server_syn"] + target.counts()["to_pod", "server_syn_service"] > FLOOD / 3
        assert max(len(node.bpf.maps[table].items()) for node in lab.nodes for table in ("opening_flows", "opening_wires")) <= 65_536
        with Client(client, VIRTUAL, 80, timeout=20) as fresh:
            assert fresh.ask()[0] == "a"


def test_a_pod_that_fills_the_table_sends_others_unaware_and_ends_nobody(pins):
    lab = Lab(pins)
    try:
        lab.add_node(capacity={"flows": 100})
        lab.add_node()
        client, greedy = lab.add_pod(lab.nodes[0], "client", Role.CLIENT), lab.add_pod(lab.nodes[0], "greedy", Role.CLIENT)
        pod = lab.add_pod(lab.nodes[1], "a", Role.SERVER)
        for node in lab.nodes:
            node.tables.apply([pool_slice({"a": pod.address})])
        fall_back(lab.nodes[0], VIRTUAL, pod)
        with server(pod), ExitStack() as live:
            old = [live.enter_context(Client(client, VIRTUAL, 80, timeout=20)) for _ in range(20)]
            assert {each.ask()[0] for each in old} == {"a"}
            taken = [live.enter_context(Client(greedy, VIRTUAL, 80, timeout=20)) for _ in range(90)]
            assert {each.ask()[0] for each in (*old, *taken)} == {"a"}
            assert lab.nodes[0].counts()["to_pod", "client_no_room"] == 10
            assert len(connections(lab.nodes[0])) == 100
            lab.nodes[0].tables._store.set(SETTING_FULL, 1)  # as the agent does when it has seen that
            began = time.monotonic()
            fresh = [live.enter_context(Client(client, VIRTUAL, 80, timeout=20)) for _ in range(5)]
            assert {each.ask()[0] for each in (*old, *taken, *fresh)} == {"a"}
            assert (lab.nodes[0].counts()["from_pod", "table_full"], time.monotonic() - began < 1) == (5, True)
    finally:
        lab.close()

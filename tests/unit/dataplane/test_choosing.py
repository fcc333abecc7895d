"""Which server a SYN goes to, by the engine: the same draw for the same connection, and fair shares over many."""

from __future__ import annotations

from collections import Counter

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from support.packets import tcp
from support.slices import VIRTUAL, pool_slice
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane._records import Role
from wharfinger_dataplane.tables import Tables

CLIENT, IFINDEX = "10.99.1.10", 5
SERVERS = {name: f"10.99.2.{number}" for number, name in enumerate("abcd", 20)}
DIALS = [tcp(f"{CLIENT}:{port}", f"{VIRTUAL}:80", "S", seq=port) for port in range(30_000, 31_000)]


def node(policy: str, servers: dict[str, str] = SERVERS, states: dict[str, str] | None = None) -> Engine:
    engine = Engine()
    tables = Tables(engine)
    tables.apply([pool_slice(servers, policy=policy, states=states)])
    tables.put_pod(CLIENT, IFINDEX, Role.CLIENT)
    return engine


def chosen(engine: Engine, frame: bytes, random: int = 0) -> str:
    result = engine.run("from_pod", frame, ifindex=IFINDEX, now_ns=1, random=random)
    assert result.reason.name == "client_syn"
    return Ether(result.packet)[IP].dst


def test_p08_a_hash_spreads_connections_over_all_servers():
    engine = node("Hash")
    shares = Counter(chosen(engine, frame) for frame in DIALS)
    assert set(shares) == set(SERVERS.values())
    assert min(shares.values()) > len(DIALS) / len(SERVERS) * 0.75


def test_p08_a_hash_gives_a_connection_the_same_server_at_every_node():
    one, other = node("Hash"), node("Hash", dict(reversed(SERVERS.items())))
    assert [chosen(one, frame) for frame in DIALS[:200]] == [chosen(other, frame) for frame in DIALS[:200]]


def test_p08_a_server_that_leaves_moves_few_connections_of_the_others():
    before, after = node("Hash"), node("Hash", states={"a": "Draining"})
    pairs = [(chosen(before, frame), chosen(after, frame)) for frame in DIALS]
    assert all(new != SERVERS["a"] for _, new in pairs)
    stayed = [old == new for old, new in pairs if old != SERVERS["a"]]
    assert sum(stayed) > len(stayed) * 0.9


def test_p08_a_random_policy_follows_the_dice():
    engine = node("Random")
    assert [chosen(engine, DIALS[draw], draw) for draw in range(8)] == [*SERVERS.values(), *SERVERS.values()]


def test_p08_round_robin_takes_each_server_in_turn():
    engine = node("RoundRobin")
    assert [chosen(engine, frame) for frame in DIALS[:8]] == [*SERVERS.values(), *SERVERS.values()]


def test_a_client_that_is_one_of_the_servers_finds_another():
    engine = node("Hash", {"self": CLIENT, "other": SERVERS["a"]})
    assert {chosen(engine, frame) for frame in DIALS} == {SERVERS["a"]}

"""The collector and packets: a live connection goes on, whatever the collector thinks of it."""

from __future__ import annotations

import pytest
from support.batches import batch_of
from support.packets import CONFIRM, PORT, REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from unit.agent.collecting import (
    ASIDE,
    CLIENT,
    HOUR,
    IDLE,
    IFINDEX,
    ISN,
    LATER,
    NOW,
    OPEN,
    PORT_OF_CLIENT,
    SCOPE,
    SECOND,
    SERVER,
    SERVER_ISN,
    TARGET,
    X,
    Y,
    seen_by_stack,
)
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._records import FlowState, Mark, Role
from wharfinger_dataplane.agent.flows import WIRE_AGE_NS, Pass
from wharfinger_dataplane.tables import Tables

C, VX, SX, SY = f"{CLIENT}:{PORT_OF_CLIENT}", f"{VIRTUAL}:{X}", f"{SERVER}:{X}", f"{SERVER}:{Y}"
SP = f"{SERVER}:{TARGET}"
FORTH, BACK = {"seq": ISN + 1, "ack": SERVER_ISN + 1}, {"seq": SERVER_ISN + 1, "ack": ISN + 1}
CLIENT_SENDS, CLIENT_RECEIVES = ("from_pod", tcp(C, VX, "A", **FORTH)), ("to_pod", tcp(SY, C, "A", **BACK))
SERVER_SENDS, SERVER_RECEIVES = ("from_pod", tcp(SP, C, "A", **BACK)), ("to_pod", tcp(C, SY, "A", **FORTH))


def passes(store, packet, now_ns):
    """The reason by which a packet passes."""
    hook, frame = packet
    return store.run(hook, frame, ifindex=IFINDEX, now_ns=now_ns).reason.name


def live(store, address, role, *packets):
    tables = Tables(store)
    tables.apply([pool_slice({"a": SERVER})])
    tables.put_pod(address, IFINDEX, role, netns=1)
    for hook, frame, reason in packets:
        assert passes(store, (hook, frame), NOW) == reason
    assert store.counts() == OPEN


@pytest.fixture
def client(store):
    live(
        store,
        CLIENT,
        Role.CLIENT,
        ("from_pod", tcp(C, VX, "S", seq=ISN), "client_syn"),
        (
            "to_pod",
            tcp(SX, C, "SA", seq=SERVER_ISN, ack=ISN + 1, options=option(CONFIRM | PORT, Y)),
            "client_redirected",
        ),
        ("from_pod", tcp(C, VX, "A", **FORTH), "client_joins"),
        (*CLIENT_RECEIVES, "client_receives"),
        (*CLIENT_SENDS, "client_sends"),
    )
    return store


@pytest.fixture
def server(store):
    live(
        store,
        SERVER,
        Role.SERVER,
        ("to_pod", tcp(C, SX, "S", seq=ISN, options=option(REDIRECT, scope=SCOPE)), "server_syn"),
        ("from_pod", tcp(SP, C, "SA", seq=SERVER_ISN, ack=ISN + 1), "server_answers"),
        (*SERVER_RECEIVES, "server_joined"),
        (*SERVER_SENDS, "server_sends"),
    )
    return store


def test_a_live_client_that_is_not_found_is_taken_back_by_its_next_packet(client, pods, collector):
    pods.shown[CLIENT] = set()
    assert collector.collect(LATER).moved == 1
    assert client.counts() == ASIDE
    assert passes(client, CLIENT_SENDS, LATER) == "client_sends"
    assert client.counts() == OPEN
    assert collector.collect(LATER + SECOND) == Pass(seen=1)


def test_a_live_server_that_is_not_found_is_taken_back_by_its_next_packet(server, pods, collector):
    pods.shown[SERVER] = set()
    assert collector.collect(LATER).moved == 1
    assert server.counts() == ASIDE
    assert passes(server, SERVER_SENDS, LATER) == "server_sends"
    assert server.counts() == OPEN
    assert collector.collect(LATER + SECOND) == Pass(seen=1)


def test_a_client_that_is_moved_aside_hears_its_server_and_stays_aside_until_it_speaks(
    client, pods, collector
):
    pods.shown[CLIENT] = set()
    for _ in range(3):
        collector.collect(LATER)
        assert passes(client, CLIENT_RECEIVES, LATER) == "client_receives"
        assert client.counts() == ASIDE
    assert passes(client, CLIENT_SENDS, LATER) == "client_sends"
    assert passes(client, CLIENT_RECEIVES, LATER) == "client_receives"
    assert client.counts() == OPEN


def test_a_server_that_is_moved_aside_hears_its_client_and_stays_aside_until_it_speaks(
    server, pods, collector
):
    pods.shown[SERVER] = set()
    for _ in range(3):
        collector.collect(LATER)
        assert passes(server, SERVER_RECEIVES, LATER) == "server_receives"
        assert server.counts() == ASIDE
    assert passes(server, SERVER_SENDS, LATER) == "server_sends"
    assert passes(server, SERVER_RECEIVES, LATER) == "server_receives"
    assert server.counts() == OPEN


@pytest.mark.parametrize("idle", [IDLE, 25 * HOUR, 26 * 24 * HOUR, 100 * 24 * HOUR])
def test_a_connection_that_was_idle_for_long_in_a_socket_that_is_not_found_works_afterwards(
    client, pods, collector, idle
):
    pods.shown[CLIENT] = set()
    for later in range(0, idle + SECOND, idle // 20):
        collector.collect(NOW + later)
    for _ in range(2):
        assert passes(client, CLIENT_RECEIVES, NOW + idle) == "client_receives"
        assert passes(client, CLIENT_SENDS, NOW + idle) == "client_sends"
    assert client.counts() == OPEN


BLIND_RST = "to_pod", tcp(SY, C, "R", seq=SERVER_ISN + 12_345)


def marks(store):
    return records.unpack_flow(store.items("flows")[0][1]).marks


@pytest.mark.parametrize("seen", [True, False])
def test_a_blind_reset_only_nominates(client, pods, collector, seen):
    pods.shown[CLIENT] = {seen_by_stack()} if seen else set()
    assert passes(client, BLIND_RST, NOW) == "client_receives"
    assert marks(client) == Mark.AWARE | Mark.RESET_SEEN
    assert collector.collect(NOW) == Pass(seen=1, nominated=1, moved=not seen)
    assert client.counts() == (OPEN if seen else ASIDE)
    for packet, reason in ((CLIENT_SENDS, "client_sends"), (CLIENT_RECEIVES, "client_receives")):
        assert passes(client, packet, NOW) == reason
    assert client.counts() == OPEN


def test_a_stack_that_speaks_on_denies_the_reset_and_nominates_its_connection_no_more(
    client, pods, collector
):
    pods.shown[CLIENT] = set()
    passes(client, BLIND_RST, NOW)
    passes(client, CLIENT_SENDS, NOW)
    assert marks(client) == Mark.AWARE
    assert collector.collect(NOW) == Pass(seen=1)


def test_a_connection_that_was_moved_aside_with_a_reset_seen_is_nominated_once_and_no_more(
    client, pods, collector
):
    pods.shown[CLIENT] = set()
    passes(client, BLIND_RST, NOW)
    collector.collect(NOW)
    passes(client, CLIENT_SENDS, NOW)
    assert marks(client) == Mark.AWARE
    assert collector.collect(NOW) == Pass(seen=1)


def test_a_reset_that_the_stack_took_ends_the_connection_without_the_collector(client, collector):
    client.hold(records.pack_flow_key(CLIENT, PORT_OF_CLIENT, VIRTUAL, X), SERVER_ISN + 12_345, ISN + 1)
    passes(client, BLIND_RST, NOW)
    assert client.counts() == ASIDE
    assert records.unpack_flow(client.items("closed_flows")[0][1]).state is FlowState.CLIENT_CLOSED
    assert collector.collect(LATER) == Pass()


def test_the_engine_and_the_collector_mean_the_same_bytes(client):
    assert records.quiet_flows(batch_of(client.items("flows")), LATER, IDLE, {}) == client.items("flows")
    assert records.old_wires(batch_of(client.items("wires")), LATER, WIRE_AGE_NS) == client.items("wires")

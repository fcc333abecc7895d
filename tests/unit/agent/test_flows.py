"""Which connections the collector moves aside or removes, and which never: its rules, one by one."""

from __future__ import annotations

import pytest
from unit.agent.collecting import (
    ASIDE,
    CLIENT,
    IDLE,
    ISN,
    LATER,
    NOTHING,
    NOW,
    OPEN,
    PORT_OF_CLIENT,
    SECOND,
    SERVER,
    SUBSTITUTE,
    TARGET,
    Y,
    add_client,
    add_server,
    flow,
    flow_key,
    seen_by_stack,
    server_flow,
    server_flow_key,
    server_wire_key,
    wire,
    wire_key,
)
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._records import Mark
from wharfinger_dataplane.agent import flows
from wharfinger_dataplane.agent.flows import LIST_FROM, SWEEP_EVERY, WIRE_AGE_NS, Pass, is_full

# A socket that is there keeps its flow, whatever the wire says.


@pytest.mark.parametrize(
    "how", [{}, {"marks": Mark.AWARE | Mark.RESET_SEEN}, {"marks": Mark.AWARE | Mark.FIN_SEEN}]
)
def test_a_connection_whose_socket_is_there_stays(store, pods, collector, how):
    pods.shown[CLIENT] = {seen_by_stack()}
    add_client(store, **how)
    before = store.items("flows"), store.items("wires")
    assert collector.collect(LATER) == Pass(seen=1, nominated=1)
    assert (store.items("flows"), store.items("wires")) == before
    assert store.counts() == OPEN


def test_a_server_under_a_substitute_stays_while_its_stack_has_the_substitute(store, pods, collector):
    pods.shown[SERVER] = {(SERVER, TARGET, CLIENT, SUBSTITUTE)}
    add_server(store)
    for n in range(3 * SWEEP_EVERY):
        assert collector.collect(LATER + n).moved == 0
    assert store.counts() == OPEN


# Silence, or a reset that only the wire told of, nominates.


def test_a_connection_that_was_used_lately_is_not_even_asked_for(store, pods, collector):
    pods.shown[CLIENT] = set()
    add_client(store)
    assert collector.collect(NOW + IDLE) == Pass(seen=1)
    assert store.counts() == OPEN


def test_a_connection_that_its_stack_uses_while_the_collector_looks_is_not_asked_for(store, pods, collector):
    pods.shown[CLIENT] = set()
    add_client(store, seen=LATER + SECOND)
    assert collector.collect(LATER) == Pass(seen=1)


@pytest.mark.parametrize("began", [NOW - SECOND, NOW + SECOND])
def test_a_connection_that_began_lately_and_sent_nothing_yet_is_not_asked_for(store, pods, collector, began):
    pods.shown[CLIENT] = set()
    store.put("flows", flow_key(), flow(seen=0, started_ns=began))
    assert collector.collect(NOW) == Pass(seen=1)


def test_a_connection_that_sent_nothing_since_it_began_long_ago_is_asked_for(store, pods, collector):
    pods.shown[CLIENT] = {seen_by_stack()}
    store.put("flows", flow_key(), flow(seen=0, started_ns=NOW - IDLE - SECOND))
    assert collector.collect(NOW) == Pass(seen=1, nominated=1)


def test_a_closed_flow_is_none_of_the_collectors_business(store, pods, collector):
    pods.shown[CLIENT] = set()
    for table in ("closed_flows", "opening_flows"):
        store.put(table, flow_key(), flow(seen=0, started_ns=1))
    assert collector.collect(LATER) == Pass()
    assert len(store.items("closed_flows")) == len(store.items("opening_flows")) == 1


# Not seen is not gone: what is not found is moved aside.


@pytest.mark.parametrize("how", [{}, {"marks": Mark.AWARE | Mark.RESET_SEEN}])
def test_a_connection_that_is_not_found_is_moved_to_the_closed_ones_as_it_is(store, pods, collector, how):
    pods.shown[CLIENT] = set()
    add_client(store, **how)
    flow_before, wire_before = store.items("flows"), store.items("wires")
    assert collector.collect(LATER) == Pass(seen=1, nominated=1, moved=1)
    assert store.counts() == ASIDE
    assert (store.items("closed_flows"), store.items("closed_wires")) == (flow_before, wire_before)


@pytest.mark.parametrize(("room", "moved"), [(1, 1), (2, 0), (1000, 0)])
def test_while_there_is_room_a_connection_that_is_not_found_stays_where_it_is(store, pods, collector, room, moved):
    add_client(store)
    pods.shown[CLIENT] = set()
    store.room_for = room
    assert collector.collect(LATER).moved == moved
    assert store.counts() == (ASIDE if moved else OPEN)


def test_a_server_under_a_substitute_is_moved_with_its_wire(store, pods, collector):
    pods.shown[SERVER] = {
        (SERVER, TARGET, CLIENT, PORT_OF_CLIENT)
    }  # the client's own port is another connection's
    add_server(store)
    assert collector.collect(LATER).moved == 1
    assert [key for key, _ in store.items("closed_wires")] == [server_wire_key()]
    assert store.counts() == ASIDE


def test_a_namespace_that_is_not_found_moves_nothing_while_the_api_server_tells_of_its_pod(
    store, told, collector
):
    told.add(CLIENT)
    add_client(store)
    assert collector.collect(LATER) == Pass(seen=1, nominated=1)
    assert store.counts() == OPEN


def test_only_what_is_not_found_of_a_pods_many_connections_is_moved(store, pods, collector):
    ports = [PORT_OF_CLIENT + n for n in range(2 * LIST_FROM)]
    pods.shown[CLIENT] = {seen_by_stack(port) for port in ports[::2]}
    for port in ports:
        add_client(store, port)
    assert collector.collect(LATER) == Pass(seen=len(ports), nominated=len(ports), moved=LIST_FROM)
    assert {key for key, _ in store.items("flows")} == {flow_key(port) for port in ports[::2]}
    assert {key for key, _ in store.items("wires")} == {wire_key(port) for port in ports[::2]}
    assert pods.listings == 1


def test_what_a_listing_misses_is_looked_up(store, pods, collector, monkeypatch):
    ports = [PORT_OF_CLIENT + n for n in range(LIST_FROM)]
    pods.shown[CLIENT] = {seen_by_stack(port) for port in ports}
    monkeypatch.setattr(flows.netlink, "connections", lambda channel: set())
    for port in ports:
        add_client(store, port)
    assert collector.collect(LATER).moved == 0


def test_few_connections_are_looked_up_without_a_listing(store, pods, collector):
    pods.shown[CLIENT] = {seen_by_stack()}
    add_client(store)
    collector.collect(LATER)
    assert pods.listings == 0


# Removed is only what belongs to a pod that is gone.


def test_connections_of_a_pod_that_is_gone_are_removed_with_their_wires(store, collector):
    add_client(store, seen=NOW)
    collector.pod_gone(CLIENT, NOW)
    assert collector.collect(NOW) == Pass(seen=1, nominated=1, removed=1)
    assert store.counts() == NOTHING


def test_idle_connections_of_a_pod_that_nobody_knows_are_removed_with_their_wires(store, collector):
    add_client(store)
    assert collector.collect(LATER) == Pass(seen=1, nominated=1, removed=1)
    assert store.counts() == NOTHING


def test_a_pod_is_gone_for_one_pass_only(store, told, collector):
    collector.pod_gone(CLIENT, NOW)
    collector.collect(NOW)
    told.add(CLIENT)
    add_client(store, seen=NOW)
    assert collector.collect(NOW) == Pass(seen=1)


def test_connections_of_the_next_pod_with_the_address_stay(store, pods, collector):
    pods.shown[CLIENT] = {seen_by_stack(PORT_OF_CLIENT + 1)}
    add_client(store)
    add_client(store, PORT_OF_CLIENT + 1, started_ns=NOW + SECOND)
    collector.pod_gone(CLIENT, NOW)
    assert collector.collect(NOW + 2 * SECOND) == Pass(seen=2, nominated=1, moved=1)
    assert [key for key, _ in store.items("flows")] == [flow_key(PORT_OF_CLIENT + 1)]
    assert [key for key, _ in store.items("wires")] == [wire_key(PORT_OF_CLIENT + 1)]


def test_a_pods_own_flow_is_removed_and_not_the_wire_of_another(store, collector):
    store.put("flows", flow_key(), flow())
    store.put("wires", wire_key(), wire(isn=ISN + 1, started_ns=NOW))
    assert collector.collect(LATER).removed == 1
    assert [value for _, value in store.items("wires")] == [wire(isn=ISN + 1, started_ns=NOW)]


# What another connection has put in the place meanwhile is not touched.

OTHER = {"isn": ISN + 1, "started_ns": NOW}


def holds_the_other(store):
    return dict(store.items("flows")) == {flow_key(): flow(**OTHER)} and dict(store.items("wires")) == {
        wire_key(): wire(**OTHER)
    }


@pytest.mark.parametrize("shown", [{CLIENT: set()}, {}])
@pytest.mark.parametrize("moment", [("get", "flows"), ("take", "flows"), ("take", "wires")])
def test_another_connection_that_takes_the_place_meanwhile_stays(store, pods, collector, shown, moment):
    pods.shown = shown
    add_client(store)
    store.before[moment] = lambda: add_client(store, **OTHER)
    outcome = collector.collect(LATER)
    assert store.before == {}
    assert holds_the_other(store) or moment == ("take", "wires")
    assert dict(store.items("wires")) == {wire_key(): wire(**OTHER)}
    assert (outcome.moved + outcome.removed == 0) == (moment != ("take", "wires"))


def test_what_a_packet_ends_meanwhile_is_not_moved_once_more(store, pods, collector):
    pods.shown[CLIENT] = set()
    add_client(store)
    store.before["get", "flows"] = lambda: (
        store.delete("flows", flow_key()),
        store.delete("wires", wire_key()),
    )
    assert collector.collect(LATER) == Pass(seen=1, nominated=1)
    assert store.counts() == NOTHING


# A wire that leads to no flow of its own is removed when two sweeps in a row found it so.


def sweep(collector, times=1, now=NOW + WIRE_AGE_NS):
    for _ in range(times * SWEEP_EVERY):
        collector.collect(now)


def test_a_wire_that_leads_to_no_flow_is_removed_by_the_second_sweep_and_no_pass_before(store, collector):
    store.put("wires", wire_key(), wire())
    sweep(collector)
    for _ in range(SWEEP_EVERY - 1):
        collector.collect(NOW)
    assert len(store.items("wires")) == 1
    collector.collect(NOW)
    assert store.items("wires") == []


def test_an_orphan_is_one_however_many_packets_of_the_network_pass_by_it(store, collector):
    store.put("wires", wire_key(), wire())
    sweep(collector)
    value = wire()
    used = value[: records.SEEN_AT] + records.stamp(NOW).to_bytes(4, "little") + value[records.SEEN_AT + 4 :]
    store.put("wires", wire_key(), used)
    sweep(collector)
    assert store.items("wires") == []


def test_a_wire_whose_flow_comes_between_two_sweeps_stays(store, collector):
    store.put("wires", wire_key(), wire())
    sweep(collector)
    store.put("flows", flow_key(), flow())
    sweep(collector)
    store.delete("flows", flow_key())
    sweep(collector)
    assert len(store.items("wires")) == 1


def test_another_connections_orphan_in_the_place_waits_for_two_sweeps_of_its_own(store, collector):
    store.put("wires", wire_key(), wire())
    sweep(collector)
    store.put("wires", wire_key(), wire(isn=ISN + 1))
    sweep(collector)
    assert len(store.items("wires")) == 1
    sweep(collector)
    assert store.items("wires") == []


def test_a_young_wire_may_wait_for_its_flow(store, collector):
    store.put("wires", wire_key(), wire(started_ns=NOW))
    sweep(collector, 2, NOW + WIRE_AGE_NS)
    assert len(store.items("wires")) == 1
    sweep(collector, 2, NOW + WIRE_AGE_NS + 1)
    assert store.items("wires") == []


def test_wires_of_long_connections_stay(store, told, collector):
    told.update((CLIENT, SERVER))
    add_client(store, started_ns=1)
    add_server(store)
    sweep(collector, 3)
    assert len(store.items("wires")) == 2


@pytest.mark.parametrize("other", [{"client_port": PORT_OF_CLIENT + 1}, {"wire_port": Y + 1}])
def test_a_wire_that_leads_to_another_connections_flow_is_removed_and_the_flow_stays(
    store, told, collector, other
):
    told.add(SERVER)
    add_server(store)
    store.put("flows", server_flow_key(), server_flow(**other))
    sweep(collector, 2)
    assert store.counts() == {**OPEN, "wires": 0}


# Batches, and how full a table is.


def test_the_collector_asks_of_each_record_once(store, told, collector):
    told.add(CLIENT)
    for n in range(5):
        add_client(store, PORT_OF_CLIENT + n)
    assert collector.collect(LATER) == Pass(seen=5, nominated=5)


@pytest.mark.parametrize(
    ("entries", "was", "full"), [(94, False, False), (95, False, True), (90, True, True), (89, True, False)]
)
def test_a_table_is_full_from_95_percent_on_and_until_90(entries, was, full):
    assert is_full(entries, 100, was) == full

"""Which established connections the collector moves aside or removes, and which it never touches: its rules, one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from support.batches import batch_of, batches_of
from support.packets import CONFIRM, PORT, REDIRECT, option, tcp
from support.slices import VIRTUAL, pool_slice
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane._records import FlowState, Mark, Role
from wharfinger_dataplane.agent import flows
from wharfinger_dataplane.agent.flows import LIST_FROM, SWEEP_EVERY, WIRE_AGE_NS, Collector, Pass, is_full
from wharfinger_dataplane.tables import Tables

SECOND = 10**9
HOUR = 3600 * SECOND
IDLE = 2 * HOUR
NOW = 100 * HOUR
LATER = NOW + IDLE + 60 * SECOND
"""When a connection that was last used at NOW is idle."""
CLIENT, SERVER, X, Y, TARGET, SCOPE = "10.244.1.5", "10.244.2.9", 80, 20_001, 8080, 7
PORT_OF_CLIENT, SUBSTITUTE, IFINDEX, ISN, SERVER_ISN = 41_000, 50_000, 5, 1000, 9000
OPEN = {"flows": 1, "wires": 1, "closed_flows": 0, "closed_wires": 0}
ASIDE = {"flows": 0, "wires": 0, "closed_flows": 1, "closed_wires": 1}
NOTHING = dict.fromkeys(OPEN, 0)


class Memory(Engine):
    """An engine's tables as the agent's store. `before`: what happens just before a call of it, once."""

    def __init__(self):
        self.before = {}

    def batches(self, table):
        return batches_of(self.items(table), 2)

    def get(self, table, key):
        self.before.pop(("get", table), lambda: None)()
        return super().get(table, key)

    def take(self, table, key):
        self.before.pop(("take", table), lambda: None)()
        value = super().get(table, key)
        self.delete(table, key)
        return value

    def put_new(self, table, key, value):
        is_new = super().get(table, key) is None
        if is_new:
            self.put(table, key, value)
        return is_new

    def counts(self):
        return {table: len(self.items(table)) for table in OPEN}


@dataclass
class Channel:
    address: str

    def close(self):
        pass


@dataclass
class Pods:
    """Pods' namespaces: address -> the connections that its stack shows."""

    shown: dict = field(default_factory=dict)
    listings: int = 0

    def diag(self, address):
        return Channel(address) if address in self.shown else None

    def listed(self, channel):
        self.listings += 1
        return set(self.shown[channel.address])


@pytest.fixture
def pods(monkeypatch):
    found = Pods()
    monkeypatch.setattr(flows, "PAUSE_S", 0)
    monkeypatch.setattr(flows.netlink, "connections", found.listed)
    monkeypatch.setattr(flows.netlink, "connected", lambda channel, one: one in found.shown[channel.address])
    return found


@pytest.fixture
def store():
    return Memory()


@pytest.fixture
def told():
    """The pods that the API server tells of."""
    return set()


@pytest.fixture
def collector(store, pods, told):
    return Collector(store, pods, told.__contains__, IDLE)


def flow_key(port=PORT_OF_CLIENT):
    return records.pack_flow_key(CLIENT, port, VIRTUAL, X, IFINDEX)


def wire_key(port=PORT_OF_CLIENT, wire_port=Y):
    return records.pack_flow_key(CLIENT, port, SERVER, wire_port)


def seen_by_stack(port=PORT_OF_CLIENT):
    return CLIENT, port, VIRTUAL, X


def flow(**changes):
    return records.pack_flow(**{"state": FlowState.CLIENT_ESTABLISHED, "server": SERVER, "scope": SCOPE, "isn": ISN, "wire_port": Y,
                                "seen": records.stamp(NOW), "started_ns": NOW - HOUR, **changes})


def wire(port=PORT_OF_CLIENT, **changes):
    return records.pack_wire(**{"state": FlowState.CLIENT_ESTABLISHED, "ifindex": IFINDEX, "peer": VIRTUAL, "local_port": port,
                                "peer_port": X, "isn": ISN, "started_ns": NOW - HOUR, **changes})


def add_client(store, port=PORT_OF_CLIENT, *, marks=Mark.AWARE, seen=None, **whose):
    """A client's connection: its flow and its wire."""
    stamp = {} if seen is None else {"seen": records.stamp(seen)}
    store.put("flows", flow_key(port), flow(marks=marks, **stamp, **whose))
    store.put("wires", wire_key(port), wire(port, **whose))


def server_flow_key(substitute=SUBSTITUTE):
    return records.pack_flow_key(SERVER, TARGET, CLIENT, substitute, IFINDEX)


def server_wire_key(wire_port=Y):
    return records.pack_flow_key(SERVER, wire_port, CLIENT, PORT_OF_CLIENT)


def add_server(store, substitute=SUBSTITUTE):
    """A server's connection whose client's port is `substitute` to the stack."""
    store.put("flows", server_flow_key(substitute), server_flow())
    store.put("wires", server_wire_key(), server_wire(substitute))


def server_flow(**changes):
    return flow(**{"state": FlowState.SERVER_ESTABLISHED, "client_port": PORT_OF_CLIENT, "redirect_port": X, **changes})


def server_wire(substitute=SUBSTITUTE):
    return wire(TARGET, state=FlowState.SERVER_ESTABLISHED, peer=CLIENT, peer_port=substitute)


# A socket that is there keeps its flow, whatever the wire says.


@pytest.mark.parametrize("how", [{}, {"marks": Mark.AWARE | Mark.RESET_SEEN}, {"marks": Mark.AWARE | Mark.FIN_SEEN}])
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


def test_a_server_under_a_substitute_is_moved_with_its_wire(store, pods, collector):
    pods.shown[SERVER] = {(SERVER, TARGET, CLIENT, PORT_OF_CLIENT)}  # the client's own port is another connection's
    add_server(store)
    assert collector.collect(LATER).moved == 1
    assert [key for key, _ in store.items("closed_wires")] == [server_wire_key()]
    assert store.counts() == ASIDE


def test_a_namespace_that_is_not_found_moves_nothing_while_the_api_server_tells_of_its_pod(store, told, collector):
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
    return dict(store.items("flows")) == {flow_key(): flow(**OTHER)} and dict(store.items("wires")) == {wire_key(): wire(**OTHER)}


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
    store.before["get", "flows"] = lambda: (store.delete("flows", flow_key()), store.delete("wires", wire_key()))
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
    used = value[:records.SEEN_AT] + records.stamp(NOW).to_bytes(4, "little") + value[records.SEEN_AT + 4:]
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
def test_a_wire_that_leads_to_another_connections_flow_is_removed_and_the_flow_stays(store, told, collector, other):
    told.add(SERVER)
    add_server(store)
    store.put("flows", server_flow_key(), server_flow(**other))
    sweep(collector, 2)
    assert store.counts() == {**OPEN, "wires": 0}


# All of it with packets: a live connection goes on, whatever the collector thinks of it.

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
    live(store, CLIENT, Role.CLIENT, ("from_pod", tcp(C, VX, "S", seq=ISN), "client_syn"),
         ("to_pod", tcp(SX, C, "SA", seq=SERVER_ISN, ack=ISN + 1, options=option(CONFIRM | PORT, Y)), "client_redirected"),
         ("from_pod", tcp(C, VX, "A", **FORTH), "client_joins"), (*CLIENT_RECEIVES, "client_receives"),
         (*CLIENT_SENDS, "client_sends"))
    return store


@pytest.fixture
def server(store):
    live(store, SERVER, Role.SERVER, ("to_pod", tcp(C, SX, "S", seq=ISN, options=option(REDIRECT, scope=SCOPE)), "server_syn"),
         ("from_pod", tcp(SP, C, "SA", seq=SERVER_ISN, ack=ISN + 1), "server_answers"), (*SERVER_RECEIVES, "server_joined"),
         (*SERVER_SENDS, "server_sends"))
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


def test_a_client_that_is_moved_aside_hears_its_server_and_stays_aside_until_it_speaks(client, pods, collector):
    pods.shown[CLIENT] = set()
    for _ in range(3):
        collector.collect(LATER)
        assert passes(client, CLIENT_RECEIVES, LATER) == "client_receives"
        assert client.counts() == ASIDE
    assert passes(client, CLIENT_SENDS, LATER) == "client_sends"
    assert passes(client, CLIENT_RECEIVES, LATER) == "client_receives"
    assert client.counts() == OPEN


def test_a_server_that_is_moved_aside_hears_its_client_and_stays_aside_until_it_speaks(server, pods, collector):
    pods.shown[SERVER] = set()
    for _ in range(3):
        collector.collect(LATER)
        assert passes(server, SERVER_RECEIVES, LATER) == "server_receives"
        assert server.counts() == ASIDE
    assert passes(server, SERVER_SENDS, LATER) == "server_sends"
    assert passes(server, SERVER_RECEIVES, LATER) == "server_receives"
    assert server.counts() == OPEN


@pytest.mark.parametrize("idle", [IDLE, 25 * HOUR, 26 * 24 * HOUR, 100 * 24 * HOUR])
def test_a_connection_that_was_idle_for_long_in_a_socket_that_is_not_found_works_afterwards(client, pods, collector, idle):
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


def test_a_stack_that_speaks_on_denies_the_reset_and_nominates_its_connection_no_more(client, pods, collector):
    pods.shown[CLIENT] = set()
    passes(client, BLIND_RST, NOW)
    passes(client, CLIENT_SENDS, NOW)
    assert marks(client) == Mark.AWARE
    assert collector.collect(NOW) == Pass(seen=1)


def test_a_connection_that_was_moved_aside_with_a_reset_seen_is_nominated_once_and_no_more(client, pods, collector):
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


# Batches, and how full a table is.


def test_the_collector_asks_of_each_record_once(store, told, collector):
    told.add(CLIENT)
    for n in range(5):
        add_client(store, PORT_OF_CLIENT + n)
    assert collector.collect(LATER) == Pass(seen=5, nominated=5)


def test_the_engine_and_the_collector_mean_the_same_bytes(client):
    assert records.quiet_flows(batch_of(client.items("flows")), LATER, IDLE, {}) == client.items("flows")
    assert records.old_wires(batch_of(client.items("wires")), LATER, WIRE_AGE_NS) == client.items("wires")


@pytest.mark.parametrize(("entries", "was", "full"), [(94, False, False), (95, False, True), (90, True, True), (89, True, False)])
def test_a_table_is_full_from_95_percent_on_and_until_90(entries, was, full):
    assert is_full(entries, 100, was) == full

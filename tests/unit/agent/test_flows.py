"""Which entries of the table of connections go, and which never do."""

import pytest
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane._records import FlowState, Side
from wharfinger_dataplane.agent import flows
from wharfinger_dataplane.agent.flows import SWEEP_EVERY, Collector

SECOND = 10**9
NOW = 10_000 * SECOND
IDLE = 3600 * SECOND
CLIENT, SERVER, VIRTUAL, X, Y, PORT = "10.244.1.5", "10.244.2.9", "10.96.0.10", 80, 20_001, 41_000


class Table(dict):
    """The store, with the one trick that a test needs: something happens just before an entry is taken."""

    def __init__(self):
        super().__init__()
        self.before_take = lambda key: None

    def batches(self, table):
        items = list(self.items())
        return (items[n:n + 2] for n in range(0, len(items), 2))

    def get(self, table, key):
        return dict.get(self, key)

    def take(self, table, key):
        self.before_take(key)
        return self.pop(key, None)

    def put_new(self, table, key, value):
        return self.setdefault(key, value) is value


class Pods:
    """Pods' namespaces: address -> its connections."""

    def __init__(self, monkeypatch, **connections):
        self.connections = {}
        monkeypatch.setattr(flows.netlink, "connections", lambda channel: self.connections[channel.address])
        monkeypatch.setattr(flows.netlink, "connected", lambda channel, connection: connection in self.connections[channel.address])

    def diag(self, address):
        return Channel(address) if address in self.connections else None


class Channel:
    def __init__(self, address):
        self.address = address

    def close(self):
        pass


@pytest.fixture
def pods(monkeypatch):
    monkeypatch.setattr(flows, "PAUSE_S", 0)
    return Pods(monkeypatch)


@pytest.fixture
def table():
    return Table()


@pytest.fixture
def told():
    return set()


@pytest.fixture
def collector(table, pods, told):
    return Collector(table, pods, told.__contains__, IDLE)


def flow(**changes):
    return records.pack_flow(**{"other": SERVER, "scope": 7, "isn": 1, "redirect_port": X, "service_port": Y, "state": FlowState.ESTABLISHED,
                                "started_ns": NOW - 60 * SECOND, "seen_ns": NOW - SECOND, **changes})


def stack_key(port=PORT):
    return records.pack_flow_key(Side.CLIENT_STACK, CLIENT, port, VIRTUAL, X)


def wire_key(wire_port, port=PORT):
    return records.pack_flow_key(Side.CLIENT_WIRE, CLIENT, port, SERVER, wire_port)


def add_client(table, port=PORT, **changes):
    """A client's entry with both its wire records."""
    table[stack_key(port)] = flow(**changes)
    for wire_port in (X, Y):
        table[wire_key(wire_port, port)] = flow(**{"other": VIRTUAL, **changes, "state": FlowState.REDIRECTED})


def server_key(port=PORT):
    return records.pack_flow_key(Side.SERVER_STACK, SERVER, 8080, CLIENT, port)


def test_a_closed_connection_without_a_socket_goes_with_its_wire_records(collector, table, pods):
    pods.connections[CLIENT] = set()
    add_client(table, state=FlowState.CLOSING)
    outcome = collector.collect(NOW)
    assert (table, outcome.seen, outcome.removed) == ({}, 3, 3)


def test_a_closed_connection_whose_socket_is_there_stays(collector, table, pods):
    pods.connections[CLIENT] = {(CLIENT, PORT, VIRTUAL, X)}
    add_client(table, state=FlowState.CLOSING)
    collector.collect(NOW)
    assert len(table) == 3


def test_silence_only_nominates(collector, table, pods):
    pods.connections[CLIENT] = {(CLIENT, PORT, VIRTUAL, X)}
    add_client(table, PORT, seen_ns=NOW - 2 * IDLE)
    add_client(table, PORT + 1, seen_ns=NOW - 2 * IDLE)
    collector.collect(NOW)
    assert stack_key(PORT) in table
    assert stack_key(PORT + 1) not in table


def test_a_connection_that_was_seen_lately_is_not_even_asked_for(collector, table, pods):
    pods.connections[CLIENT] = set()
    add_client(table)
    assert collector.collect(NOW).nominated == 0
    assert len(table) == 3


@pytest.mark.parametrize("socket", [True, False])
def test_a_connection_that_the_wire_says_is_reset_goes_if_its_socket_is_gone(collector, table, pods, socket):
    pods.connections[CLIENT] = {(CLIENT, PORT, VIRTUAL, X)} if socket else set()
    add_client(table, ends=records.END_RESET_SAID)
    collector.collect(NOW)
    assert len(table) == (3 if socket else 0)


@pytest.mark.parametrize(("age", "left"), [(9, 2), (11, 0)])
def test_a_connection_that_nobody_answers_goes_when_its_socket_is_gone(collector, table, pods, age, left):
    pods.connections[CLIENT] = set()
    table[stack_key()] = flow(state=FlowState.OPENING, service_port=0, started_ns=NOW - age * SECOND)
    table[wire_key(X)] = flow(other=VIRTUAL, state=FlowState.OPENING, service_port=0, started_ns=NOW - age * SECOND)
    collector.collect(NOW)
    assert len(table) == left


def test_a_connection_that_opens_while_its_socket_waits_stays(collector, table, pods):
    pods.connections[CLIENT] = {(CLIENT, PORT, VIRTUAL, X)}
    add_client(table, state=FlowState.OPENING, started_ns=NOW - 100 * SECOND)
    collector.collect(NOW)
    assert len(table) == 3


def test_many_closed_connections_are_listed_and_each_missing_one_is_looked_up(collector, table, pods, monkeypatch):
    pods.connections[CLIENT] = {(CLIENT, PORT + n, VIRTUAL, X) for n in range(0, 200, 2)}
    monkeypatch.setattr(flows.netlink, "connections", lambda channel: set())  # a listing that misses everything
    for n in range(200):
        table[stack_key(PORT + n)] = flow(state=FlowState.CLOSING)
    collector.collect(NOW)
    assert set(table) == {stack_key(PORT + n) for n in range(0, 200, 2)}


def test_a_servers_entry_goes_when_its_socket_is_gone(collector, table, pods):
    pods.connections[SERVER] = {(SERVER, 8080, CLIENT, PORT)}
    table[server_key()] = table[server_key(PORT + 1)] = flow(state=FlowState.CLOSING)
    collector.collect(NOW)
    assert set(table) == {server_key()}


SUBSTITUTE = 50_000


def add_substituted(table, **changes):
    """A server's entry under a substitute of the client's port, and the wire's record that leads to it."""
    table[server_key(SUBSTITUTE)] = flow(client_port=PORT, **changes)
    table[substitute_key()] = flow(redirect_port=8080, client_port=SUBSTITUTE, **changes)


def substitute_key():
    return records.pack_flow_key(Side.SERVER_WIRE, SERVER, Y, CLIENT, PORT)


def test_a_servers_entry_under_a_substitute_goes_with_its_wire_record(collector, table, pods):
    pods.connections[SERVER] = {(SERVER, 8080, CLIENT, PORT)}
    add_substituted(table, state=FlowState.CLOSING)
    assert (collector.collect(NOW).removed, table) == (2, {})


def test_a_servers_entry_under_a_substitute_stays_while_the_stack_has_the_substitute(collector, table, pods):
    pods.connections[SERVER] = {(SERVER, 8080, CLIENT, SUBSTITUTE)}
    add_substituted(table, state=FlowState.CLOSING, started_ns=1)
    for n in range(3 * SWEEP_EVERY):
        collector.collect(NOW + n)
    assert len(table) == 2


@pytest.mark.parametrize("entry", [{}, {"client_port": PORT + 1}, {"client_port": PORT, "service_port": Y + 1}])
def test_a_servers_wire_record_that_leads_to_another_connection_goes_after_two_sweeps(collector, table, pods, entry):
    pods.connections[SERVER] = {(SERVER, 8080, CLIENT, SUBSTITUTE)}
    add_substituted(table)
    table[server_key(SUBSTITUTE)] = flow(**entry)
    for n in range(2 * SWEEP_EVERY):
        collector.collect(NOW + n)
    assert set(table) == {server_key(SUBSTITUTE)}


def test_a_new_connection_in_an_old_ones_place_is_put_back(collector, table, pods):
    pods.connections[SERVER] = set()
    table[server_key()] = flow(state=FlowState.CLOSING)
    fresh = flow(isn=2, started_ns=NOW)
    table.before_take = lambda key: table.__setitem__(key, fresh)
    assert collector.collect(NOW).restored == 1
    assert table == {server_key(): fresh}


def test_a_wire_record_of_a_newer_connection_stays(collector, table, pods):
    pods.connections[CLIENT] = set()
    add_client(table, state=FlowState.CLOSING)
    table[wire_key(Y)] = newer = flow(other=VIRTUAL, redirect_port=X, started_ns=NOW)
    collector.collect(NOW)
    assert table == {wire_key(Y): newer}


def test_all_entries_of_a_pod_that_is_gone_go(collector, table):
    add_client(table)
    collector.pod_gone(CLIENT, NOW)
    collector.collect(NOW)
    assert stack_key() not in table


def test_connections_of_a_new_pod_at_a_gone_ones_address_stay(collector, table, pods):
    pods.connections[CLIENT] = {(CLIENT, PORT + 1, VIRTUAL, X)}
    add_client(table, PORT)
    add_client(table, PORT + 1, started_ns=NOW + SECOND)
    collector.pod_gone(CLIENT, NOW)
    collector.collect(NOW + 2 * SECOND)
    assert stack_key(PORT + 1) in table
    assert stack_key(PORT) not in table


def test_a_namespace_that_is_not_found_is_no_proof_while_the_api_server_tells_of_its_pod(collector, table, told):
    told.add(CLIENT)
    add_client(table, state=FlowState.CLOSING)
    collector.collect(NOW)
    assert len(table) == 3
    told.clear()
    collector.collect(NOW)
    assert len(table) == 0


def test_a_wire_record_that_leads_nowhere_goes_after_two_sweeps(collector, table):
    table[wire_key(Y)] = flow(other=VIRTUAL)
    for n in range(2 * SWEEP_EVERY - 1):
        collector.collect(NOW + n)
    assert len(table) == 1
    collector.collect(NOW)
    assert len(table) == 0


def test_wire_records_of_a_long_connection_stay(collector, table, pods):
    pods.connections[CLIENT] = {(CLIENT, PORT, VIRTUAL, X)}
    add_client(table, started_ns=1)
    for n in range(3 * SWEEP_EVERY):
        collector.collect(NOW + n)
    assert len(table) == 3


def test_the_engine_and_the_collector_mean_the_same_bytes():
    engine = Engine()
    engine.put("flows", stack_key(), flow(state=FlowState.CLOSING))
    assert records.ended_flows(engine.items("flows"), NOW, IDLE, IDLE, IDLE, {}) == engine.items("flows")

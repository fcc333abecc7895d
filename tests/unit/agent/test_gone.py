"""Whose connections are ended because their server is gone, and whose never."""

import errno

import pytest
from support.slices import pool_slice
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._records import FlowState, Side
from wharfinger_dataplane.agent import gone
from wharfinger_dataplane.agent.gone import Ender, gone_servers

CLIENT, SERVER, OTHER, VIRTUAL, X, Y, SCOPE = "10.244.1.5", "10.244.2.9", "10.244.2.10", "10.96.0.10", 80, 20_001, 7
AT = records.pack_address(SERVER)


class Store(dict):
    def batches(self, table):
        return iter([list(self.items())])


class Pods:
    def __init__(self, *addresses):
        self.addresses = addresses

    def diag(self, address):
        return self if address in self.addresses else None

    def close(self):
        pass


@pytest.fixture
def destroyed(monkeypatch):
    """The connections that were ended."""
    found = []
    monkeypatch.setattr(gone.netlink, "end", lambda channel, connection: found.append(connection) or True)
    monkeypatch.setattr(gone, "PAUSE_S", 0)
    return found


def add(store, port, side=Side.CLIENT_STACK, **changes):
    store[records.pack_flow_key(side, CLIENT, port, VIRTUAL, X)] = records.pack_flow(**{
        "other": SERVER, "scope": SCOPE, "isn": 1, "redirect_port": X, "service_port": Y, "state": FlowState.ESTABLISHED, "started_ns": 1,
        "seen_ns": 1, **changes})


def ended(store, slices, *clients):
    ender = Ender(store, Pods(*(clients or (CLIENT,))))
    ender.say(gone_servers(slices))
    ender.end()
    return ender


def test_a_connection_to_a_port_at_rest_is_ended_as_the_clients_stack_knows_it(destroyed):
    store = Store()
    add(store, 41_000)
    assert ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})]).ended == 1
    assert destroyed == [(CLIENT, 41_000, VIRTUAL, X)]


@pytest.mark.parametrize("state", ["Assigned", "Ready", "Draining"])
def test_a_server_that_may_live_keeps_its_connections(destroyed, state):
    store = Store()
    add(store, 41_000)
    ended(store, [pool_slice({"a": SERVER}, states={"a": state})])
    assert destroyed == []


def test_a_server_that_no_slice_names_keeps_its_connections(destroyed):
    store = Store()
    add(store, 41_000)
    ended(store, [pool_slice({"b": OTHER}, states={"b": "Resting"})])
    assert destroyed == []


def test_a_connection_to_the_next_pod_with_the_address_is_another_servers(destroyed):
    store = Store()
    add(store, 41_000)
    add(store, 41_001, service_port=20_002)
    add(store, 41_002, service_port=0)
    ended(store, [pool_slice({"a": SERVER, "b": SERVER}, states={"a": "Resting"})])
    assert destroyed == [(CLIENT, 41_000, VIRTUAL, X)]


def test_a_connection_that_stayed_on_the_redirect_port_goes_with_its_pools_server(destroyed):
    store = Store()
    add(store, 41_000, service_port=0)
    add(store, 41_001, service_port=0, scope=SCOPE + 1)
    ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})])
    assert destroyed == [(CLIENT, 41_000, VIRTUAL, X)]


@pytest.mark.parametrize("changes", [{"state": FlowState.OPENING, "service_port": 0}, {"side": Side.SERVER_STACK}, {"side": Side.CLIENT_WIRE}])
def test_what_is_opening_and_what_is_no_clients_is_left_alone(destroyed, changes):
    store = Store()
    add(store, 41_000, **changes)
    ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})])
    assert destroyed == []


def test_a_client_that_is_gone_itself_is_passed_over(destroyed):
    store = Store()
    add(store, 41_000)
    ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})], OTHER)
    assert destroyed == []


def test_only_what_was_not_known_is_news():
    ender = Ender(Store(), Pods())
    first, more = pool_slice({"a": SERVER}, states={"a": "Resting"}), pool_slice({"a": SERVER, "b": OTHER}, states={"a": "Resting", "b": "Resting"})
    assert [ender.say(gone_servers([piece])) for piece in (first, first, more, first)] == [True, False, True, False]


def test_nothing_gone_is_no_news_and_no_look_at_the_table():
    ender = Ender(None, Pods())
    assert not ender.say(gone_servers([pool_slice({"a": SERVER})]))
    assert ender.end() == 0


def test_a_kernel_that_cannot_end_connections_is_asked_once(monkeypatch):
    asked = []

    def refuse(channel, connection):
        asked.append(connection)
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(gone.netlink, "end", refuse)
    store = Store()
    add(store, 41_000)
    ender = ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})])
    assert (ender.end(), len(asked)) == (0, 1)

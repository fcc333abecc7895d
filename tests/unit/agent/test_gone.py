"""Whose connections are ended because their server is gone, and whose never."""

import errno

import pytest
from support.batches import batch_of
from support.slices import pool_slice
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._records import FlowState, Mark
from wharfinger_dataplane.agent import gone
from wharfinger_dataplane.agent.gone import Ender, gone_servers

CLIENT, SERVER, OTHER, VIRTUAL, X, Y, SCOPE = (
    "10.244.1.5",
    "10.244.2.9",
    "10.244.2.10",
    "10.96.0.10",
    80,
    20_001,
    7,
)
IFINDEX = 5


class Store(dict):
    def batches(self, table):
        assert table == "flows"
        return iter([batch_of(self.items())])


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


def add(store, port, **changes):
    """A client's connection from `port`."""
    store[records.pack_flow_key(CLIENT, port, VIRTUAL, X, IFINDEX)] = records.pack_flow(
        **{
            "state": FlowState.CLIENT_ESTABLISHED,
            "server": SERVER,
            "scope": SCOPE,
            "isn": 1,
            "wire_port": Y,
            "started_ns": 1,
            **changes,
        }
    )


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
    add(store, 41_001, wire_port=20_002)
    add(store, 41_002, wire_port=X)
    ended(store, [pool_slice({"a": SERVER, "b": SERVER}, states={"a": "Resting"})])
    assert destroyed == [(CLIENT, 41_000, VIRTUAL, X)]


def test_a_connection_that_stayed_on_the_redirect_port_goes_with_its_pools_server(destroyed):
    store = Store()
    add(store, 41_000, wire_port=X)
    add(store, 41_001, wire_port=X, scope=SCOPE + 1)
    ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})])
    assert destroyed == [(CLIENT, 41_000, VIRTUAL, X)]


def test_a_connection_whose_server_has_not_answered_at_its_port_yet_is_ended_too(destroyed):
    store = Store()
    add(store, 41_000, state=FlowState.CLIENT_JOINING)
    ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})])
    assert destroyed == [(CLIENT, 41_000, VIRTUAL, X)]


@pytest.mark.parametrize("marks", [Mark.LOCAL_FIN, Mark.PEER_FIN, Mark.FIN_SEEN, Mark.RESET_SEEN])
def test_a_connection_that_is_half_closed_or_only_said_to_be_reset_is_ended(destroyed, marks):
    store = Store()
    add(store, 41_000, marks=Mark.AWARE | marks)
    ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})])
    assert destroyed == [(CLIENT, 41_000, VIRTUAL, X)]


@pytest.mark.parametrize(
    "changes",
    [
        {"marks": Mark.RESET, "state": FlowState.CLIENT_CLOSED},
        {"marks": Mark.LOCAL_FIN | Mark.PEER_FIN, "state": FlowState.CLIENT_CLOSED},
        {"state": FlowState.SERVER_ESTABLISHED, "client_port": Y, "redirect_port": X},
    ],
    ids=["reset", "closed by both", "a server's"],
)
def test_what_is_over_and_what_is_no_clients_is_left_alone(destroyed, changes):
    store = Store()
    add(store, 41_000, **changes)
    ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})])
    assert destroyed == []


def test_a_server_whose_own_clients_have_the_gone_ones_address_keeps_them(destroyed):
    """The bytes of a client's `server` are a server's two ports: those are no address."""
    store, (high, low) = Store(), divmod(records.pack_v4(SERVER), 1 << 16)
    ports = [int.from_bytes(half.to_bytes(2, "little"), "big") for half in (low, high)]
    add(store, 41_000, state=FlowState.SERVER_ESTABLISHED, client_port=ports[0], redirect_port=ports[1])
    ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})])
    assert destroyed == []


def test_ipv6_addresses_are_nobodys_server():
    assert records.pack_v4("fd00::1") == 0


def test_a_client_that_is_gone_itself_is_passed_over(destroyed):
    store = Store()
    add(store, 41_000)
    ended(store, [pool_slice({"a": SERVER}, states={"a": "Resting"})], OTHER)
    assert destroyed == []


def test_only_what_was_not_known_is_news():
    ender = Ender(Store(), Pods())
    first, more = (
        pool_slice({"a": SERVER}, states={"a": "Resting"}),
        pool_slice({"a": SERVER, "b": OTHER}, states={"a": "Resting", "b": "Resting"}),
    )
    assert [ender.say(gone_servers([piece])) for piece in (first, first, more, first)] == [
        True,
        False,
        True,
        False,
    ]


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

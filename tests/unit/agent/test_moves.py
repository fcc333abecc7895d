"""Who asks whom to move, and in which words."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from support.batches import batch_of
from support.slices import pool_slice
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._records import Asked, FlowKey, FlowState, Mark
from wharfinger_dataplane.agent import moves
from wharfinger_dataplane.agent.moves import Asker, connection_frame, draining

CLIENT, SERVER, OTHER = "10.244.1.5", "10.244.2.9", "10.244.2.10"
Y, TARGET, SCOPE, IFINDEX = 20_001, 8080, 7, 5
LINK = "02:00:00:00:00:07"
MOVING = {"mode": "Close", "onDrain": True}
WANTED = {records.pack_v4(SERVER): frozenset({Y})}


def leaving(piece, **changes):
    """The slice, whose assignments have these changes."""
    records_ = tuple(
        record.model_copy(update={"leaving": True, **changes}) for record in piece.spec.assignments
    )
    return piece.model_copy(update={"spec": piece.spec.model_copy(update={"assignments": records_})})


def slice_of(**more):
    return pool_slice({"a": SERVER}, **{"states": {"a": "Draining"}, "moves": MOVING, **more})


def test_a_server_of_this_node_that_leaves_asks_when_its_pool_moves_connections_on_a_drain():
    assert draining("node", [leaving(slice_of())]) == WANTED


@pytest.mark.parametrize(
    ("piece", "node"),
    [
        (leaving(slice_of()), "another"),
        (slice_of(), "node"),
        (leaving(slice_of(states={})), "node"),
        (leaving(slice_of(states={"a": "Resting"})), "node"),
        (leaving(slice_of(moves={})), "node"),
        (leaving(slice_of(moves={"mode": "Close"})), "node"),
        (leaving(slice_of(moves={"onDrain": True})), "node"),
    ],
    ids=[
        "another node's",
        "it drains for another reason",
        "it is ready",
        "it is gone",
        "no moves",
        "not on a drain",
        "no mode",
    ],
)
def test_nobody_else_asks(piece, node):
    assert draining(node, [piece]) == {}


def test_a_connection_is_named_by_the_headers_of_a_bare_acknowledgement():
    frame = Ether(connection_frame(FlowKey(SERVER, TARGET, CLIENT, 40_000, IFINDEX), LINK))
    assert frame.dst == LINK
    assert (frame[IP].src, frame[IP].dst, frame[TCP].sport, frame[TCP].dport) == (
        SERVER,
        CLIENT,
        TARGET,
        40_000,
    )
    assert (str(frame[TCP].flags), str(frame[IP].flags), frame[IP].len, len(frame)) == ("A", "DF", 40, 54)
    told = frame[IP].chksum
    del frame[IP].chksum
    assert Ether(bytes(frame))[IP].chksum == told


class Store(dict):
    """`asked`: the frames, and at which interface."""

    def __init__(self):
        self.asked = []

    def batches(self, table):
        assert table == "flows"
        return iter([batch_of(self.items())])

    def ask(self, frame, ifindex):
        self.asked.append((Ether(frame)[TCP].dport, ifindex))
        return Asked.ASKED


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(moves, "PAUSE_S", 0)
    monkeypatch.setattr(moves, "_link_address", lambda ifindex: LINK if ifindex == IFINDEX else "")
    return Store()


def add(store, port, *, local=SERVER, ifindex=IFINDEX, **changes):
    flow = {
        "state": FlowState.SERVER_ESTABLISHED,
        "wire_port": Y,
        "client_port": port,
        "redirect_port": 80,
        "scope": SCOPE,
        "isn": 1,
    }
    store[records.pack_flow_key(local, TARGET, CLIENT, port, ifindex)] = records.pack_flow(
        **{**flow, **changes}
    )


def test_each_aware_connection_of_a_server_that_leaves_is_asked_and_no_other(store):
    add(store, 1)
    add(store, 2)
    add(store, 3, local=OTHER)
    add(store, 4, wire_port=Y + 1)
    add(store, 5, marks=0)
    add(store, 6, state=FlowState.CLIENT_ESTABLISHED)
    for port, mark in enumerate((Mark.LOCAL_FIN, Mark.PEER_FIN), 7):
        add(store, port, marks=Mark.AWARE | mark)
    for port, mark in enumerate((Mark.FIN_SEEN, Mark.RESET_SEEN), 9):  # which anybody may have sent
        add(store, port, marks=Mark.AWARE | mark)
    add(store, 20, ifindex=IFINDEX + 1)  # whose interface is gone
    asker = Asker(store)
    asker.say(WANTED)
    assert asker.ask() == 4
    assert sorted(store.asked) == [(port, IFINDEX) for port in (1, 2, 9, 10)]
    assert asker.asked == {Asked.ASKED: 4}


def test_it_is_said_whether_who_leaves_is_news(store):
    asker = Asker(store)
    assert not asker.wanted
    assert asker.say(WANTED)
    assert asker.wanted
    assert not asker.say(dict(WANTED))
    assert asker.say({})
    assert asker.ask() == 0


def test_a_pass_that_took_long_is_followed_by_a_longer_rest(store, monkeypatch):
    add(store, 1)
    now = iter([10.0, 10.5])
    monkeypatch.setattr(moves.time, "monotonic", lambda: next(now))
    asker = Asker(store)
    asker.say(WANTED)
    asker.ask()
    assert asker.pause_s == 0.5 * moves.REST

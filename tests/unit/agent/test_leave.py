"""Leaving a node: when, and what counts as open. Sockets and programs are tests/netns/test_leaving.py's."""

import pytest
from support.batches import batch_of
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._records import FlowState, Mark
from wharfinger_dataplane.agent.leave import QUIET_S, Leave, Marker, read_marker
from wharfinger_dataplane.agent.reflector import Misread

SERVERS = {"state": FlowState.SERVER_ESTABLISHED, "client_port": 40_000, "redirect_port": 80}


def entry(marks=Mark(0), **changes):
    """A record of `flows`, a client's unless told otherwise."""
    value = records.pack_flow(
        **{
            "state": FlowState.CLIENT_ESTABLISHED,
            "server": "10.0.0.9",
            "scope": 7,
            "isn": 1,
            "wire_port": 20_000,
            "marks": Mark.AWARE | marks,
            "started_ns": 1,
            **changes,
        }
    )
    return records.pack_flow_key("10.0.0.2", 40_000, "10.96.0.10", 80, 5), value


class Node:
    """Stands for the kernel and what is attached; `open` are the table's records."""

    def __init__(self, *entries):
        self.entries, self.done, self.now_s = list(entries), [], 1000.0
        self.leave = Leave(self, self, self)

    def batches(self, table):
        assert table == "flows"
        yield batch_of(self.entries)

    def detach_all(self):
        self.done.append("detach")
        return 3

    def unpin(self):
        self.done.append("unpin")

    def diag(self, address):
        return None

    def step(self, later_s=0.0, grace_s=60.0):
        self.now_s += later_s
        self.leave.step(Marker(grace_s), self.now_s)
        return self.leave.left


@pytest.mark.parametrize(
    ("name", "record", "still"),
    [
        ("a client's end", entry(), True),
        ("a server's end", entry(**SERVERS), True),
        ("one whose server has not answered at its port yet", entry(state=FlowState.CLIENT_JOINING), True),
        ("half closed", entry(Mark.LOCAL_FIN), True),
        ("half closed by the peer", entry(Mark.PEER_FIN), True),
        ("one of whose end only the wire speaks", entry(Mark.FIN_SEEN | Mark.RESET_SEEN), True),
        ("closed by both", entry(Mark.LOCAL_FIN | Mark.PEER_FIN), False),
        ("reset", entry(Mark.RESET), False),
        ("a direct dial under a substitute", entry(**SERVERS, scope=0), False),
    ],
)
def test_a_node_waits_for_connections_that_are_open(name, record, still):
    assert bool(records.open_flows(batch_of([record]))) == still


def test_of_many_records_those_that_are_open_are_told_as_they_are():
    found = [entry(), entry(Mark.RESET), entry(**SERVERS), entry(scope=0)]
    assert records.open_flows(batch_of(found)) == [found[0], found[2]]


def test_a_node_without_connections_is_left_when_it_has_been_quiet_for_a_moment():
    node = Node()
    assert not node.step()
    assert not node.step(QUIET_S / 2)
    assert node.step(QUIET_S / 2)
    assert node.done == ["detach", "unpin"]


def test_a_handshake_that_was_under_way_is_waited_for():
    node = Node()
    node.step()
    node.entries = [entry()]
    assert not node.step(QUIET_S)
    node.entries = []
    assert not node.step(10)
    assert node.step(QUIET_S)


def test_an_open_connection_has_its_grace_and_no_more():
    node = Node(entry())
    assert not node.step()
    assert not node.step(59.9)
    assert node.step(0.2)
    assert node.leave.condition.message.startswith(
        "1 ends of aware connections were open when the grace was over"
    )


def test_what_could_not_be_removed_is_tried_again(monkeypatch):
    node = Node()
    monkeypatch.setattr(node, "unpin", lambda: (_ for _ in ()).throw(OSError(16, "busy")))
    with pytest.raises(OSError, match="busy"):
        node.step(grace_s=0)
    assert node.leave.condition.status == "False"
    monkeypatch.undo()
    assert node.step(grace_s=0)


def test_a_marker_says_how_long_connections_have():
    assert read_marker({"metadata": {"name": "m"}, "data": {"gracePeriodSeconds": "12.5"}}) == Marker(12.5)


@pytest.mark.parametrize("data", [None, {}, {"gracePeriodSeconds": "soon"}])
def test_a_marker_without_a_number_is_told_of(data):
    with pytest.raises(Misread, match="must be a number of seconds"):
        read_marker({"metadata": {"name": "m"}, "data": data})

"""docs/protocol.md, "Establishing", between real stacks on a wire that loses, repeats, reorders and strips: packet by packet, and at random."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.badwire import ALWAYS, WITH, WITHOUT, Deed, Rule
from support.slices import VIRTUAL
from support.traffic import Client, checksum, server, sockets

Y, Z = 20_001, 20_005
PACKETS = {
    "SYN": {"src": "client", "flags": "S"},
    "SYN+ACK": {"src": "server", "flags": "SA"},
    "step 3": {"src": "client", "flags": "A", "load": WITHOUT},
    "first data": {"src": "client", "flags": "A", "load": WITH},
    "first answer": {"src": "server", "flags": "A", "load": WITH},
}
BOUND_S = 90


@pytest.fixture(autouse=True)
def calm(stage) -> Iterator[None]:
    """Every test begins and ends on a good wire."""
    stage.wire.obey()
    yield
    stage.wire.obey()


@pytest.fixture
def port(numbers=itertools.count(42_000)) -> int:
    """The client's, of no other test: what comes late of theirs is nobody's business here."""
    return next(numbers)


def rule(stage, port: int, deed: Deed, packet: str, **more: object) -> Rule:
    what = dict(PACKETS[packet])
    client = f"{stage.client.address}:{port}"
    ends = {"src": client} if what.pop("src") == "client" else {"src": stage.pod.address, "dst": client}
    return Rule(deed, **ends, **what, **more)


def talk(connection: Client) -> None:
    """Two lines at once, a transfer each way, and an orderly end: all of it right."""
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.socket.sendall(b"one\n")
    connection.socket.sendall(b"two\n")
    assert [connection.answer()[2] for _ in range(2)] == ["one", "two"]
    assert connection.get(20_000) == checksum(20_000)
    assert connection.put(20_000) == checksum(20_000)
    connection.bye()


@pytest.mark.parametrize("deed", [Deed.LOSE, Deed.REPEAT, Deed.HOLD], ids=lambda deed: deed.name.lower())
@pytest.mark.parametrize("packet", PACKETS)
def test_p03_an_aware_connection_bears_each_of_its_first_packets_lost_repeated_or_late(stage, port, packet, deed):
    near, far = stage.counting(0), stage.counting(1)
    stage.wire.obey(rule(stage, port, deed, packet))
    talk(Client(stage.client, VIRTUAL, 80, timeout=BOUND_S, source_port=port))
    assert stage.wire.done() == 1
    assert near()["to_pod", "client_redirected"] == far()["to_pod", "server_joined"] == 1
    assert not near()["from_pod", "third_syn"]


@pytest.mark.parametrize("percent", [0, 5, 10, 20])
def test_streams_are_right_and_connections_aware_on_a_wire_that_loses_at_random(stage, percent):
    """Unaware are those that lost two SYNs, or their answers. Of those more than their mean and five deviations would be no work of chance."""
    near, far, count = stage.counting(0), stage.counting(1), 40
    share = (1 - (1 - percent / 100) ** 2) ** 2
    both = [Rule(Deed.LOSE, src=pod.address, percent=percent, count=1000) for pod in (stage.client, stage.pod)]
    stage.wire.obey(*both)
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(lambda: talk(Client(stage.client, VIRTUAL, 80, timeout=BOUND_S))) for _ in range(count)]:
            done.result()
    for number in range(2):
        assert stage.wire.seen(number) > 10 * count
        assert (stage.wire.done(number) > 10) == (percent > 0)
    aware = near()["to_pod", "client_redirected"]
    assert count * (1 - share) - 5 * (count * share * (1 - share)) ** 0.5 <= aware <= count
    assert far()["to_pod", "server_joined"] == aware


def test_p03_step_3_may_be_the_first_data(stage):
    near, far = stage.counting(0), stage.counting(1)

    def connect() -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)  # of a client: its acknowledgement waits for data
        made.settimeout(BOUND_S)
        made.connect((VIRTUAL, 80))
        return made

    with stage.client.run(connect) as made:
        made.sendall(b"hello\n")
        assert made.recv(100).startswith(b"a ")
    assert far()["to_pod", "server_joined"] == 1
    assert not near()["from_pod", "client_joins"]


def test_p03_the_first_data_is_step_3_when_the_acknowledgement_is_lost(stage, port):
    far = stage.counting(1)
    stage.wire.obey(rule(stage, port, Deed.LOSE, "step 3"), rule(stage, port, Deed.LOSE, "SYN+ACK", percent=0))
    with Client(stage.client, VIRTUAL, 80, timeout=BOUND_S, source_port=port) as connection:
        assert connection.ask()[0] == "a"
    assert far()["to_pod", "server_joined"] == 1


def test_the_hint_is_repeated_until_the_service_port_answers(stage, port):
    near, far = stage.counting(0), stage.counting(1)
    stage.wire.obey(rule(stage, port, Deed.LOSE, "step 3", count=2))
    with Client(stage.client, VIRTUAL, 80, timeout=BOUND_S, source_port=port) as connection:
        while not far()["to_pod", "server_joined"]:  # the SYN+ACK comes again after one second and after three
            time.sleep(0.05)
        assert near()["from_pod", "client_joins"] == 3
        assert connection.ask()[0] == "a"
        assert connection.get(20_000) == checksum(20_000)
        assert near()["from_pod", "client_joins"] <= 4


@pytest.mark.parametrize("packet", ["SYN", "SYN+ACK", "step 3"])
def test_a_connection_is_aware_though_an_option_was_lost_once(stage, port, packet):
    near, far = stage.counting(0), stage.counting(1)
    stage.wire.obey(rule(stage, port, Deed.STRIP, packet))
    talk(Client(stage.client, VIRTUAL, 80, timeout=BOUND_S, source_port=port))
    assert stage.wire.done() == 1
    assert far()["to_pod", "server_joined"] == 1
    assert near()["to_pod", "client_withheld"] == (0 if packet == "step 3" else 1)


@pytest.mark.parametrize("packet", ["SYN", "SYN+ACK"])
def test_on_a_way_that_strips_every_option_a_connection_goes_unaware(stage, port, packet):
    near = stage.counting(0)
    stage.wire.obey(rule(stage, port, Deed.STRIP, packet, count=ALWAYS))
    talk(Client(stage.client, VIRTUAL, 80, timeout=BOUND_S, source_port=port))
    assert near()["from_pod", "third_syn"] >= 1
    assert not near()["to_pod", "client_redirected"]


@pytest.mark.parametrize("packet", ["SYN", "SYN+ACK"])
def test_a_stripped_option_changes_nothing_for_a_server_that_listens_at_the_redirect_port(stage, port, packet):
    near = stage.counting(0)
    stage.serve(target=80)
    try:
        stage.wire.obey(rule(stage, port, Deed.STRIP, packet))
        with server(stage.pod, 80):
            talk(Client(stage.client, VIRTUAL, 80, timeout=BOUND_S, source_port=port))
    finally:
        stage.serve()
    assert near()["to_pod", "client_unconfirmed"] == 1


def test_of_two_answers_the_first_wins_and_the_other_is_reset_at_its_port(stage):
    """The first SYN+ACK is held back until the second has passed; between their SYNs the server got another port."""
    near, opened = stage.counting(0), 0
    for port in range(41_000, 41_020):  # half of these are to get the new port
        stage.wire.obey(rule(stage, port, Deed.HOLD, "SYN+ACK"))
        with ThreadPoolExecutor(1) as pool:
            dialled = pool.submit(Client, stage.client, VIRTUAL, 80, timeout=BOUND_S, source_port=port)
            while not stage.wire.done():
                time.sleep(0.01)
            stage.serve(ports={"a": [Y, Z]})
            with dialled.result() as connection:
                assert connection.ask()[0] == "a"
                assert connection.get(20_000) == checksum(20_000)
            opened += 1
        stage.serve()
        if near()["to_pod", "client_resets"]:
            break
    assert near()["to_pod", "client_redirected"] == opened
    assert near()["to_pod", "client_resets"] >= 1
    deadline = time.monotonic() + 10  # a half-open socket that is not reset stays for a minute
    while sockets(stage.pod, "state", "syn-recv") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sockets(stage.pod, "state", "syn-recv") == ""

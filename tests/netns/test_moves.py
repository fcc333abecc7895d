"""docs/protocol.md, "Moving an established connection", mode Close: on real stacks, with every packet of it
lost once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from support.badwire import WITHOUT, Deed, Rule
from support.slices import VIRTUAL
from support.traffic import sockets
from wharfinger_dataplane._records import Asked

PORT = 8082
"""At which a test's own server listens, beside the stage's."""
BOUND_S = 20
AT_REST_S = 0.8
"""By then a connection that is silent may be closed."""
DELAYED_S = 0.1
"""By then a delayed acknowledgement has gone by itself."""
CLOSE = {"mode": "Close", "onDrain": True}


@dataclass
class Pair:
    """An aware connection: the client's socket `near`, the server's `far`."""

    stage: object
    near: socket.socket
    far: socket.socket

    def exchange(self, octets: bytes = b"hello") -> None:
        """A request and its answer."""
        for sender, reader in ((self.near, self.far), (self.far, self.near)):
            sender.sendall(octets)
            assert reader.recv(len(octets)) == octets

    def ask(self) -> dict[Asked, int]:
        """The server's node asks once."""
        return self.stage.lab.nodes[1].ask(self.stage.pod)

    def ended(self) -> bool:
        """Whether the server's application reads the end of the stream by now."""
        self.far.setblocking(False)
        try:
            assert self.far.recv(1) == b""
        except BlockingIOError:
            return False
        finally:
            self.far.settimeout(BOUND_S)
        return True

    def ask_until(self, so: Callable[[], bool]) -> None:
        """It asks again and again, as the agent does."""
        until(lambda: self.ask() is not None and so())

    def left(self) -> tuple[int, int]:
        """Sockets of the connection at the client and at the server that have not ended; TIME_WAIT has."""
        c = self.port
        return tuple(
            len(
                [
                    line
                    for line in sockets(pod, f"( {end} :{c} )").splitlines()
                    if not line.startswith("TIME-WAIT")
                ]
            )
            for pod, end in ((self.stage.client, "sport"), (self.stage.pod, "dport"))
        )

    def forgotten(self) -> bool:
        """Whether neither end has a record among the established ones."""
        return not any(
            node.bpf.maps[table].items() for node in self.stage.lab.nodes for table in ("flows", "wires")
        )


@contextmanager
def pair(stage, moves: dict | None = None, timestamps: bool = True) -> Iterator[Pair]:
    def connect() -> socket.socket:
        return socket.create_connection((VIRTUAL, 80), timeout=BOUND_S)

    stage.serve(target=PORT, moves=CLOSE if moves is None else moves)
    try:
        with (
            stage.pod.run(lambda: socket.create_server((stage.pod.address, PORT))) as listener,
            stage.client.run(connect) as near,
            listener.accept()[0] as far,
        ):
            far.settimeout(BOUND_S)
            made = Pair(stage, near, far)
            made.port = near.getsockname()[1]
            made.exchange()
            time.sleep(AT_REST_S)
            yield made
    finally:
        stage.wire.obey()
        stage.serve()


def until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def closes_orderly(made: Pair) -> None:
    """Asked until it is at rest: the server's application reads the end and closes; then the client's does,
    and nothing of the connection is left."""
    made.ask_until(made.ended)
    made.far.close()
    assert made.near.recv(1) == b""
    made.near.close()
    until(lambda: made.left() == (0, 0))
    until(made.forgotten)


def test_p10_an_idle_connection_closes_at_both_ends_when_its_server_asks(stage):
    with pair(stage) as made:
        stage.wire.obey(Rule(Deed.LOSE, flags="R", count=0))
        counted = [stage.counting(node) for node in (0, 1)]
        closes_orderly(made)
        assert stage.wire.seen() == 0  # no RST
        assert counted[1]()["from_pod", "server_asks"] >= 1
        assert counted[0]()["to_pod", "client_closes"] == 1


@pytest.mark.parametrize("first", ["the client", "both at once"])
def test_p10_either_application_may_close_first(stage, first):
    with pair(stage) as made:
        made.ask()
        if first == "the client":
            made.near.close()
            assert made.far.recv(1) == b""
            made.far.close()
        else:
            made.near.shutdown(socket.SHUT_WR)
            made.far.close()
            assert made.near.recv(1) == b""
            made.near.close()
        until(lambda: made.left() == (0, 0))
        until(made.forgotten)


def test_p10_what_the_server_still_sends_arrives_before_the_end(stage):
    with pair(stage) as made:
        made.ask()
        assert made.far.recv(1) == b""
        made.far.sendall(bytes(300_000))
        made.far.close()
        got = b""
        while chunk := made.near.recv(65536):
            got += chunk
        assert got == bytes(300_000)
        made.near.close()
        until(lambda: made.left() == (0, 0))
        until(made.forgotten)


def test_p10_a_request_that_waits_for_its_answer_keeps_the_connection_open(stage):
    with pair(stage) as made:
        counted = stage.counting(0)
        made.near.sendall(b"query")
        assert made.far.recv(5) == b"query"
        for _ in range(5):
            assert made.ask() == {Asked.ASKED: 1}
        assert counted()["to_pod", "client_busy"] == 5
        made.far.sendall(b"answer")
        assert made.near.recv(6) == b"answer"
        closes_orderly(made)


def test_p10_a_client_that_only_listens_is_closed_too(stage):
    with pair(stage) as made:
        made.far.sendall(b"news")
        assert made.near.recv(4) == b"news"
        closes_orderly(made)


def test_p10_a_pool_that_does_not_move_connections_keeps_them_though_its_server_asks(stage):
    with pair(stage, moves={}) as made:
        counted = stage.counting(0)
        assert made.ask() == {Asked.ASKED: 1}
        assert counted()["to_pod", "client_stays"] == 1
        made.exchange()


def test_p10_what_the_client_writes_after_the_end_is_held_back_and_told(stage):
    """As if the server had closed by itself: the end of the stream comes first, then the RST that the data
    earns."""
    with pair(stage) as made:
        counted = stage.counting(0)
        made.ask()
        assert made.far.recv(1) == b""
        made.near.sendall(b"late")
        time.sleep(0.3)
        assert counted()["from_pod", "client_closes_again"] >= 1
        made.far.close()
        assert made.near.recv(1) == b""
        until(lambda: made.left() == (0, 0))
        until(made.forgotten)


def losses(made: Pair) -> dict[str, Rule]:
    client, server = made.stage.client.address, made.stage.pod.address
    return {
        "step 1": Rule(Deed.LOSE, src=server, flags="A", load=WITHOUT),
        "the FIN of the client's end": Rule(Deed.LOSE, src=client, flags="FA"),
        "its acknowledgement": Rule(Deed.LOSE, src=server, flags="A", load=WITHOUT, first=2),
        "the server's FIN": Rule(Deed.LOSE, src=server, flags="FA"),
        "the acknowledgement of that": Rule(Deed.LOSE, src=client, flags="A", load=WITHOUT),
    }


@pytest.mark.parametrize(
    "what",
    [
        "step 1",
        "the FIN of the client's end",
        "its acknowledgement",
        "the server's FIN",
        "the acknowledgement of that",
    ],
)
def test_p10_each_packet_of_it_may_be_lost(stage, what):
    with pair(stage) as made:
        time.sleep(DELAYED_S)
        stage.wire.obey(losses(made)[what])
        made.ask_until(made.ended)
        time.sleep(DELAYED_S)
        made.far.close()
        assert made.near.recv(1) == b""
        time.sleep(DELAYED_S)
        made.near.close()
        until(lambda: made.left() == (0, 0))
        until(made.forgotten)
        assert stage.wire.done() == 1


def test_p10_data_takes_the_place_of_a_fin_that_was_lost_when_nobody_asks_again(stage):
    with pair(stage) as made:
        counted = stage.counting(0)
        stage.wire.obey(Rule(Deed.LOSE, src=stage.client.address, flags="FA"))
        made.ask()
        until(lambda: stage.wire.done() == 1)
        made.near.sendall(b"late")
        assert made.far.recv(10) == b""
        assert counted()["from_pod", "client_closes_again"] == 1
        made.far.close()
        assert made.near.recv(1) == b""


def test_p10_a_connection_speaks_on_while_it_is_asked_all_the_time(stage):
    """Never cut: at each moment it is closed whole or not at all."""
    with pair(stage) as made:
        done = 0
        for _ in range(300):
            try:
                made.near.sendall(b"query")
            except OSError:
                break
            made.ask()
            request = made.far.recv(5)
            if request == b"":
                break
            assert request == b"query"
            made.ask()
            made.far.sendall(b"reply")
            assert made.near.recv(5) == b"reply"
            done += 1
            if done % 3 == 0:
                made.ask()
        assert done % 3 == 0 and done > 0
        made.far.close()
        assert made.near.recv(1) == b""

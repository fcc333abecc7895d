"""docs/protocol.md, "Moving an established connection", mode Close: whoever asks, and whatever is lost,
nothing is cut and everybody is told. `control`: the same when nobody asks."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time

import pytest
from netns.test_moves import AT_REST_S, BOUND_S, CLOSE, DELAYED_S, PORT, Pair, pair, until
from scapy.layers.inet import IP, TCP
from scapy.utils import rdpcap
from support.badwire import ALWAYS, WITH, Deed, Rule
from support.capture import Capture
from support.lab import sh
from support.packets import PORT as NAMED
from support.packets import REDIRECT, option, tcp
from support.slices import VIRTUAL
from support.traffic import sockets

SHORT_S = 3
TOLD_S = 8
STEP_1 = option(REDIRECT | NAMED, 80)
FLOOD = """
import socket, sys, time
frame, until = bytes.fromhex(sys.argv[2]), time.monotonic() + float(sys.argv[3])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as channel:
    channel.bind((sys.argv[1], 0))
    while time.monotonic() < until:
        for _ in range(64):
            try:
                channel.send(frame)
            except OSError:
                pass
"""


ASKED = pytest.mark.parametrize("ask", [False, True], ids=["control", "asked"])


def hears_the_end(far: socket.socket) -> str:
    """What the server's application is told within a few seconds: "end", "reset", "data" or "nothing"."""
    far.settimeout(SHORT_S)
    try:
        return "data" if far.recv(10) else "end"
    except ConnectionError:
        return "reset"
    except TimeoutError:
        return "nothing"


def resets(near: socket.socket) -> None:
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.close()


@pytest.mark.parametrize("flooded", [False, True], ids=["control", "flooded"])
def test_a_strangers_blind_questions_do_not_touch_a_connection(stage, flooded):
    """Step 1 with any numbers, from the wire in the server's name, while requests and answers flow."""
    with pair(stage) as made:
        lab, node = stage.lab, stage.lab.nodes[0]
        uplink = (
            sh(f"ip -n {node.name} -o link show uplink").split("link/ether ")[1].split()[0].replace(":", "")
        )
        frame = tcp(
            f"{stage.pod.address}:20001",
            f"{stage.client.address}:{made.port}",
            "A",
            seq=77,
            ack=99,
            options=STEP_1,
        )
        frame = bytes.fromhex(uplink) + b"\x02\0\0\0\0\x09" + frame[12:]
        counted = stage.counting(0)
        flood = (
            subprocess.Popen(
                [
                    "nsenter",
                    f"--net=/run/netns/{lab.switch}",
                    sys.executable,
                    "-c",
                    FLOOD,
                    "port1",
                    frame.hex(),
                    "26",
                ]
            )
            if flooded
            else None
        )
        try:
            deadline, rounds = time.monotonic() + (25 if flooded else 5), 0
            made.near.settimeout(SHORT_S), made.far.settimeout(SHORT_S)
            while time.monotonic() < deadline:
                words = b"%07d" % rounds
                made.near.sendall(words)
                got = made.far.recv(7)
                assert got == words, (rounds, got, counted())
                made.far.sendall(words)
                got = made.near.recv(7)
                assert got == words, (rounds, got, counted())
                rounds += 1
        finally:
            if flood:
                flood.wait()
        assert rounds > 100
        assert not counted()["from_pod", "client_closes_again"], counted()


def is_told(far: socket.socket) -> bool:
    """Whether a server's application that goes on writing learns that its client is gone."""
    deadline = time.monotonic() + TOLD_S
    while time.monotonic() < deadline:
        try:
            far.sendall(b"x")
        except ConnectionError:
            return True
        time.sleep(0.05)
    return False


def asked_in_vain(made: Pair) -> None:
    """The client's end says its FIN, and that is lost."""
    time.sleep(DELAYED_S)
    made.stage.wire.obey(Rule(Deed.LOSE, src=made.stage.client.address, flags="FA"))
    made.ask()
    until(lambda: made.stage.wire.done() == 1)


@ASKED
@pytest.mark.parametrize("then", ["closes", "writes and closes"])
def test_a_server_that_ends_its_half_as_the_fin_is_lost_learns_of_the_clients_end(stage, then, ask):
    """The server's FIN is acknowledged, so nobody says the client's again: the server waits for ever, and its
    record stays."""
    with pair(stage) as made:
        if ask:
            asked_in_vain(made)
        made.far.shutdown(socket.SHUT_WR)
        assert made.near.recv(1) == b""
        time.sleep(DELAYED_S)
        if then == "writes and closes":
            made.near.sendall(b"late")
            time.sleep(DELAYED_S)
        made.near.close()
        assert hears_the_end(made.far) != "nothing", sockets(stage.pod)


@ASKED
@pytest.mark.parametrize("how", ["aborts", "gives up"])
def test_a_client_that_wrote_late_and_is_gone_is_told_of(stage, how, ask):
    """`gives up`: by TCP_USER_TIMEOUT, of which Linux says nothing until the server's next packet; the
    control loses what it wrote."""
    with pair(stage) as made:
        time.sleep(DELAYED_S)
        if ask:
            made.ask()
            assert made.far.recv(1) == b""
            time.sleep(DELAYED_S)
        elif how == "gives up":
            stage.wire.obey(Rule(Deed.LOSE, src=stage.client.address, load=WITH, count=ALWAYS))
        if how == "aborts":
            made.near.sendall(b"late")
            resets(made.near)
        else:
            made.near.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 700)
            made.near.sendall(b"late")
            until(lambda: made.left()[0] == 0)
        assert is_told(made.far), sockets(stage.pod)


@ASKED
def test_a_clients_reset_that_was_lost_is_told_by_the_next(stage, ask):
    with pair(stage) as made:
        time.sleep(DELAYED_S)
        if ask:
            made.ask()
            assert made.far.recv(1) == b""
            time.sleep(DELAYED_S)
        stage.wire.obey(Rule(Deed.LOSE, src=stage.client.address, flags="RA"))
        resets(made.near)
        until(lambda: stage.wire.done() == 1)
        assert is_told(made.far), sockets(stage.pod)


@ASKED
@pytest.mark.parametrize("what", ["pipelined requests", "half an answer", "half a request"])
def test_a_connection_in_the_midst_of_an_exchange_stays_open(stage, what, ask):
    """The server spoke last, and is not through. In the control nobody asks."""
    with pair(stage) as made:
        near, far = made.near, made.far
        for request in (b"one", b"two")[: 2 if what == "pipelined requests" else 1]:
            near.sendall(request)
            assert far.recv(3) == request
        time.sleep(DELAYED_S)
        far.sendall(b"100 go on" if what == "half a request" else b"200 parts")
        assert near.recv(9)
        time.sleep(DELAYED_S)
        for _ in range(3 if ask else 0):
            made.ask()
            time.sleep(DELAYED_S)
        assert not made.ended()


def test_step_1_bears_the_servers_own_timestamps(stage):
    """What a stack does with it that gets it all the same: no older and no newer than what the server
    said."""
    with pair(stage) as made:
        with Capture(["nsenter", f"--net=/run/netns/{stage.lab.switch}", "tcpdump"], "port2") as capture:
            made.exchange()
            made.ask()
        stamps = []
        for packet in rdpcap(str(capture._file)):
            if TCP in packet and packet[IP].src == stage.pod.address:
                raw = bytes(packet[TCP])[20 : packet[TCP].dataofs * 4]
                assert raw[2:4] == b"\x08\x0a", raw
                stamps.append(struct.unpack("!II", raw[4:12]))
        assert abs(stamps[-1][0] - stamps[0][0]) < 100_000, stamps


@pytest.mark.parametrize("asks", [0, 1], ids=["control", "asked"])
def test_a_connection_that_lives_among_the_closed_ones_is_not_hurt_by_a_question(stage, asks):
    """Moved aside by the agent, as Collector does."""
    for _ in range(6):
        with pair(stage) as made:
            node = stage.lab.nodes[0]
            for table in ("flows", "wires"):
                for key, value in node.bpf.maps[table].items():
                    node.bpf.maps[f"closed_{table}"].put(key, value)
                    node.bpf.maps[table].delete(key)
            for _ in range(asks):
                made.ask()
            made.far.settimeout(SHORT_S), made.near.settimeout(SHORT_S)
            time.sleep(DELAYED_S)
            made.far.sendall(b"news")
            assert made.near.recv(4) == b"news"
            made.exchange()


def test_a_connection_that_dialled_a_service_port_moves_too(stage):
    def connect() -> socket.socket:
        return socket.create_connection((VIRTUAL, 20_001), timeout=BOUND_S)

    stage.serve(target=PORT, moves=CLOSE)
    try:
        with (
            stage.pod.run(lambda: socket.create_server((stage.pod.address, PORT))) as listener,
            stage.client.run(connect) as near,
            listener.accept()[0] as far,
        ):
            made = Pair(stage, near, far)
            made.exchange()
            time.sleep(AT_REST_S)
            counted = stage.counting(0)
            for _ in range(10):
                made.ask()
                time.sleep(0.02)
            assert made.ended(), counted()
    finally:
        stage.serve()

"""docs/protocol.md, "Moving an established connection", mode Close: nobody sees a reset, loses a byte or
keeps a record who would not if the client had closed, or the server. `control`: so it is when one of them
does so by itself."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from netns.test_moves import AT_REST_S, BOUND_S, CLOSE, DELAYED_S, PORT, Pair, pair, until
from netns.test_moves_told import ASKED, resets
from scapy.layers.inet import IP, TCP
from scapy.utils import rdpcap
from support.badwire import WITHOUT, Deed, Rule
from support.capture import Capture
from support.lab import inside, sh
from support.packets import tcp
from support.slices import VIRTUAL
from support.traffic import sockets


def records(made: Pair) -> list[str]:
    """The connection's records among the established ones, as "node table"."""
    port = struct.pack("!H", made.port)
    return [
        f"{node.number} {table}"
        for node in made.stage.lab.nodes
        for table in ("flows", "wires")
        for key, _ in node.bpf.maps[table].items()
        if port in (key[12:14], key[14:16])
    ]


def strike(port: str, frame: bytes) -> None:
    """The frame leaves the switch by this port."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as channel:
        channel.bind((port, 0))
        channel.send(frame)


@ASKED
def test_an_abort_of_a_client_that_has_not_heard_of_its_fin_ends_the_servers_record(stage, ask):
    """The acknowledgement of the FIN is lost, or on its way, so the RST has the FIN's number, which Linux
    takes (tcp_reset_check)."""
    with pair(stage) as made:
        time.sleep(DELAYED_S)
        if ask:
            stage.wire.obey(Rule(Deed.LOSE, src=stage.pod.address, flags="A", load=WITHOUT, first=2))
            made.ask()
            until(lambda: stage.wire.done() == 1)
            assert made.far.recv(1) == b""
        resets(made.near)
        until(lambda: made.left() == (0, 0))
        time.sleep(DELAYED_S)
        assert not records(made)


@ASKED
def test_a_repeated_acknowledgement_of_the_servers_fin_does_not_reset_the_client(stage, ask):
    """The server's socket is gone at once, as the client's end has said FIN first, and its stack answers the
    second with a RST."""
    with pair(stage) as made:
        time.sleep(DELAYED_S)
        if ask:
            made.ask()
            assert made.far.recv(1) == b""
            time.sleep(DELAYED_S)
        stage.wire.obey(Rule(Deed.REPEAT, src=stage.client.address, flags="A", load=WITHOUT))
        made.far.close()
        until(lambda: stage.wire.done() == 1)
        time.sleep(DELAYED_S)
        assert made.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        made.near.shutdown(socket.SHUT_WR)
        assert made.near.recv(1) == b""


@ASKED
def test_an_old_acknowledgement_after_the_end_neither_resets_the_client_nor_leaves_its_record(stage, ask):
    """It is from before the server's FIN and comes late, when the server's socket is gone: the RST has the
    FIN's number, which Linux takes."""
    with pair(stage) as made:
        time.sleep(DELAYED_S)
        with Capture(["nsenter", f"--net=/run/netns/{stage.lab.switch}", "tcpdump"], "port1") as capture:
            made.exchange()
            time.sleep(AT_REST_S + DELAYED_S)
        old = [
            bytes(packet)
            for packet in rdpcap(str(capture._file))
            if TCP in packet and packet[IP].src == stage.client.address
        ][-1]
        if ask:
            made.ask()
            assert made.far.recv(1) == b""
            time.sleep(DELAYED_S)
        made.far.close()
        assert made.near.recv(1) == b""
        time.sleep(DELAYED_S)
        link = (
            sh(f"ip -n {stage.lab.nodes[1].name} -o link show uplink")
            .split("link/ether ")[1]
            .split()[0]
            .replace(":", "")
        )
        inside(stage.lab.switch, lambda: strike("port2", bytes.fromhex(link) + old[6:]))
        time.sleep(DELAYED_S)
        error = made.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        made.near.close()
        time.sleep(DELAYED_S)
        assert (error, [record for record in records(made) if record.startswith("1 ")]) == (0, [])


@contextmanager
def dialled(stage, *options: tuple[int, int, int]) -> Iterator[Pair]:
    """As `pair`; the client's socket has these options from the start, and nothing has been said yet."""

    def connect() -> socket.socket:
        made = socket.socket()
        made.settimeout(BOUND_S)
        for option in options:
            made.setsockopt(*option)
        made.connect((VIRTUAL, 80))
        return made

    stage.serve(target=PORT, moves=CLOSE)
    try:
        with (
            stage.pod.run(lambda: socket.create_server((stage.pod.address, PORT))) as listener,
            stage.client.run(connect) as near,
            listener.accept()[0] as far,
        ):
            far.settimeout(BOUND_S)
            made = Pair(stage, near, far)
            made.port = near.getsockname()[1]
            yield made
    finally:
        stage.wire.obey()
        stage.serve()


KEEPS_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 9),
)


@pytest.mark.parametrize("options", [(), KEEPS_ALIVE], ids=["control", "keepalive"])
def test_an_idle_connection_whose_client_keeps_it_alive_is_closed_too(stage, options):
    """Any later ACK of the server's, as the answer to a probe is, becomes the segment that "last acknowledged
    data" (snd_wl1)."""
    with dialled(stage, *options) as made:
        for _ in range(3):
            made.exchange()
        time.sleep(2)
        counted = stage.counting(0)
        for _ in range(10):
            made.ask()
            time.sleep(DELAYED_S)
        assert made.ended(), counted()


SHORT_S = 4
LEAVES, MORE, SLOW_S = 15_000, 300_000, 12
ORPHAN_RETRIES = "/proc/sys/net/ipv4/tcp_orphan_retries"


def fill(made: Pair) -> int:
    """The server writes until so little room is left at a client that does not read: how much."""
    written = 0
    while (
        window := int(
            sockets(made.stage.pod, "-i", f"( dport :{made.port} )").split("snd_wnd:")[1].split()[0]
        )
    ) > 2 * LEAVES:
        written += made.far.send(bytes(min(1400, window - LEAVES)))
        time.sleep(0.002)
    return written


@ASKED
def test_a_client_that_reads_slowly_gets_the_servers_last_words_whole(stage, ask):
    """The FIN of the client's end tells of more room than there is, so the server retransmits what was
    refused, and gives up, instead of probing as long as it takes. In the control the client's own stack says
    the FIN. Few orphan retries are for a short test: it is minutes else."""
    was = inside(stage.pod.name, Path(ORPHAN_RETRIES).read_text)
    inside(stage.pod.name, lambda: Path(ORPHAN_RETRIES).write_text("3"))
    try:
        with dialled(stage) as made:
            made.exchange()
            written = fill(made) + MORE
            time.sleep(AT_REST_S)
            made.ask() if ask else made.near.shutdown(socket.SHUT_WR)
            assert made.far.recv(1) == b""
            made.far.sendall(bytes(MORE))
            made.far.close()
            time.sleep(SLOW_S)
            got = 0
            while chunk := made.near.recv(65536):
                got += len(chunk)
            assert got == written
    finally:
        inside(stage.pod.name, lambda: Path(ORPHAN_RETRIES).write_text(was))


def hears(near: socket.socket) -> str:
    """What the client's application is told within a few seconds: "end", "reset" or "nothing"."""
    near.settimeout(SHORT_S)
    try:
        return "data" if near.recv(10) else "end"
    except ConnectionError:
        return "reset"
    except TimeoutError:
        return "nothing"


@ASKED
def test_a_servers_reset_that_was_lost_is_told_when_the_client_writes(stage, ask):
    """What is held back reaches nobody who could refuse it: the client's write fails after a quarter of an
    hour only."""
    with pair(stage) as made:
        time.sleep(DELAYED_S)
        if ask:
            made.ask()
            assert made.far.recv(1) == b""
            time.sleep(DELAYED_S)
        stage.wire.obey(Rule(Deed.LOSE, src=stage.pod.address, flags="RA"))
        resets(made.far)
        until(lambda: stage.wire.done() == 1)
        made.near.sendall(b"late")
        assert hears(made.near) == "reset", sockets(stage.client)


@ASKED
def test_a_lost_record_of_a_server_that_ends_does_not_leave_a_client_that_writes_without_word(stage, ask):
    """The client's next packet is what rebuilds a server's record, or earns a RST (docs/protocol.md, "State
    of the ends")."""
    with pair(stage) as made:
        time.sleep(DELAYED_S)
        if ask:
            made.ask()
            assert made.far.recv(1) == b""
            time.sleep(DELAYED_S)
        maps = stage.lab.nodes[1].bpf.maps
        for table in ("flows", "wires"):
            for key, _ in maps[table].items():
                maps[table].delete(key)
        made.far.close()
        time.sleep(DELAYED_S)
        made.near.sendall(b"late")
        assert hears(made.near) != "nothing", sockets(stage.client)


@pytest.mark.parametrize("target", ["client", "server"])
@pytest.mark.parametrize("strikes", [False, True], ids=["control", "stranger"])
def test_a_strangers_blind_reset_does_not_keep_a_connection_from_being_closed(stage, target, strikes):
    """It ends nothing, and an idle stack says nothing that would deny it, so nobody asks any more, or
    obeys."""
    with pair(stage) as made:
        number = 0 if target == "client" else 1
        ends = [f"{stage.pod.address}:20001", f"{stage.client.address}:{made.port}"][
            :: 1 if target == "client" else -1
        ]
        link = (
            sh(f"ip -n {stage.lab.nodes[number].name} -o link show uplink")
            .split("link/ether ")[1]
            .split()[0]
            .replace(":", "")
        )
        frame = bytes.fromhex(link) + b"\x02\0\0\0\0\x09" + tcp(*ends, "R", seq=77)[12:]
        if strikes:
            inside(stage.lab.switch, lambda: strike(f"port{number + 1}", frame))
            time.sleep(DELAYED_S)
        asked = [made.ask() for _ in range(5)]
        time.sleep(DELAYED_S)
        assert made.ended(), asked

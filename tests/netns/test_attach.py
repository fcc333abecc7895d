"""The agent's hands on a real kernel: programs on interfaces, maps that outlive their maker, pods' namespaces, and flows of ended sockets."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyroute2 import netns
from support.lab import PREFIX, SMALL, bpffs, inside, sh
from wharfinger_dataplane import _records as records
from wharfinger_dataplane import attach as attach_module
from wharfinger_dataplane import netlink
from wharfinger_dataplane._records import FlowState, Role
from wharfinger_dataplane.agent.flows import Collector
from wharfinger_dataplane.agent.gone import Ender
from wharfinger_dataplane.agent.namespaces import GATE, Namespaces
from wharfinger_dataplane.agent.watcher import Watcher
from wharfinger_dataplane.attach import POD_PROGRAMS, Attacher, Mode
from wharfinger_dataplane.kernel import Kernel
from wharfinger_dataplane.tables import Tables

NODE, POD, ADDRESS, HOST = f"{PREFIX}-agent-node", f"{PREFIX}-agent-pod", "10.98.0.2", "10.98.0.1"
GATE_PROBE = b"wharfinger" + bytes(6)
SECOND = 10**9


@pytest.fixture
def fs(tmp_path):
    with bpffs(tmp_path / "bpf") as path:
        yield path


@pytest.fixture
def kernel(fs):
    with closing(Kernel.open(fs, SMALL)) as kernel:
        yield kernel


@pytest.fixture
def pod():
    """A pod on a node: two namespaces and a veth; the index of the node's side."""
    for name in (NODE, POD):
        if name in netns.listnetns():
            netns.remove(name)
        netns.create(name)
        sh(f"ip -n {name} link set lo up")
    try:
        yield cable()
    finally:
        for name in (NODE, POD):
            netns.remove(name)


def cable():
    sh(f"ip -n {NODE} link add v0 type veth peer name eth0 netns {POD}")
    sh(f"ip -n {NODE} addr add {HOST}/24 dev v0")
    sh(f"ip -n {NODE} link set v0 up")
    sh(f"ip -n {POD} addr add {ADDRESS}/24 dev eth0")
    sh(f"ip -n {POD} link set eth0 up")
    sh(f"ip -n {POD} route add default via {HOST}")
    return int(sh(f"ip -n {NODE} -o link show v0").split(":")[0])


def attacher(kernel, mode=Mode.AUTO):
    return Attacher(kernel.programs, kernel.links, mode)


def attach(kernel, index, mode=Mode.AUTO):
    made = attacher(kernel, mode)
    outcome = inside(NODE, lambda: made.attach({index: POD_PROGRAMS}))
    assert outcome.failed == {}
    return made


def passes_the_gate():
    """Whether the pod's probe comes back: the programs are attached and the pod is entered."""
    def ask():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.connect(GATE)
            for _ in range(3):
                channel.settimeout(0.3)
                try:
                    channel.send(GATE_PROBE)
                    return channel.recv(64) == GATE_PROBE
                except (TimeoutError, ConnectionRefusedError):
                    continue
            return False
    return inside(POD, ask)


@pytest.mark.parametrize("mode", list(Mode))
def test_k02_a_pod_passes_its_start_gate_once_programs_are_attached(kernel, pod, mode):
    Tables(kernel).put_pod(ADDRESS, pod, Role.CLIENT)
    assert not passes_the_gate()
    attach(kernel, pod, mode)
    assert passes_the_gate()


@pytest.mark.parametrize("mode", [Mode.TCX, Mode.CLSACT])
def test_what_is_not_wanted_any_more_is_detached(kernel, pod, mode):
    Tables(kernel).put_pod(ADDRESS, pod, Role.CLIENT)
    made = attach(kernel, pod, mode)
    assert inside(NODE, lambda: made.detach_others({pod: POD_PROGRAMS})) == 0
    assert inside(NODE, lambda: made.detach_others({})) == 2
    assert not passes_the_gate()
    assert made.attached() == {}


@pytest.mark.parametrize("mode", [Mode.TCX, Mode.CLSACT])
def test_programs_outlive_the_agent_and_its_successor_adopts_them(fs, pod, mode):
    with closing(Kernel.open(fs, SMALL)) as kernel:
        Tables(kernel).put_pod(ADDRESS, pod, Role.CLIENT)
        attach(kernel, pod, mode)
    assert passes_the_gate()
    with closing(Kernel.open(fs, SMALL)) as kernel:
        successor = attacher(kernel, mode)
        assert inside(NODE, successor.adopt) == 2
        assert successor.attached() == {pod: POD_PROGRAMS}
        inside(NODE, successor.renew)
        assert passes_the_gate()
        assert inside(NODE, lambda: successor.attach({pod: POD_PROGRAMS})).attached == []


def send_datagrams(count):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        for _ in range(count):
            channel.sendto(b"x", (HOST, 9))
            time.sleep(0.0002)


def test_no_packet_passes_without_a_program_while_programs_are_renewed(fs, pod):
    with closing(Kernel.open(fs, SMALL)) as kernel:
        attach(kernel, pod)
        before = kernel.counters()
    with closing(Kernel.open(fs, SMALL)) as kernel:
        successor = attacher(kernel)
        inside(NODE, successor.adopt)
        stop = threading.Event()

        def renew():
            while not stop.is_set():
                successor.renew()

        renewer = threading.Thread(target=renew)
        renewer.start()
        try:
            inside(POD, lambda: send_datagrams(500))
        finally:
            stop.set()
            renewer.join()
        seen = kernel.counters()["from_pod", "not_attached"][0] - before.get(("from_pod", "not_attached"), (0, 0))[0]
        assert seen >= 500


def test_pins_of_an_interface_that_is_gone_are_removed(kernel, pod):
    attach(kernel, pod)
    assert len(list(kernel.links.iterdir())) == 2
    sh(f"ip -n {NODE} link del v0")
    assert inside(NODE, attacher(kernel).adopt) == 0
    assert list(kernel.links.iterdir()) == []


@pytest.mark.parametrize("mode", [Mode.TCX, Mode.CLSACT])
def test_what_ended_with_its_interface_was_taken_away_by_nobody(kernel, pod, mode):
    made = attach(kernel, pod, mode)
    sh(f"ip -n {NODE} link del v0")
    assert inside(NODE, made.verify) == []


def test_an_interface_that_is_gone_fails_alone(kernel, pod):
    made = attacher(kernel)
    outcome = inside(NODE, lambda: made.attach({999: POD_PROGRAMS, pod: POD_PROGRAMS}))
    assert (outcome.attached, list(outcome.failed)) == ([pod], [999])
    assert outcome.failed[999].errno == errno.ENODEV


def test_a_kernel_without_tcx_gets_classic_filters(kernel, pod, monkeypatch):
    monkeypatch.setattr(attach_module, "has_tcx", lambda: False)
    attach(kernel, pod)
    assert "wharf_from_pod" in sh(f"tc -n {NODE} filter show dev v0 ingress")
    assert list(kernel.links.iterdir()) == []


def take_away(mode, kernel, how):
    """Somebody else removes one of our programs from the pod's interface, or all that tc knows of."""
    if how == "all":
        sh(f"tc -n {NODE} qdisc del dev v0 clsact")
    elif mode is Mode.CLSACT:
        sh(f"tc -n {NODE} filter del dev v0 ingress")
    else:
        (pin,) = kernel.links.glob("*-wharf_from_pod")
        if how == "pin":
            pin.unlink()
        else:
            with closing(attach_module.Link.adopt(pin)) as link:
                link.detach()


@pytest.mark.parametrize(("mode", "how", "lost"), [(Mode.CLSACT, "all", 2), (Mode.CLSACT, "one", 1), (Mode.TCX, "one", 1), (Mode.TCX, "pin", 1)])
def test_what_somebody_else_took_away_is_noticed_and_put_back(kernel, pod, mode, how, lost):
    Tables(kernel).put_pod(ADDRESS, pod, Role.CLIENT)
    made = attach(kernel, pod, mode)
    assert inside(NODE, made.verify) == []
    take_away(mode, kernel, how)
    deadline = time.monotonic() + 30  # the kernel takes away what nobody holds in its own time
    while passes_the_gate():
        assert time.monotonic() < deadline
    assert len(inside(NODE, made.verify)) == lost
    assert inside(NODE, lambda: made.attach({pod: POD_PROGRAMS})).attached == [pod]
    assert passes_the_gate()
    assert inside(NODE, made.verify) == []


def test_the_kernel_tells_at_once_that_filters_were_taken_away(kernel, pod, namespaces):
    made = attach(kernel, pod, Mode.CLSACT)
    touched = threading.Event()
    watcher = Watcher(namespaces, SimpleNamespace(changed=lambda: None), frozenset, lambda: None, touched.set, lambda: None)
    inside(NODE, watcher.start)
    try:
        deadline = time.monotonic() + 30
        while not touched.is_set():  # the watcher's socket may not be open yet
            take_away(Mode.CLSACT, kernel, "all")
            assert time.monotonic() < deadline
            touched.wait(0.5)
            inside(NODE, made.verify)
            inside(NODE, lambda: made.attach({pod: POD_PROGRAMS}))
    finally:
        watcher.stop()
    assert "watcher" not in {thread.name for thread in threading.enumerate()}  # else it would look at namespaces that are let go of


def test_two_pods_whose_interfaces_have_one_number_are_told_apart(tmp_path, pod):
    """The stranger's interface points at the number of the pod's host side, in another namespace than the node's."""
    stranger, elsewhere = f"{POD}-2", f"{NODE}-2"
    for name in (stranger, elsewhere):
        if name in netns.listnetns():
            netns.remove(name)
        netns.create(name)
    try:
        inner = sh(f"ip -n {POD} -o link show eth0").split(":")[0]
        sh(f"ip -n {elsewhere} link add v0 index {pod} type veth peer name eth0 index {inner} netns {stranger}")
        sh(f"ip -n {stranger} addr add 10.98.0.7/24 dev eth0")
        directory = tmp_path / "both"
        directory.mkdir()
        for name in (POD, stranger):
            (directory / name).touch()
            sh(f"mount --bind /run/netns/{name} {directory / name}")
        try:
            with closing(Namespaces(directory)) as found:
                look(found)
                assert interfaces(found) == {POD: {ADDRESS: pod}, stranger: {}}
        finally:
            for name in (POD, stranger):
                sh(f"umount {directory / name}")
    finally:
        for name in (stranger, elsewhere):
            netns.remove(name)


@pytest.mark.parametrize("mode", [Mode.TCX, Mode.CLSACT])
def test_a_hold_keeps_tcp_back_and_nothing_else_and_ends_with_its_deadline(kernel, pod, mode):
    Tables(kernel).put_pod(ADDRESS, pod, Role.CLIENT)
    made = attach(kernel, pod, mode)

    def hold(until_ns):
        kernel.put("settings", *records.pack_setting(records.SETTING_HELD_UNTIL, until_ns))

    def hold_and_ask():
        with made.hold():
            assert passes_the_gate() and is_answered()
            hold(time.monotonic_ns() + 60 * SECOND)
            assert passes_the_gate() and not is_answered()
            hold(time.monotonic_ns())
            assert is_answered()
            hold(time.monotonic_ns() + 60 * SECOND)
        assert is_answered()

    inside(NODE, hold_and_ask)
    assert kernel.counters()["from_pod", "held"][0] >= 1


HOLD_AND_WAIT = """
import sys, time
from pathlib import Path
from wharfinger_dataplane import _records as records
from wharfinger_dataplane.attach import Attacher
from wharfinger_dataplane.kernel import CONNECTION_TABLES, Kernel

kernel = Kernel.open(Path(sys.argv[1]), dict.fromkeys(CONNECTION_TABLES, 1024))
attacher = Attacher(kernel.programs, kernel.links)
attacher.adopt()
with attacher.hold():
    kernel.put("settings", *records.pack_setting(records.SETTING_HELD_UNTIL, time.monotonic_ns() + 600 * 10**9))
    print("held", flush=True)
    time.sleep(600)
"""


def test_an_agent_that_is_killed_while_it_holds_tcp_holds_it_no_longer(fs, kernel, pod):
    attach(kernel, pod, Mode.TCX)
    command = ["nsenter", f"--net=/run/netns/{NODE}", sys.executable, "-c", HOLD_AND_WAIT, str(fs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stdout.readline() == "held\n"
            assert not is_answered()
        finally:
            agent.kill()
    deadline = time.monotonic() + 30  # the kernel takes away what nobody holds in its own time
    while not is_answered():
        assert time.monotonic() < deadline


def is_answered():
    """Whether the pod's SYN is: nobody listens, so by a RST."""
    def ask():
        with socket.socket() as channel:
            channel.settimeout(0.5)
            return channel.connect_ex((HOST, 9)) == errno.ECONNREFUSED
    return inside(POD, ask)


def test_what_is_left_of_a_hold_by_an_agent_that_was_killed_goes_with_its_successor(kernel, pod):
    made = attach(kernel, pod, Mode.CLSACT)
    hold = made.hold()
    inside(NODE, hold.__enter__)
    assert inside(NODE, lambda: netlink.filter_names(pod, "ingress")).keys() == {"wharf_from_pod", "wharf_hold_from_pod"}
    successor = attacher(kernel, Mode.CLSACT)
    assert inside(NODE, successor.adopt) == 2
    assert inside(NODE, lambda: netlink.filter_names(pod, "ingress")).keys() == {"wharf_from_pod"}


def test_filters_of_others_are_left_alone(kernel, pod):
    program = kernel.programs["wharf_from_net"]
    inside(NODE, lambda: netlink.put_filter(pod, "ingress", program.fd, "other", 5))
    made = attach(kernel, pod, Mode.CLSACT)
    assert inside(NODE, lambda: netlink.filter_names(pod, "ingress")).keys() == {"other", "wharf_from_pod"}
    inside(NODE, lambda: made.detach_others({}))
    assert inside(NODE, lambda: netlink.filter_names(pod, "ingress")) == {"other": 5}


def flow(**changes):
    return records.pack_flow(**{"state": FlowState.CLIENT_ESTABLISHED, "server": HOST, "wire_port": 40_000, "scope": 7, "isn": 1,
                                "started_ns": 1, **changes})


@pytest.fixture
def directory(tmp_path, pod):
    """What a container runtime keeps: a file for the pod's namespace, and one that is stale."""
    directory = tmp_path / "netns"
    directory.mkdir()
    bound = directory / "cni-1"
    bound.touch()
    (directory / "cni-stale").touch()
    sh(f"mount --bind /run/netns/{POD} {bound}")
    yield directory
    if os.path.ismount(bound):
        sh(f"umount {bound}")


@pytest.fixture
def namespaces(directory):
    with closing(Namespaces(directory)) as namespaces:
        yield namespaces


def look(namespaces, claimed=()):
    return inside(NODE, lambda: namespaces.look(time.monotonic(), claimed))


def interfaces(namespaces):
    return {found.key[0]: dict(found.interfaces) for found in namespaces.snapshot()}


def test_a_pods_address_leads_to_the_nodes_side_of_its_interface(namespaces, pod):
    assert look(namespaces)
    assert interfaces(namespaces) == {"cni-1": {ADDRESS: pod}, "cni-stale": {}}
    assert not look(namespaces)


def test_a_namespace_has_the_number_by_which_the_node_finds_its_sockets(namespaces, pod):
    look(namespaces)
    listed = sh(f"ip -n {NODE} netns list-id").split("nsid ")[1:]
    assert {found.key[0]: found.number for found in namespaces.snapshot()} == {"cni-1": int(listed[0].split()[0]), "cni-stale": -1}


def test_a_namespace_that_is_not_ready_yet_is_looked_at_again(namespaces, pod):
    sh(f"ip -n {POD} addr flush dev eth0")
    look(namespaces)
    assert interfaces(namespaces)["cni-1"] == {}
    assert namespaces.young
    sh(f"ip -n {POD} addr add {ADDRESS}/24 dev eth0")
    assert look(namespaces)
    assert interfaces(namespaces)["cni-1"] == {ADDRESS: pod}


def test_a_namespace_that_goes_is_forgotten(namespaces, directory):
    look(namespaces)
    sh(f"umount {directory / 'cni-1'}")
    (directory / "cni-1").unlink()
    assert look(namespaces)
    assert interfaces(namespaces) == {"cni-stale": {}}
    assert namespaces.diag(ADDRESS) is None


def asking(namespaces):
    return {found.key[0] for found in namespaces.snapshot() if found.asks}


def ask_at_gate():
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.connect(GATE)
    return channel


def test_a_sidecar_that_waits_at_the_start_gate_is_seen(namespaces):
    look(namespaces)
    assert asking(namespaces) == set()
    with inside(POD, ask_at_gate):
        assert look(namespaces)
        assert asking(namespaces) == {"cni-1"}
    look(namespaces)
    assert asking(namespaces) == {"cni-1"}


def test_the_gate_of_a_pod_that_the_api_server_tells_of_is_not_watched(namespaces):
    with inside(POD, ask_at_gate):
        look(namespaces, {ADDRESS})
    assert asking(namespaces) == set()


def test_looking_leaves_nothing_open(namespaces):
    look(namespaces)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        look(namespaces)
        with closing(namespaces.diag(ADDRESS)):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.fixture
def connection(pod):
    """A TCP connection from the pod to the node: both sockets, and the pod's side as the collector names it."""
    listener = inside(NODE, lambda: socket.create_server((HOST, 0)))
    client = inside(POD, lambda: socket.create_connection(listener.getsockname()))
    server, _ = listener.accept()
    with listener, client, server:
        yield client, server, (*client.getsockname(), *client.getpeername())


def listed(connection):
    with closing(inside(POD, netlink.diag_socket)) as channel:
        return connection in netlink.connections(channel), netlink.connected(channel, connection)


def test_an_open_connection_is_listed_and_found(connection):
    assert listed(connection[2]) == (True, True)


def test_a_connection_in_time_wait_is_listed_and_found(connection):
    client, server, name = connection
    client.close()
    server.close()
    time.sleep(0.2)
    assert "TIME-WAIT" in inside(POD, lambda: sh("ss -tan"))
    assert listed(name) == (True, True)


def test_a_connection_that_was_reset_is_neither_listed_nor_found(connection):
    client, _, name = connection
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert listed(name) == (False, False)


def test_a_listening_socket_is_no_connection(pod):
    with inside(POD, lambda: socket.create_server((ADDRESS, 8080))):
        assert listed((ADDRESS, 8080, HOST, 41_000)) == (False, False)


def test_a_connection_to_a_socket_of_both_families_is_listed_and_found_as_ipv4(pod):
    with inside(POD, lambda: socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)) as listener:
        with inside(NODE, lambda: socket.create_connection((ADDRESS, 8080))) as client:
            accepted, _ = listener.accept()
            with accepted:
                assert listed((ADDRESS, 8080, *client.getsockname())) == (True, True)


def test_a_connection_that_is_ended_is_reset_at_the_other_end_too(connection):
    client, server, name = connection
    with closing(inside(POD, netlink.diag_socket)) as channel:
        assert not netlink.end(channel, (*name[:3], name[3] + 1))
        assert netlink.end(channel, name)
    with pytest.raises(ConnectionAbortedError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_a_listener_is_not_ended_in_place_of_a_connection_that_is_gone(pod):
    with inside(POD, lambda: socket.create_server((ADDRESS, 8080))) as listener, closing(inside(POD, netlink.diag_socket)) as channel:
        assert not netlink.end(channel, (ADDRESS, 8080, HOST, 41_000))
        with inside(NODE, lambda: socket.create_connection((ADDRESS, 8080))):
            listener.accept()[0].close()


@pytest.mark.parametrize("mode", ["open", "reset"])
def test_a_flow_keeps_its_room_as_long_as_its_socket_is_found(kernel, namespaces, connection, mode, monkeypatch):
    client, _, pair = connection
    look(namespaces)
    key = records.pack_flow_key(*pair, ifindex=9)
    kernel.put("flows", key, flow(seen=records.stamp(time.monotonic_ns())))
    wire_key = records.wire_key_of(key, flow())
    _, local_port, peer, peer_port = pair
    kernel.put("wires", wire_key, records.pack_wire(state=FlowState.CLIENT_ESTABLISHED, ifindex=9, peer=peer, local_port=local_port,
                                                    peer_port=peer_port, isn=1, started_ns=1))
    if mode == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    monkeypatch.setattr("wharfinger_dataplane.agent.flows.ROOMY", 0.0)
    outcome = Collector(kernel, namespaces, lambda address: True, 3600 * SECOND).collect(time.monotonic_ns() + 7200 * SECOND)
    gone = mode == "reset"
    assert (outcome.nominated, outcome.moved) == (1, gone)
    sizes = [len(kernel.items(table)) for table in ("flows", "wires", "closed_flows", "closed_wires")]
    assert sizes == ([0, 0, 1, 1] if gone else [1, 1, 0, 0])


def test_a_client_that_only_listens_is_told_at_once_that_its_server_is_gone(kernel, namespaces, connection):
    client, server, pair = connection
    look(namespaces)
    kernel.put("flows", records.pack_flow_key(*pair, ifindex=9), flow())
    ender = Ender(kernel, namespaces)
    assert ender.end() == 0
    ender.say({records.pack_v4(HOST): (frozenset({40_000}), frozenset())})
    assert ender.end() == 1
    client.settimeout(10)
    with pytest.raises(ConnectionAbortedError):
        client.recv(1)
    server.settimeout(10)
    with pytest.raises(ConnectionResetError):
        server.recv(1)
    assert ender.end() == 0  # the entry is there still, the socket is not

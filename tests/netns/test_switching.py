"""An agent whose tables have another layout takes over from its predecessor while connections open, speak and end, and none of them notices
(docs/architecture.md, "Kubernetes")."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path

import pytest
from support.churn import churn
from support.lab import SMALL, Lab, Node, Pod, Role, bpffs, fall_back, inside
from support.programs import pin_hash_map
from support.slices import VIRTUAL, pool_slice
from wharfinger_api import ServicePortSlice
from wharfinger_dataplane import _records as records
from wharfinger_dataplane import netlink
from wharfinger_dataplane._bpf import Map
from wharfinger_dataplane._records import FlowState
from wharfinger_dataplane.agent.surroundings import look
from wharfinger_dataplane.agent.ways import ways
from wharfinger_dataplane.attach import POD_PROGRAMS, UPLINK_PROGRAMS, Attacher, Mode
from wharfinger_dataplane.kernel import Carried, Kernel, layout_name
from wharfinger_dataplane.tables import Tables

SIZES = (131_072, 262_144)
SWITCHES = 6


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[Path]:
    with bpffs(tmp_path / "bpf") as path:
        yield path


@pytest.fixture
def kernel(fs: Path) -> Iterator[Kernel]:
    with closing(Kernel.open(fs, SMALL)) as kernel:
        yield kernel


def flow_key(number=0):
    return records.pack_flow_key("10.98.0.2", 41_000, "10.98.0.1", number, 9)


def flow(**changes):
    return records.pack_flow(**{"state": FlowState.CLIENT_ESTABLISHED, "server": "10.98.0.1", "wire_port": 40_000, "scope": 7, "isn": 1,
                                "started_ns": 1, "seen": 1, **changes})


def test_maps_outlive_the_agent(fs):
    with closing(Kernel.open(fs, SMALL)) as kernel:
        kernel.put("flows", flow_key(), flow())
    with closing(Kernel.open(fs, SMALL)) as kernel:
        assert kernel.items("flows") == [(flow_key(), flow())]


def test_another_layout_takes_over_what_connections_remember(fs):
    alone, older, newer = flow_key(1), flow_key(2), flow_key(3)
    with closing(Kernel.open(fs, SMALL)) as former, closing(Kernel.open(fs, {**SMALL, "flows": 2048})) as kernel:
        for key in (alone, older, newer):
            former.put("flows", key, flow(seen=5))
        kernel.put("flows", older, flow(isn=2, seen=4))
        kernel.put("flows", newer, flow(isn=2, seen=6))
        assert kernel.replace_former(nullcontext, lambda prolong: None).records == 2
        assert dict(kernel.items("flows")) == {alone: flow(seen=5), older: flow(seen=5), newer: flow(isn=2, seen=6)}
        assert len(list((fs / "wharfinger").glob("maps-*"))) == 1


def test_an_agent_that_was_stopped_for_longer_than_a_hold_lasts_takes_over_again(fs, monkeypatch):
    """What a former program changed when the hold had ended is not lost."""
    times = []
    with closing(Kernel.open(fs, SMALL)) as former, closing(Kernel.open(fs, {**SMALL, "flows": 2048})) as kernel:
        former.put("flows", flow_key(1), flow(seen=5))

        def switch(prolong):
            times.append(time.monotonic_ns())
            if len(times) == 1:
                former.put("flows", flow_key(1), flow(isn=2, seen=6))
                monkeypatch.setattr("wharfinger_dataplane.kernel.HOLD_NS", 10**9)
                time.sleep(0.05)

        monkeypatch.setattr("wharfinger_dataplane.kernel.HOLD_NS", 2 * 10**7)
        kernel.replace_former(nullcontext, switch)
        assert len(times) == 2
        assert kernel.items("flows") == [(flow_key(1), flow(isn=2, seen=6))]


def test_a_former_layout_that_holds_more_than_this_one_has_room_for_goes_on(fs):
    with closing(Kernel.open(fs, {**SMALL, "flows": 2048})) as former, closing(Kernel.open(fs, SMALL)) as kernel:
        for number in range(1000):
            former.put("flows", flow_key(number), flow())
        with pytest.raises(OSError, match=r"flows holds 1000 records .* Set agent\.capacities\.flows to 1112 or more"):
            kernel.replace_former(nullcontext, lambda prolong: pytest.fail("switched"))
        assert (kernel.items("flows"), len(former.items("flows"))) == ([], 1000)
        assert kernel.get("settings", records.pack_index(records.SETTING_HELD_UNTIL)) == bytes(8)
        assert len(list((fs / "wharfinger").glob("maps-*"))) == 2


def test_an_agent_that_is_killed_before_the_former_maps_are_gone_leaves_no_records_to_be_taken_for_new(fs):
    with closing(Kernel.open(fs, SMALL)) as former, closing(Kernel.open(fs, {**SMALL, "flows": 2048})) as kernel:
        former.put("flows", flow_key(1), flow())

        @contextmanager
        def killed():
            yield
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            kernel.replace_former(killed, lambda prolong: None)
        kernel.delete("flows", flow_key(1))
        assert kernel.replace_former(nullcontext, lambda prolong: None).records == 0
        assert kernel.items("flows") == []


def test_a_switch_that_takes_longer_than_a_hold_prolongs_it(fs, monkeypatch):
    monkeypatch.setattr("wharfinger_dataplane.kernel.HOLD_NS", 2 * 10**8)
    switches = []
    with closing(Kernel.open(fs, SMALL)), closing(Kernel.open(fs, {**SMALL, "flows": 2048})) as kernel:
        def switch(prolong):
            switches.append(True)
            for _ in range(6):
                time.sleep(0.05)
                prolong()

        kernel.replace_former(nullcontext, switch)
    assert len(switches) == 1


def left_by_another_release(fs, key_size, value_size, *records_):
    path = fs / "wharfinger" / "maps-former" / "flows"
    pin_hash_map(path, key_size, value_size)
    with closing(Map.open(path)) as former:
        for key, value in records_:
            former.put(key, value)
    return path


@pytest.mark.parametrize("more", [8, -8])
def test_a_release_whose_records_are_longer_or_shorter_takes_over_what_connections_remember(fs, kernel, more):
    size = len(flow())
    left_by_another_release(fs, len(flow_key()), size + more, (flow_key(), flow()[:size + more].ljust(size + more, b"\x07")))
    assert kernel.replace_former(nullcontext, lambda prolong: None).records == 1
    assert kernel.items("flows") == [(flow_key(), flow()[:size + min(0, more)].ljust(size, b"\0"))]


def test_a_release_that_cannot_read_connections_leaves_the_former_one_at_work_and_says_so(fs, kernel):
    path = left_by_another_release(fs, len(flow_key()) + 4, len(flow()), (flow_key() + bytes(4), flow()))
    switched = []
    with pytest.raises(OSError, match="cannot be carried over, and the former release's programs go on"):
        kernel.replace_former(nullcontext, lambda prolong: switched.append(True))
    assert (switched, path.exists(), kernel.items("flows")) == ([], True, [])


def test_a_layouts_name_changes_with_any_size():
    maps = [("flows", 1, 16, 48, 1024)]
    assert layout_name(maps) == layout_name(list(maps))
    assert len({layout_name([("flows", *sizes)]) for sizes in [(1, 16, 48, 1024), (9, 16, 48, 1024), (1, 20, 48, 1024), (1, 16, 56, 1024),
                                                               (1, 16, 48, 2048)]}) == 5


class Agents:
    """A node's agents, each with tables of another size than its predecessor's."""

    def __init__(self, lab: Lab, pod: Pod, role: Role, fs: Path, mode: Mode) -> None:
        self.node: Node = pod.node
        self._fs, self._pod, self._role, self._mode = fs / pod.node.name, pod, role, mode
        self._wanted = {lab.uplink(pod.node): UPLINK_PROGRAMS, pod.ifindex: POD_PROGRAMS}
        self._started, self.kernel = 0, None

    def next(self, slices: list[ServicePortSlice]) -> Carried | None:
        """Starts, as an agent does: tables first, then its programs in place of the former's; what was carried over."""
        kernel = Kernel.open(self._fs, {"flows": SIZES[self._started % 2]})
        attacher = Attacher(kernel.programs, kernel.links, self._mode)
        carried = inside(self.node.name, lambda: self._take_over(kernel, attacher, slices))
        self.close()
        self.kernel = kernel
        self._started += 1
        return carried

    def _take_over(self, kernel: Kernel, attacher: Attacher, slices: list[ServicePortSlice]) -> Carried | None:
        attacher.adopt()
        tables = Tables(kernel)
        tables.put_pod(self._pod.address, self._pod.ifindex, self._role, netlink.interface(self._pod.ifindex).peer_namespace)
        tables.apply(slices)
        carried = kernel.replace_former(attacher.hold, attacher.renew) if kernel.has_former else None
        assert attacher.attach(self._wanted).failed == {}
        made = ways(look(), attacher.attached())
        tables.put_interfaces(made.bits, made.incoming)
        return carried

    def held(self) -> int:
        """Packets that met the hold by which these tables came."""
        return sum(packets for (_, reason), (packets, _) in self.kernel.counters().items() if reason == "held")

    def close(self) -> None:
        if self.kernel:
            self.kernel.close()


@pytest.mark.parametrize(("side", "mode"), [("client", Mode.TCX), ("server", Mode.TCX), ("server", Mode.CLSACT)])
def test_no_connection_notices_that_the_tables_of_its_node_are_replaced(fs: Path, side: str, mode: Mode):
    with ExitStack() as stack:
        lab = Lab(fs)
        stack.callback(lab.close)
        client, server = (lab.add_pod(lab.add_node(attach=False), name) for name in ("client", "a"))
        fall_back(client.node, VIRTUAL, server)
        slices = [pool_slice({"a": server.address})]
        agents = {"client": Agents(lab, client, Role.CLIENT, fs, mode), "server": Agents(lab, server, Role.SERVER, fs, mode)}
        for each in agents.values():
            stack.callback(each.close)
            each.next(slices)
        carried, held = [], 0
        with churn(client.name, VIRTUAL, 80, server=server.name, server_address=server.address, server_port=8080) as traffic:
            for _ in range(SWITCHES):
                time.sleep(0.5)
                held += agents[side].held()
                carried.append(agents[side].next(slices))
        held += agents[side].held()
        assert traffic.failed == {}
        assert traffic.good > 100 * SWITCHES
        assert min(each.records for each in carried) > 100
        assert held > 0, "no packet met a hold, so nothing was shown"

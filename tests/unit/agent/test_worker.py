"""The loop: what it does with what it sees, in which order, and what it leaves alone."""

import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from support.batches import batch_of
from support.slices import pool_slice
from wharfinger_api import AttachedPod, LabelSelector, NetworkPolicy, ProgrammedSlices
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane._records import Pod, Role
from wharfinger_dataplane.agent.desired import LocalPod
from wharfinger_dataplane.agent.leave import Leave, Marker
from wharfinger_dataplane.agent.namespaces import Namespace
from wharfinger_dataplane.agent.reflector import Copy
from wharfinger_dataplane.agent.report import About
from wharfinger_dataplane.agent.surroundings import Surroundings
from wharfinger_dataplane.agent.worker import Sources, Worker
from wharfinger_dataplane.attach import POD_PROGRAMS, UPLINK_PROGRAMS, Mode, Outcome
from wharfinger_dataplane.kernel import Carried
from wharfinger_dataplane.netlink import Interface
from wharfinger_dataplane.tables import Tables

A, B = "10.244.1.5", "10.244.1.6"
UPLINK = 2
ABOUT = About("0.1.0", "6.12.3-cloud", Mode.AUTO, Mode.TCX)


class Journal(Engine):
    """A store that keeps a journal; stands for Kernel."""

    has_former = False

    def __init__(self, capacity=None):
        self.journal, self.takeovers, self.refusal, self.settings = [], 0, None, {}

    def put(self, table, key, value):
        self.journal.append(f"put {table}")
        super().put(table, key, value)

    def set(self, setting, value):
        changed = self.settings.get(setting, 0) != value
        self.settings[setting] = value
        return changed

    def outdate(self):
        self.journal.append("new generation")

    def replace_former(self, hold, switch):
        self.takeovers += 1
        if self.refusal:
            raise self.refusal
        with hold():
            switch(lambda: None)
        return Carried(0, 0.0)

    def batches(self, table):
        yield batch_of(self.items(table))

    def unpin(self):
        self.journal.append("unpin")


class Interfaces:
    """Stands for Attacher; `refused` are interfaces that fail."""

    def __init__(self, journal, adopted=()):
        self.journal, self.programs, self.refused, self.lost = journal, dict(adopted), set(), []

    fallbacks = 0

    def adopt(self):
        return len(self.programs)

    def behind(self):
        return frozenset()

    def hold(self):
        return nullcontext()

    def renew(self, after_each=None):
        self.journal.append("renew")

    def verify(self):
        lost, self.lost = self.lost, []
        for index, _ in lost:
            self.programs.pop(index, None)
        return lost

    def attached(self):
        return dict(self.programs)

    def attach(self, wanted):
        outcome = Outcome(failed={index: OSError(19, "No such device") for index in wanted.keys() & self.refused})
        for index in wanted.keys() - self.programs.keys() - self.refused:
            self.programs[index] = wanted[index]
            self.journal.append(f"attach {index}")
        return outcome

    def detach_all(self):
        return self.detach_others({})

    def detach_others(self, wanted):
        gone = self.programs.keys() - wanted.keys()
        for index in gone:
            del self.programs[index]
            self.journal.append(f"detach {index}")
        return len(gone)


class Scene:
    """A worker and all around it."""

    def __init__(self, adopted=(), capacity=None):
        self.store = Journal(capacity)
        self.interfaces = Interfaces(self.store.journal, {index: POD_PROGRAMS for _, index in adopted})
        for address, index in adopted:
            Tables(self.store).put_pod(address, index, Role.CLIENT)
        self.slices, self.pods, self.policies, self.namespaces, self.markers, self.misread = [], [], [], [], [], []
        self.misread_metadata, self.seen = [], {}
        self.synced = SimpleNamespace(slices=True, pods=True, policies=True, namespaces=True, markers=True)
        self.reports, self.events, self.gone, self.spans, self.said_gone = [], [], [], [], []
        collector = SimpleNamespace(pod_gone=lambda address, now_ns: self.gone.append(address))
        telemetry = SimpleNamespace(names=SimpleNamespace(update=lambda slices, pods: None),
                                    tables=SimpleNamespace(table_write=lambda *call: self.spans.append(call)))
        self.worker = Worker("node", ABOUT, 10.0, Sources(*map(self.source, ("slices", "pods", "policies", "namespaces")),
                                                          self, self.source("markers")),
                             self.store, self.interfaces, collector, Leave(self.store, self.interfaces, None),
                             SimpleNamespace(report=self.reports.append, tell=self.events.append), telemetry, self.said_gone.append)
        self.worker.adopt()

    def surroundings(self):
        """Every interface that a pod has, and the uplink; `seen` changes it."""
        indexes = {UPLINK, *(index for namespace in self.namespaces for _, index in namespace.interfaces)}
        return Surroundings(**{"interfaces": {index: Interface(index, f"if{index}", "veth", True, 0, 0) for index in indexes}, **self.seen})

    def uplinks(self, pods):
        return frozenset({UPLINK})

    def source(self, name):
        scene = self

        class Source:
            @property
            def synced(self):
                return getattr(scene.synced, name)

            looked = synced

            def objects(self):
                return getattr(scene, name)

            snapshot = objects

            def copy(self):
                pieces = scene.slices
                return Copy(pieces, str(max((piece.version for piece in pieces), default=0)), scene.misread_metadata)

            def misread(self):
                return scene.misread if name == "slices" else []

        return Source()

    def round(self):
        """One round of the loop's thread."""
        self.store.journal.clear()
        thread = threading.Thread(target=self.worker.run)
        thread.start()
        self.worker.wake()
        deadline = time.monotonic() + 5
        rounds = self.worker.progress.rounds
        while self.worker.progress.rounds == rounds and time.monotonic() < deadline and all(vars(self.synced).values()):
            time.sleep(0.001)
        time.sleep(0.02)
        self.worker.stop()
        thread.join()
        self.worker._stopping = False
        return list(self.store.journal)

    def add(self, name, address, index, **changes):
        self.pods.append(LocalPod(**{"namespace": "test", "name": name, "uid": f"uid-{name}", "addresses": (address,), "injected": False,
                                     "ended": False, "host_network": False, **changes}))
        self.namespaces.append(Namespace((name, index), ((address, index),)))

    @property
    def entered(self):
        return Tables(self.store).pods()


@pytest.fixture
def scene():
    return Scene()


def test_programs_are_attached_and_pods_entered_before_tables_are_written(scene):
    scene.add("a", A, 11)
    scene.slices = [pool_slice({"a": A})]
    journal = scene.round()
    assert journal[:3] == ["attach 11", "put pods", f"attach {UPLINK}"]
    assert journal[3:6] == ["put interfaces", "put interfaces", "new generation"]
    assert {"put server_ports", "put servers", "put sets", "put pages", "put addresses"} == set(journal[6:-1])
    assert journal[-1] == "renew"
    assert scene.entered == {A: Pod(11, Role.SERVER)}


def test_a_pod_is_entered_with_its_namespaces_number_and_keeps_it_when_the_namespace_is_not_found(scene):
    scene.add("a", A, 11)
    scene.slices = [pool_slice({"a": A})]
    scene.namespaces = [Namespace(("a", 11), ((A, 11),), number=3)]
    scene.round()
    assert scene.entered == {A: Pod(11, Role.SERVER, 3)}
    scene.namespaces = []
    scene.round()
    assert scene.entered == {A: Pod(11, Role.SERVER, 3)}


def test_what_was_done_is_reported_once(scene):
    scene.add("a", A, 11)
    scene.slices = [pool_slice({"a": A}, generation=3)]
    scene.round()
    scene.round()
    [report] = scene.reports
    assert report.slices == ProgrammedSlices(version="3")
    assert report.servers == (AttachedPod(pod="test/a", uid="uid-a", address=A),)


@pytest.mark.parametrize("missing", ["slices", "pods", "policies", "namespaces", "markers"])
def test_nothing_is_done_before_everything_was_seen_once(missing):
    scene = Scene(adopted=[(A, 11)])
    setattr(scene.synced, missing, False)
    assert scene.round() == []
    assert (scene.entered, scene.interfaces.programs, scene.reports) == ({A: Pod(11, Role.CLIENT)}, {11: POD_PROGRAMS}, [])


def test_what_a_former_agent_left_and_nobody_needs_is_removed():
    scene = Scene(adopted=[(A, 11), (B, 12)])
    scene.add("b", B, 12, injected=True)
    scene.round()
    assert (scene.entered, scene.interfaces.programs) == ({B: Pod(12, Role.CLIENT)}, {12: POD_PROGRAMS, UPLINK: UPLINK_PROGRAMS})
    assert scene.gone == [A]


def test_a_pod_that_cannot_be_attached_to_is_neither_entered_nor_reported_as_attached(scene):
    scene.add("a", A, 11, injected=True)
    scene.add("b", B, 12, injected=True)
    scene.interfaces.refused = {11}
    scene.round()
    assert scene.entered == {B: Pod(12, Role.CLIENT)}
    assert [found.pod for found in scene.reports[-1].clients] == ["test/b"]
    assert "No such device" in scene.reports[-1].conditions[0].message
    scene.interfaces.refused = set()
    scene.round()
    assert scene.entered.keys() == {A, B}
    assert scene.reports[-1].conditions[0].status == "True"


def lacking(report):
    """What the report excepts: the slice's name -> the version that is programmed."""
    return {found.name: found.version for found in report.slices.exceptions}


def test_a_pool_that_does_not_fit_is_named_and_not_acknowledged_and_others_are():
    scene = Scene(capacity={"server_ports": 5})
    wide = pool_slice({"a": A}, redirect=range(80, 90))
    other = pool_slice({"b": B}, name="other", scope=8, virtual=["10.96.0.11"])
    scene.slices = [wide, other]
    scene.add("a", A, 11)
    scene.add("b", B, 12)
    scene.round()
    report = scene.reports[-1]
    assert (report.slices.version, lacking(report), [found.pod for found in report.servers]) == ("1", {"shop-0": ""}, ["test/b"])
    [fault] = report.faults
    assert (fault.namespace, fault.name, fault.uid) == ("test", "shop", "pool-shop")
    assert "table server_ports is full: 11 more entries are needed and 3 of its 5 are free" in fault.message
    assert report.conditions[0].status == "False" and "test/shop" in report.conditions[0].message
    scene.slices = [pool_slice({"a": A}, generation=2), other]
    scene.round()
    assert (scene.reports[-1].slices, scene.reports[-1].faults) == (ProgrammedSlices(version="2"), ())
    assert scene.reports[-1].conditions[0].status == "True"


def test_a_pool_that_outgrew_a_table_stays_acknowledged_as_it_was():
    scene = Scene(capacity={"server_ports": 5})
    scene.slices = [pool_slice({"a": A}, generation=3)]
    scene.add("a", A, 11)
    scene.round()
    scene.slices = [pool_slice({"a": A}, redirect=range(80, 90), generation=4)]
    scene.round()
    assert (scene.reports[-1].slices.version, lacking(scene.reports[-1])) == ("4", {"shop-0": "3"})
    assert [found.pod for found in scene.reports[-1].servers] == ["test/a"]


def test_a_former_releases_programs_stay_while_a_pool_does_not_fit_into_this_ones_tables():
    scene = Scene(capacity={"server_ports": 5})
    scene.store.has_former = True
    scene.slices = [pool_slice({"a": A}, redirect=range(80, 90))]
    assert "renew" not in scene.round()
    assert (scene.reports[-1].slices, scene.worker.progress.ready) == (ProgrammedSlices(), False)
    scene.slices = [pool_slice({"a": A}, generation=2)]
    assert "renew" in scene.round()
    assert (scene.reports[-1].slices, scene.worker.progress.ready) == (ProgrammedSlices(version="2"), True)


def test_former_tables_that_cannot_be_taken_over_are_not_asked_for_in_each_round(monkeypatch):
    scene = Scene()
    scene.store.has_former, scene.store.refusal = True, OSError(28, "too few")
    scene.slices = [pool_slice({"a": A})]
    for _ in range(3):
        scene.round()
        assert "too few" in scene.reports[-1].conditions[0].message
    assert (scene.store.takeovers, scene.worker.progress.ready) == (1, False)
    scene.store.refusal = None
    monkeypatch.setattr("wharfinger_dataplane.agent.worker.time.monotonic", lambda at=time.monotonic() + 31: at)
    assert "renew" in scene.round()
    assert scene.worker.progress.ready


def test_what_somebody_else_detached_is_attached_again_once_the_kernel_tells(scene):
    scene.add("a", A, 11, injected=True)
    scene.round()
    scene.interfaces.lost = [(11, "wharf_from_pod"), (UPLINK, "wharf_from_net")]
    assert scene.round() == []
    scene.worker.suspect()
    assert sorted(scene.round()) == ["attach 11", f"attach {UPLINK}"]


def test_a_slice_that_is_not_understood_is_told_of(scene):
    scene.misread = ["ServicePortSlice test/shop-0: spec: missing"]
    scene.round()
    assert scene.reports[-1].conditions[0].message == "ServicePortSlice test/shop-0: spec: missing"


def test_a_pod_whose_address_moves_to_another_interface_leaves_its_flows_behind(scene):
    scene.add("a", A, 11, injected=True)
    scene.round()
    scene.namespaces = [Namespace(("a", 12), ((A, 12),))]
    scene.round()
    assert (scene.entered, scene.gone) == ({A: Pod(12, Role.CLIENT)}, [A])
    assert set(scene.interfaces.programs) == {12, UPLINK}


def test_a_table_write_is_traced_under_the_reconcile_that_wrote_the_slice(scene):
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    piece = pool_slice({"a": A})
    scene.slices = [piece.model_copy(update={"metadata": piece.metadata.model_copy(
        update={"annotations": {"wharfinger.io/traceparent": traceparent}})})]
    scene.round()
    scene.round()
    [(parent, names, started_ns, ended_ns, writes)] = scene.spans
    assert (parent, names) == (traceparent, ["test/shop-0"])
    assert started_ns < ended_ns
    assert writes > 0


def test_the_time_from_an_event_to_the_write_is_measured(scene):
    scene.slices = [pool_slice({"a": A})]
    scene.round()
    assert 0 < scene.worker.progress.last_latency_s < 1
    assert scene.worker.progress.latencies == 1


def test_at_the_marker_new_connections_become_unaware_and_all_else_goes_on(scene):
    scene.add("a", A, 11)
    scene.slices = [pool_slice({"a": A})]
    scene.round()
    scene.markers = [Marker(60)]
    scene.round()
    assert (scene.store.items("addresses"), scene.store.items("pages")) == ([], [])
    assert len(scene.store.items("server_ports")) == 2
    assert (scene.entered, scene.interfaces.programs.keys()) == ({A: Pod(11, Role.SERVER)}, {11, UPLINK})
    ready, leaving = scene.reports[-1].conditions
    assert (ready.status, leaving.type, leaving.status, leaving.reason) == ("True", "Detached", "False", "Draining")
    assert [found.pod for found in scene.reports[-1].servers] == ["test/a"]


def test_a_marker_that_is_taken_back_in_time_changes_nothing(scene):
    scene.slices = [pool_slice({"a": A})]
    scene.markers = [Marker(60)]
    scene.round()
    scene.markers = []
    scene.round()
    assert len(scene.store.items("addresses")) == 1


def test_a_node_that_is_left_bears_nothing_and_says_so_and_stays_left(scene):
    scene.add("a", A, 11)
    scene.slices = [pool_slice({"a": A})]
    scene.markers = [Marker(0)]
    journal = scene.round()
    assert (set(journal[-3:-1]), journal[-1]) == ({"detach 11", f"detach {UPLINK}"}, "unpin")
    assert (scene.reports[-1].slices, scene.reports[-1].servers) == (ProgrammedSlices(), ())
    assert [(found.type, found.status) for found in scene.reports[-1].conditions] == [("Ready", "True"), ("Detached", "True")]
    scene.store.journal.clear()
    thread = threading.Thread(target=scene.worker.run)
    thread.start()
    scene.worker.wake()
    time.sleep(0.1)
    assert scene.store.journal == []
    assert thread.is_alive()
    scene.markers = []  # as when the uninstallation was called off: the process ends, and its successor begins anew
    scene.worker.wake()
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_a_client_that_a_policy_keeps_unaware_is_told_of_once(scene):
    scene.add("a", A, 11, injected=True)
    scene.policies = [NetworkPolicy("test", "deny", LabelSelector(), frozenset({"Egress"}))]
    scene.round()
    scene.round()
    assert scene.entered == {A: Pod(11, Role.CLIENT | Role.EGRESS_SELECTED)}
    assert [client.policy for client in scene.reports[-1].clients] == ["test/deny"]
    assert [(told["reason"], told["involvedObject"]["name"]) for told in scene.events] == [("NetworkPolicy", "a")]
    assert "NetworkPolicy test/deny selects this pod for egress" in scene.events[0]["message"]
    scene.policies = []
    scene.round()
    assert scene.entered == {A: Pod(11, Role.CLIENT)}
    assert [client.policy for client in scene.reports[-1].clients] == [""]

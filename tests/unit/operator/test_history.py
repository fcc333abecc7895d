"""The judge of histories: it finds each wrong that an operator could do, and none in what plan() does."""

import copy
from datetime import UTC, datetime, timedelta

import pytest
from support.history import Change, judge
from unit.operator.world import World

A = {"server": "shop/a", "podUID": "ua", "address": "10.1.0.1", "node": "n1", "targets": [{"name": "http", "servicePorts": [20000]}]}
B = {**A, "server": "shop/b", "podUID": "ub", "address": "10.1.0.2"}


class History:
    """Changes, one revision after another, `s` seconds after ten o'clock."""

    def __init__(self):
        self.changes = []
        self.generation = 0

    def change(self, raw, s=0, deleted=False):
        raw["metadata"]["resourceVersion"] = str(len(self.changes) + 1)
        self.changes.append(Change(raw, deleted, moment(s)))
        return self

    def piece(self, *records, s=0, name="web-0", deleted=False):
        self.generation += 1
        spec = {"pool": {"name": "web"}, "virtualAddresses": ["10.96.0.10"], "assignments": [dict(record) for record in records]}
        metadata = {"namespace": "shop", "name": name, "uid": f"slice-{name}", "generation": self.generation}
        return self.change({"kind": "ServicePortSlice", "metadata": metadata, "spec": spec}, s, deleted)

    def report(self, node, version=None, lacks=()):
        """All as of the last change, but for what `lacks` names."""
        slices = {"version": str(len(self.changes) if version is None else version), "except": [{"uid": f"slice-{name}"} for name in lacks]}
        return self.change({"kind": "NodeReport", "metadata": {"name": node}, "status": {"slices": slices}})

    def node(self, name, deleted):
        return self.change({"kind": "Node", "metadata": {"name": name}}, deleted=deleted)

    def rested(self, until=60):
        """A had the number, gave it up in order at second 0, and the slice is empty."""
        return self.piece(in_state(A, "Ready")).report("n1").piece(in_state(A, "Resting")).report("n1").piece(s=until)

    @property
    def faults(self):
        return judge(self.changes).faults


def moment(s):
    return datetime(2026, 1, 1, 10, tzinfo=UTC) + timedelta(seconds=s)


def in_state(record, state, s=0):
    return {**record, "state": state, "since": moment(s).isoformat()}


def only(faults, words):
    assert faults
    assert all(words in fault for fault in faults), faults


def test_a_number_that_rested_may_be_given_again():
    found = judge(History().rested().piece(in_state(B, "Assigned", 60)).changes)
    assert (found.faults, found.given, found.again) == ([], 2, 1)


def test_a_number_of_two_servers_in_one_slice_is_found():
    only(History().piece(in_state(A, "Ready"), in_state(B, "Assigned")).faults, "in one slice")


def test_a_number_of_two_servers_in_two_slices_is_found():
    only(History().piece(in_state(A, "Ready")).piece(in_state(B, "Assigned"), name="web-1").faults, "which shop/a (ua) has, Ready")


def test_a_number_that_rests_and_is_given_is_found():
    only(History().piece(in_state(A, "Ready")).piece(in_state(A, "Resting")).piece(in_state(B, "Assigned", 99), name="web-1").faults, "has, Resting")


def test_a_number_taken_and_given_in_one_write_is_found():
    only(History().piece(in_state(A, "Resting")).report("n1").piece(in_state(B, "Assigned", 99)).faults, "which shop/a (ua) has")


def test_a_number_taken_without_rest_is_found():
    only(History().piece(in_state(A, "Ready")).piece().faults, "while it was Ready")


def test_a_number_given_before_its_rest_is_over_is_found():
    only(History().rested(59).piece(in_state(B, "Assigned", 59)).faults, "rest ends at")


def test_a_number_taken_before_a_node_acknowledged_is_found():
    only(History().report("n2", 0).rested().faults, "n2 has not acknowledged")


def test_a_slice_that_a_node_excepts_is_not_acknowledged():
    history = History().piece(in_state(A, "Ready")).report("n1").piece(in_state(A, "Resting")).report("n1", lacks=["web-0"]).piece()
    only(history.faults, "n1 has not acknowledged")


def test_a_silent_nodes_former_acknowledgement_is_none():
    history = History().piece(in_state(A, "Ready")).report("n1").piece(in_state(A, "Resting")).piece()
    only(history.faults, "n1 has not acknowledged")


def test_a_node_that_is_gone_need_not_acknowledge():
    assert History().report("n2", 0).node("n2", deleted=True).rested().piece(in_state(B, "Assigned", 60)).faults == []


def test_a_number_of_the_same_pod_in_two_slices_is_found():
    only(History().piece(in_state(A, "Ready")).piece(in_state(A, "Ready"), name="web-1").faults, "stands in two slices")


def test_a_number_on_one_servers_address_in_two_pools_is_found():
    history = History().piece(in_state(A, "Ready")).piece(in_state({**A, "server": "x", "podUID": ""}, "Ready"), name="other-0")
    history.changes[-1].raw["spec"]["virtualAddresses"] = ["10.96.0.11"]
    only(history.faults, "port 20000 of server address 10.1.0.1")


def test_what_was_in_a_deleted_slice_rests_too():
    gone = History().piece(in_state(A, "Ready")).report("n1").piece(deleted=True, s=5)
    only(copy.deepcopy(gone).report("n1").piece(in_state(B, "Assigned", 60), name="new-0").faults, "rest ends at")
    only(copy.deepcopy(gone).piece(in_state(B, "Assigned", 65), name="new-0").faults, "n1 still has the slice")
    only(copy.deepcopy(gone).report("n1", lacks=["web-0"]).piece(in_state(B, "Assigned", 65), name="new-0").faults, "n1 still has the slice")
    assert gone.report("n1").piece(in_state(B, "Assigned", 65), name="new-0").faults == []


class Watched(World):
    """A world that keeps every version of what the judge asks for."""

    def __init__(self, *arguments):
        self.changes = []
        super().__init__(*arguments)

    def put(self, kind, namespace, name, body):
        raw = super().put(kind, namespace, name, body)
        if kind in ("ServicePortSlice", "NodeReport", "Node"):
            self.changes.append(Change(copy.deepcopy(raw), False, self.now))
        return raw


@pytest.mark.parametrize("servers", [2, 5])
def test_what_the_plan_does_while_pods_come_and_go_is_without_fault(servers):
    world = Watched(("n1", "n2"))
    world.service()
    world.pool(last=20000 + servers, restTime="6s", surgePercent=0)
    world.redirect()
    for n in range(12):
        for m in range(servers):
            world.pod(f"p{n}-{m}", node=("n1", "n2")[m % 2], address=f"10.1.0.{1 + m}")
        world.settle()
        for m in range(n % servers + 1):
            world.delete("Pod", "shop", f"p{n}-{m}")
        world.settle()
        world.later(4 + n % 5)
        world.settle()
        for m in range(n % servers + 1, servers):
            world.delete("Pod", "shop", f"p{n}-{m}")
    found = judge(world.changes, {"web": 6})
    assert found.faults == []
    assert found.again > 2

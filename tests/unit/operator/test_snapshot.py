"""What the snapshot makes of events that come late, twice, in any order, or not at all."""

from datetime import timedelta

import pytest
from unit.operator.world import EPOCH, SYSTEM, stamp
from wharfinger_operator.handlers import take
from wharfinger_operator.records import pod, service
from wharfinger_operator.snapshot import Snapshot


@pytest.fixture
def snapshot():
    return Snapshot(SYSTEM)


def make(name, version, ip="10.1.0.1", kind="Pod", **status):
    return {"kind": kind, "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": str(version)},
            "spec": {"nodeName": "n1"}, "status": {"podIPs": [{"ip": ip}], **status}}


def lease(version, renewed, name="wharfinger-agent-n1", namespace=SYSTEM):
    return {"metadata": {"name": name, "namespace": namespace, "resourceVersion": str(version)},
            "spec": {"renewTime": stamp(renewed), "leaseDurationSeconds": 40}}


def test_older_event_changes_nothing(snapshot):
    assert snapshot.put("Pod", make("a", 5, "10.1.0.5"), EPOCH)
    assert not snapshot.put("Pod", make("a", 4, "10.1.0.4"), EPOCH)
    assert snapshot.pods["shop", "a"].addresses == ("10.1.0.5",)


def test_event_that_no_plan_could_tell_from_the_last_is_no_change(snapshot):
    snapshot.put("Pod", make("a", 5), EPOCH)
    assert not snapshot.put("Pod", make("a", 6, startTime="now"), EPOCH)


def test_deleted_object_does_not_come_back_by_an_older_event(snapshot):
    snapshot.put("Pod", make("a", 5), EPOCH)
    assert snapshot.remove("Pod", make("a", 8), EPOCH)
    assert not snapshot.put("Pod", make("a", 7), EPOCH)
    assert snapshot.put("Pod", make("a", 9), EPOCH)


def test_listing_finds_deletions_that_no_event_told(snapshot):
    snapshot.put("Pod", make("a", 5), EPOCH)
    snapshot.put("Pod", make("b", 6), EPOCH)
    assert snapshot.reconcile("Pod", [make("b", 6)], 10, EPOCH)
    assert set(snapshot.pods) == {("shop", "b")}


def test_listing_does_not_drop_what_is_newer_than_itself(snapshot):
    snapshot.put("Pod", make("a", 15), EPOCH)
    assert not snapshot.reconcile("Pod", [], 10, EPOCH)
    assert set(snapshot.pods) == {("shop", "a")}


def test_every_change_is_counted_and_nothing_else(snapshot):
    snapshot.put("Pod", make("a", 5), EPOCH)
    snapshot.put("Pod", make("a", 6), EPOCH)
    snapshot.remove("Pod", make("a", 7), EPOCH)
    snapshot.remove("Pod", make("a", 8), EPOCH)
    assert snapshot.changes == 2


def test_agents_renewal_is_dated_by_the_operators_clock(snapshot):
    """A node whose clock is an hour slow is alive all the same; only its first Lease is dated by its own."""
    slow = EPOCH - timedelta(hours=1)
    snapshot.put("Lease", lease(1, slow), EPOCH)
    assert not snapshot.agents["n1"].live(EPOCH)
    assert snapshot.put("Lease", lease(2, slow + timedelta(seconds=10)), EPOCH + timedelta(seconds=10))
    assert snapshot.agents["n1"].live(EPOCH + timedelta(seconds=49))
    assert not snapshot.agents["n1"].live(EPOCH + timedelta(seconds=51))


def test_clock_that_is_fast_does_not_keep_an_agent_alive(snapshot):
    snapshot.put("Lease", lease(1, EPOCH + timedelta(hours=1)), EPOCH)
    assert not snapshot.agents["n1"].live(EPOCH + timedelta(seconds=41))


def test_listing_the_same_lease_again_renews_nothing(snapshot):
    snapshot.put("Lease", lease(1, EPOCH), EPOCH)
    snapshot.reconcile("Lease", [lease(1, EPOCH)], 5, EPOCH + timedelta(seconds=30))
    assert not snapshot.agents["n1"].live(EPOCH + timedelta(seconds=41))


def test_heartbeat_of_a_live_agent_is_no_change(snapshot):
    assert snapshot.put("Lease", lease(1, EPOCH), EPOCH)
    assert not snapshot.put("Lease", lease(2, EPOCH + timedelta(seconds=10)), EPOCH + timedelta(seconds=10))


@pytest.mark.parametrize("other", [lease(1, EPOCH, name="wharfinger-operator"), lease(1, EPOCH, namespace="elsewhere")])
def test_other_leases_are_nobodys_heartbeat(snapshot, other):
    assert not snapshot.put("Lease", other, EPOCH)
    assert snapshot.agents == {}


def test_unreadable_object_is_reported_and_what_was_known_stays(snapshot, capsys):
    good = {"apiVersion": "wharfinger.io/v1alpha1", "kind": "NodeReport",
            "metadata": {"name": "n1", "uid": "u", "resourceVersion": "1"}, "status": {}}
    assert take(snapshot, "NodeReport", "ADDED", good, EPOCH)
    bad = {**good, "metadata": {**good["metadata"], "resourceVersion": "2"}, "status": {"slices": {"version": "soon"}}}
    assert not take(snapshot, "NodeReport", "MODIFIED", bad, EPOCH)
    assert ("", "n1") in snapshot.reports
    assert "cannot be read" in capsys.readouterr().out


def test_pod_is_read_as_the_plan_needs_it():
    raw = make("a", 1, conditions=[{"type": "Ready", "status": "True"}], phase="Running")
    raw["spec"] |= {"containers": [{"ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]}],
                    "initContainers": [{"restartPolicy": "Always", "ports": [{"containerPort": 82}]}, {"ports": [{"containerPort": 83}]}]}
    seen = pod(raw)
    assert (seen.server, seen.ready, seen.terminating, seen.finished) == ("shop/a", True, False, False)
    assert (dict(seen.ports), seen.numbers) == ({"http": 80}, {80, 81, 82})


@pytest.mark.parametrize(("spec", "addresses"), [
    ({"clusterIP": "None", "clusterIPs": ["None"]}, ()), ({"clusterIPs": ["10.0.0.1", "fd00::1"]}, ("10.0.0.1", "fd00::1")), ({}, ())])
def test_cluster_ips_of_a_service(spec, addresses):
    assert service({"metadata": {}, "spec": spec}).cluster_ips == addresses

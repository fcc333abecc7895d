"""The NodeReport, the Lease, and Events about pods that are not aware: the builders."""

from datetime import UTC, datetime, timedelta

import jsonschema
import pytest
import yaml
from support.slices import pool_slice
from wharfinger_api import AttachedPod, PoolFault, ProgrammedSlices, dump
from wharfinger_dataplane._records import Role
from wharfinger_dataplane.agent.desired import Attachment, LocalPod
from wharfinger_dataplane.agent.events import LATE, MISSING, REFUSED, refused, untimely
from wharfinger_dataplane.agent.heartbeat import addresses_of, lease
from wharfinger_dataplane.agent.reflector import Copy
from wharfinger_dataplane.agent.report import About, Troubles, event, node_report, programmed_slices
from wharfinger_dataplane.agent.ways import foreign_interface
from wharfinger_dataplane.attach import Mode

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
A, B = AttachedPod(pod="test/a", uid="uid-a", address="10.0.0.1"), AttachedPod(pod="test/b", uid="uid-b", address="10.0.0.2")
FULL = PoolFault(namespace="test", name="shop", uid="pool-shop", message="table x is full")
LIMITED = foreign_interface("macvlan").model_copy(update={"where": "Pod test/a"})
ATTACHMENTS = {
    "10.0.0.1": Attachment(11, Role.SERVER, A),
    "10.0.0.2": Attachment(12, Role.CLIENT | Role.SERVER, B),
    "10.0.0.3": Attachment(13, Role.CLIENT, None),
}


def about(asked=Mode.AUTO, mode=Mode.TCX, kernel="6.12.3-cloud"):
    return About("0.1.0", kernel, asked, mode)


def report(faults=(), before=None, now=NOW, pool_faults=(), findings=(), of=None):
    troubles = Troubles(faults, pool_faults, findings)
    return node_report(of or about(), ProgrammedSlices(version="4"), ATTACHMENTS, troubles, before, now)


def said(seen, programmed, version="9", misread=()):
    return programmed_slices(Copy(seen, version, list(misread)), programmed)


def test_slices_are_acknowledged_as_of_one_version_when_all_are_programmed():
    pieces = [pool_slice({"a": "10.0.0.1"}, generation=4), pool_slice({"b": "10.0.0.2"}, name="other", generation=7)]
    made = said(pieces, pieces)
    assert made == ProgrammedSlices(version="9")
    assert all(map(made.has, pieces))
    assert not made.has(pool_slice({"a": "10.0.0.1"}, generation=10))


def test_a_slice_that_is_programmed_in_an_older_version_or_not_at_all_or_is_gone_or_not_understood_is_excepted():
    older, new = pool_slice({"a": "10.0.0.1"}, generation=4), pool_slice({"a": "10.0.0.1"}, generation=8)
    never, gone = (pool_slice({"a": "10.0.0.1"}, name=name) for name in ("never", "gone"))
    kept = pool_slice({"a": "10.0.0.1"}, name="kept", generation=2)
    odd = {"namespace": "test", "name": "odd-0", "uid": "slice-odd"}
    misread = [odd, {"namespace": "test", "name": "kept-0", "uid": "slice-kept"}]
    made = said([new, never, kept], [older, gone, kept], misread=misread)
    assert {entry.name: entry.version for entry in made.exceptions} == {"shop-0": "4", "never-0": "", "gone-0": "1", "kept-0": "2", "odd-0": ""}
    assert made.has(older) and not made.has(new) and not made.has(never)


def test_a_slice_whose_successor_of_the_same_name_is_not_understood_is_programmed_still():
    former = pool_slice({"a": "10.0.0.1"})
    made = said([former], [former], misread=[{"namespace": "test", "name": "shop-0", "uid": "slice-successor"}])
    assert {entry.uid: entry.version for entry in made.exceptions} == {"slice-shop": "1", "slice-successor": ""}


def test_nothing_is_acknowledged_when_more_is_to_be_excepted_than_a_report_can_say():
    pieces = [pool_slice({}, name=f"pool{number}") for number in range(5001)]
    assert len(said(pieces[1:], []).exceptions) == 5000
    assert said(pieces, []) == ProgrammedSlices()


def test_a_pod_is_listed_for_each_of_its_roles_once_the_api_server_tells_of_it():
    assert (report().servers, report().clients) == ((A, B), (B,))


def test_a_report_is_ready_unless_something_is_amiss():
    assert report().conditions[0].status == "True"
    failing = report(["tables: full"]).conditions[0]
    assert (failing.status, failing.reason, failing.message) == ("False", "Failing", "tables: full")


def test_a_pool_that_could_not_be_written_is_named_by_itself_and_in_the_nodes_condition():
    found = report(pool_faults=[FULL])
    assert found.faults == (FULL,)
    assert found.conditions[0].status == "False"
    assert found.conditions[0].message == "ServicePortPool test/shop keeps its former tables: table x is full"


def test_what_else_is_at_work_on_the_node_is_told_and_no_failure():
    found = report(findings=[LIMITED])
    assert (found.findings, found.conditions[0].status) == ((LIMITED,), "True")


def test_a_condition_keeps_the_time_of_its_last_change():
    later = NOW + timedelta(minutes=5)
    assert report(before=report(), now=later).conditions[0].last_transition_time == NOW
    assert report(["x"], before=report(), now=later).conditions[0].last_transition_time == later


def test_the_same_state_makes_the_same_report():
    assert report(before=report(), now=NOW + timedelta(seconds=9)) == report()


@pytest.mark.parametrize(("asked", "mode", "names"), [
    (Mode.AUTO, Mode.TCX, []), (Mode.AUTO, Mode.CLSACT, ["ClassicFilters"]), (Mode.CLSACT, Mode.CLSACT, []), (Mode.TCX, Mode.TCX, [])])
def test_what_the_kernel_has_not_is_told_and_what_somebody_chose_is_not(asked, mode, names):
    made = report(of=about(asked, mode, "5.15.0-91"))
    assert ([each.name for each in made.fallbacks], made.attach_mode, made.kernel) == (names, mode, "5.15.0-91")
    assert all("5.15.0-91 has no tcx links" in each.message for each in made.fallbacks)


@pytest.mark.parametrize("of", [about(), about(mode=Mode.CLSACT, kernel="6" * 300)])
def test_a_report_fits_its_schema(request, of):
    raw = yaml.safe_load((request.config.rootpath / "crds" / "nodereports.yaml").read_text())
    schema = raw["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    made = report(pool_faults=[FULL], findings=[LIMITED], of=of)
    jsonschema.validate(dump(made.model_copy(update={"updated_at": NOW})), schema)


def test_a_lease_says_how_long_it_is_good_for():
    spec = lease("node-1", "system", 40, NOW)["spec"]
    assert (spec["leaseDurationSeconds"], spec["renewTime"]) == (40, "2026-11-21T10:00:00.000000Z")


def test_a_nodes_addresses_are_its_ips():
    node = {"status": {"addresses": [{"type": "InternalIP", "address": "172.30.0.11"}, {"type": "Hostname", "address": "node-1"}]}}
    assert addresses_of(node) == {"172.30.0.11"}
    assert addresses_of({}) == frozenset()


def pod(since=NOW, **changes):
    return LocalPod(**{"namespace": "test", "name": "a", "uid": "0123456789", "addresses": ("10.0.0.1",), "injected": True, "ended": False,
                       "host_network": False, "gate_since": since, **changes})


@pytest.mark.parametrize(("attached_after_s", "now_after_s", "expected"), [
    (0.1, 60, []), (-5, 60, []), (9.9, 60, []), (10.1, 60, [LATE]), (None, 9, []), (None, 11, [MISSING])])
def test_a_pod_is_told_of_when_its_gate_opened_without_a_translator(attached_after_s, now_after_s, expected):
    attached = {} if attached_after_s is None else {"10.0.0.1": NOW + timedelta(seconds=attached_after_s)}
    assert [reason for _, reason, _ in untimely([pod()], attached, NOW + timedelta(seconds=now_after_s), 10.0)] == expected


@pytest.mark.parametrize("changes", [{"injected": False}, {"ended": True}, {"host_network": True}, {"gate_since": None}, {"addresses": ()}])
def test_a_pod_that_has_no_gate_is_not_told_of(changes):
    assert list(untimely([pod(**changes)], {}, NOW + timedelta(hours=1), 10.0)) == []


def test_a_pod_that_is_refused_a_translator_is_told_why_and_what_helps():
    [(told, reason, message)] = refused([pod(), pod(name="b"), pod(name="c", ended=True)], {"test/a": LIMITED, "test/c": LIMITED})
    assert (told.name, reason) == ("a", REFUSED)
    assert message == f"I{LIMITED.message[1:]}. Remedy: {LIMITED.remedy}."


def test_an_event_has_one_name_for_one_pod_and_reason():
    made = event(pod(), "node-1", LATE, "words", NOW)
    assert made["metadata"] == {"name": "a.01234567.translatorlate", "namespace": "test"}
    assert (made["involvedObject"]["uid"], made["type"]) == ("0123456789", "Warning")

"""What the API server is told, when, and how often."""

import time
from datetime import UTC, datetime

import pytest
from wharfinger_api import NodeReportStatus
from wharfinger_dataplane.agent import report as module
from wharfinger_dataplane.agent.heartbeat import Heartbeat
from wharfinger_dataplane.agent.report import REPORTS, Reporter

STATUS = f"{REPORTS}/node-1/status"
EVENTS = "/api/v1/namespaces/n/events"


@pytest.fixture
def reporter(api, cluster, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", (0.01, 0.05))
    api.answers["/api/v1/nodes/node-1"] = {"metadata": {"uid": "node-uid"}}
    reporter = Reporter(cluster, "node-1")
    reporter.start()
    yield reporter
    reporter.stop()


def status(version):
    return NodeReportStatus(agent_version=version)


def test_a_report_is_patched(api, reporter):
    reporter.report(status("1"))
    [(method, path, _, body)] = api.wait_written(1)
    assert (method, path, body["status"]["agentVersion"]) == ("PATCH", STATUS, "1")
    assert body["status"]["updatedAt"].endswith("Z")


def test_reports_in_quick_succession_are_one(api, reporter):
    for version in "1234":
        reporter.report(status(version))
    time.sleep(0.2)
    assert [body["status"]["agentVersion"] for _, _, _, body in api.written] == ["4"]


def test_the_same_report_is_not_sent_again(api, reporter):
    reporter.report(status("1"))
    api.wait_written(1)
    reporter.report(status("1"))
    time.sleep(0.1)
    assert len(api.written) == 1


def test_a_report_that_does_not_exist_is_made_and_owned_by_its_node(api, reporter):
    api.refuse["PATCH", STATUS] = 404
    reporter.report(status("1"))
    written = api.wait_written(3)
    assert [(method, path, code) for method, path, code, _ in written] == [("PATCH", STATUS, 404), ("POST", REPORTS, 200), ("PATCH", STATUS, 200)]
    assert written[1][3]["metadata"]["ownerReferences"][0]["uid"] == "node-uid"


def test_a_report_is_sent_again_until_it_is_taken(api, reporter):
    api.refuse["PATCH", STATUS] = 500
    reporter.report(status("1"))
    assert [code for _, _, code, _ in api.wait_written(2)] == [500, 200]


def test_an_event_that_is_there_already_is_of_no_matter(api, reporter):
    api.refuse["POST", EVENTS] = 409
    for name in ("a", "b"):
        reporter.tell({"metadata": {"name": name, "namespace": "n"}})
    assert [body["metadata"]["name"] for _, _, _, body in api.wait_written(2)] == ["a", "b"]
    time.sleep(0.1)
    assert len(api.written) == 2


def test_a_lease_is_renewed_or_made(api, cluster):
    heartbeat = Heartbeat(cluster, "node-1", "system", 10.0, 40, lambda: None)
    leases = "/apis/coordination.k8s.io/v1/namespaces/system/leases"
    heartbeat.beat(datetime.now(UTC))
    api.refuse["PATCH", f"{leases}/wharfinger-agent-node-1"] = 404
    heartbeat.beat(datetime.now(UTC))
    assert [(method, path) for method, path, _, _ in api.written] == [
        ("PATCH", f"{leases}/wharfinger-agent-node-1"), ("PATCH", f"{leases}/wharfinger-agent-node-1"), ("POST", leases)]

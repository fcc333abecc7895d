"""The agents of a real cluster: what they attach to and what they leave alone, how fast a gate opens, and that they may go at any time."""

import json
import re
import time
from datetime import UTC, datetime

import pytest
import yaml
from release import NAMESPACE, wait_for
from wharfinger_api import parse

TESTS = "agent-tests"
AGENT = "app.kubernetes.io/component=agent"
DAEMONSET = "daemonset/wharfinger-agent"
NOWHERE = {"spec": {"template": {"spec": {"nodeSelector": {"wharfinger.io/nowhere": "true"}}}}}


@pytest.fixture(scope="module")
def cluster(wharfinger):
    return wharfinger.cluster


@pytest.fixture(scope="module")
def namespace(cluster):
    """A namespace whose pods are injected; gone afterwards."""
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TESTS, "labels": {"wharfinger.io/inject": "enabled"}}})
    wait_for(lambda: cluster.kubectl("-n", TESTS, "get", "serviceaccount", "default", check=False), "a service account")
    yield TESTS
    cluster.kubectl("delete", "namespace", TESTS, "--wait=true")


def apply(cluster, *documents):
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(documents))


def get(cluster, *words):
    return json.loads(cluster.kubectl("get", *words, "-o", "json"))


def pod(name, node, **labels):
    """A pod of the example's image, on a node that is named, so that no scheduler's time is in any figure."""
    container = {"name": "app", "image": "wharfinger.local/shop:dev", "args": ["/shop/client.py", "idle"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": TESTS, "labels": labels},
            "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}}


def agents(cluster):
    """Node -> name of its agent's pod."""
    return {found["spec"]["nodeName"]: found["metadata"]["name"] for found in get(cluster, "pods", "-n", NAMESPACE, "-l", AGENT)["items"]
            if not found["metadata"].get("deletionTimestamp")}


def metrics(cluster, node):
    """Sample -> value, as the agent of `node` says."""
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:22342/metrics').read().decode())"
    text = cluster.kubectl("-n", NAMESPACE, "exec", agents(cluster)[node], "--", "python3", "-c", code)
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}


def reported(cluster, node, kind):
    return {found["pod"]: found["address"] for found in get(cluster, "nodereport", node)["status"].get(kind, [])}


def pins(cluster, node):
    """Pinned links: (interface, program)."""
    names = cluster.exec(node, "ls", "/sys/fs/bpf/wharfinger/links").split()
    return {tuple(name.split("-")) for name in names}


def test_a_pods_gate_opens_as_soon_as_its_sidecar_asks(cluster, namespace):
    names = [f"gate-{n}" for n in range(3)]
    for name in names:
        apply(cluster, pod(name, "node-1"))
        cluster.kubectl("-n", TESTS, "wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s")
    logs = [json.loads(cluster.kubectl("-n", TESTS, "logs", name, "-c", "wharfinger-sidecar").splitlines()[-1]) for name in names]
    print(f"start gates opened after {sorted(log['waited_ms'] for log in logs)} ms")
    assert {log["outcome"] for log in logs} == {"aware"}
    assert min(log["waited_ms"] for log in logs) < 500
    assert {f"{TESTS}/{name}" for name in names} <= wait_for(
        lambda: (found := reported(cluster, "node-1", "clients").keys()) >= {f"{TESTS}/{name}" for name in names} and found, "the report")


def test_only_pods_that_take_part_and_uplinks_bear_programs(cluster, namespace):
    apply(cluster, pod("plain", "node-2", **{"wharfinger.io/inject": "false"}))
    cluster.kubectl("-n", TESTS, "wait", "pod/plain", "--for=condition=Ready", "--timeout=60s")
    for node in agents(cluster):
        attached = {*reported(cluster, node, "servers").values(), *reported(cluster, node, "clients").values()}
        found = metrics(cluster, node)
        assert found['wharfinger_programs_attached{program="wharf_from_pod"}'] == len(attached)
        assert found['wharfinger_programs_attached{program="wharf_to_pod"}'] == len(attached)
        assert found['wharfinger_programs_attached{program="wharf_from_net"}'] == 1
        assert len(pins(cluster, node)) == 2 * len(attached) + 1
        assert found['wharfinger_table_entries{table="pods"}'] == len(attached)


def test_every_agent_acknowledges_every_slice(cluster):
    slices = [parse(found) for found in get(cluster, "serviceportslices", "-A")["items"]]
    assert slices
    for node in agents(cluster):
        report = parse(get(cluster, "nodereport", node))
        assert all(map(report.status.slices.has, slices))
        assert report.status.slices.exceptions == ()
        assert report.status.conditions[0].status == "True"
        assert get(cluster, "nodereport", node)["metadata"]["ownerReferences"][0]["name"] == node


def test_an_agent_shows_that_it_lives(cluster):
    for node in agents(cluster):
        spec = get(cluster, "lease", f"wharfinger-agent-{node}", "-n", NAMESPACE)["spec"]
        age_s = (datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"])).total_seconds()
        assert age_s < 15
        assert spec["leaseDurationSeconds"] == 40


def test_agents_may_do_all_that_they_try(cluster):
    for name in agents(cluster).values():
        log = cluster.kubectl("-n", NAMESPACE, "logs", name)
        entries = [json.loads(line) for line in log.splitlines()]
        assert [entry for entry in entries if entry["level"] not in ("info", "debug")] == []


def test_a_pod_that_ends_leaves_nothing_behind(cluster, namespace):
    apply(cluster, pod("short", "node-3"))
    cluster.kubectl("-n", TESTS, "wait", "pod/short", "--for=condition=Ready", "--timeout=60s")
    wait_for(lambda: f"{TESTS}/short" in reported(cluster, "node-3", "clients"), "the client's report")
    before = pins(cluster, "node-3")
    cluster.kubectl("-n", TESTS, "delete", "pod", "short", "--wait=true")
    wait_for(lambda: f"{TESTS}/short" not in reported(cluster, "node-3", "clients"), "the client's end")
    wait_for(lambda: len(before - pins(cluster, "node-3")) == 2, "the end of its programs, which stay as long as its last packets may")
    assert {program for _, program in before - pins(cluster, "node-3")} == {"wharf_from_pod", "wharf_to_pod"}


def test_an_agent_that_is_told_to_end_does_so_at_once(cluster):
    name = agents(cluster)["node-2"]
    started = time.monotonic()
    cluster.kubectl("-n", NAMESPACE, "delete", "pod", name, "--wait=true")
    took_s = time.monotonic() - started
    print(f"an agent was gone {took_s:.2f} s after the request to delete it")
    assert took_s < 5  # of a grace period of ten
    cluster.kubectl("-n", NAMESPACE, "rollout", "status", DAEMONSET, "--timeout=60s")


@pytest.fixture
def no_agents(cluster):
    """A while without any agent. What they attached stays."""
    selector = get(cluster, "-n", NAMESPACE, DAEMONSET)["spec"]["template"]["spec"]["nodeSelector"]
    cluster.kubectl("-n", NAMESPACE, "patch", DAEMONSET, "--type=merge", "-p", json.dumps(NOWHERE))
    wait_for(lambda: not agents(cluster), "the agents' end")

    def back():
        patch = [{"op": "replace", "path": "/spec/template/spec/nodeSelector", "value": selector}]
        cluster.kubectl("-n", NAMESPACE, "patch", DAEMONSET, "--type=json", "-p", json.dumps(patch))
        cluster.kubectl("-n", NAMESPACE, "rollout", "status", DAEMONSET, "--timeout=60s")

    yield back
    back()


def test_without_agents_programs_stay_and_a_new_pod_starts_unaware_and_is_told_of(cluster, namespace, no_agents):
    before = {node.name: pins(cluster, node.name) for node in cluster.nodes}
    apply(cluster, pod("late", "node-1"))
    cluster.kubectl("-n", TESTS, "wait", "pod/late", "--for=condition=Ready", "--timeout=60s")
    log = json.loads(cluster.kubectl("-n", TESTS, "logs", "late", "-c", "wharfinger-sidecar").splitlines()[-1])
    assert log["outcome"] == "unaware"
    assert {node.name: pins(cluster, node.name) for node in cluster.nodes} == before
    no_agents()
    events = wait_for(lambda: [found for found in get(cluster, "events", "-n", TESTS)["items"] if found["reason"] == "TranslatorLate"], "an Event")
    assert [found["involvedObject"]["name"] for found in events] == ["late"]
    assert f"{TESTS}/late" in reported(cluster, "node-1", "clients")

"""Nothing is assigned twice, ever: every version of every slice, while operators are killed or paused and pods come and go, is judged."""

from __future__ import annotations

import json
import os
import random
import threading
import time

import pytest
import yaml
from harms import standing
from recorder import Recorder
from release import NAMESPACE, wait_for
from support.history import judge

SPACE, API, REST_S = "assignments", "wharfinger.io/v1alpha1", 4.0
KILLS = 20
SEED = int(os.environ.get("WHARFINGER_SEED") or random.SystemRandom().randrange(1 << 32))


class Crowd:
    """A Deployment of servers that come and go, and two pools that share them, each with hardly more ports than there are servers."""

    def __init__(self, cluster, chance):
        self.cluster, self.chance = cluster, chance
        self._stop = threading.Event()
        self.moves = 0

    def kubectl(self, *words, **options):
        return self.cluster.kubectl("-n", SPACE, *words, **options)

    def make(self):
        security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
        container = {"name": "server", "image": "wharfinger.local/shop:dev", "args": ["/shop/client.py", "idle"], "imagePullPolicy": "IfNotPresent",
                     "ports": [{"name": "http", "containerPort": 8080}],
                     "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
        template = {"metadata": {"labels": {"app": "crowd", "wharfinger.io/inject": "false"}}, "spec": {
            "containers": [container], "securityContext": security, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}}
        documents = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}},
                     {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "crowd", "namespace": SPACE},
                      "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "crowd"}}, "template": template}}]
        for name, first in (("one", 21000), ("two", 22000)):
            documents += [
                {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": SPACE},
                 "spec": {"selector": {"app": "crowd"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}},
                {"apiVersion": API, "kind": "ServicePortPool", "metadata": {"name": name, "namespace": SPACE}, "spec": {
                    "virtualAddresses": {"service": {"name": name}}, "portRanges": [{"from": first, "to": first + 7}], "surgePercent": 0,
                    "servers": {"service": {"name": name}}, "targets": [{"name": "http", "targetPort": "http"}], "restTime": f"{REST_S:.0f}s"}}]
        self.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(documents))

    def records(self):
        return [record for piece in json.loads(self.kubectl("get", "serviceportslices", "-o", "json"))["items"]
                for record in piece["spec"].get("assignments", ())]

    def ready(self):
        return sum(record["state"] == "Ready" for record in self.records())

    def scale(self, replicas):
        self.kubectl("scale", "deployment/crowd", f"--replicas={replicas}")

    def stir(self):
        """Something comes or goes."""
        self.moves += 1
        if self.chance.random() < 0.5:
            self.scale(self.chance.randint(1, 6))
            return
        pods = self.kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.name}").split()
        if pods:
            force = self.chance.choice(([], ["--grace-period=0", "--force"]))
            force = self.chance.choice(([], ["--grace-period=0", "--force"]))
            self.kubectl("delete", "pod", self.chance.choice(pods), "--wait=false", *force, check=False)

    def settles(self, replicas):
        """All that should be Ready is, in both pools."""
        self.scale(replicas)
        wait_for(lambda: self.ready() == 2 * replicas, f"{replicas} servers to be Ready in both pools", seconds=120, every=0.5)

    def __enter__(self):
        self._stop.clear()

        def run():
            while not self._stop.wait(self.chance.uniform(0.2, 1.5)):
                self.stir()
        self._thread = threading.Thread(target=run, name="crowd")
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def cluster(wharfinger):
    return wharfinger.cluster


@pytest.fixture(scope="module")
def recorder(cluster):
    recorder = Recorder(cluster)
    recorder.start()
    return recorder


@pytest.fixture(scope="module")
def crowd(cluster, recorder):
    print(f"WHARFINGER_SEED={SEED}")
    cluster.kubectl("delete", "namespace", SPACE, "--ignore-not-found", "--wait=true", timeout_s=180)
    crowd = Crowd(cluster, random.Random(SEED))
    crowd.make()
    wait_for(lambda: crowd.ready() == 8, "the crowd's servers to be Ready", seconds=120, every=0.5)
    yield crowd
    cluster.kubectl("delete", "namespace", SPACE, "--wait=true", timeout_s=180)


def judged(recorder):
    found = judge(recorder.changes(), {"one": REST_S, "two": REST_S})
    print(f"{found.given} numbers given, {found.again} of them again")
    assert found.faults == []
    return found


def operators(cluster):
    """Pod -> restarts of those whose container runs."""
    return {pod: restarts for pod, (restarts, ready, _) in standing(cluster, "operator").items() if ready}


def test_nothing_is_assigned_twice_while_the_operator_is_killed_in_a_loop(cluster, recorder, crowd):
    (pod, restarts), = operators(cluster).items()
    with crowd:
        for kill in range(KILLS):
            wait_for(lambda count=restarts + kill: operators(cluster).get(pod) == count, f"the operator after {kill} kills", seconds=60)
            time.sleep(crowd.chance.uniform(0, 2))
            cluster.signal(NAMESPACE, pod, "operator", "SIGKILL")
    wait_for(lambda: operators(cluster).get(pod) == restarts + KILLS, "the operator after the last kill", seconds=60)
    crowd.settles(4)
    found = judged(recorder)
    print(f"{KILLS} kills, {crowd.moves} moves")
    assert found.again > 0


@pytest.fixture
def two_operators(cluster):
    """A second one, which waits for the Lease."""
    scale = ("-n", NAMESPACE, "scale", "deployment/wharfinger-operator")
    cluster.kubectl(*scale, "--replicas=2")
    try:
        wait_for(lambda: len(operators(cluster)) == 2, "two operators", seconds=90)
        yield operators(cluster)
    finally:
        cluster.kubectl(*scale, "--replicas=1")
        wait_for(lambda: len(operators(cluster)) == 1, "one operator", seconds=90)


def holder(cluster):
    """The pod that holds the operator's Lease."""
    return cluster.kubectl("-n", NAMESPACE, "get", "lease", "wharfinger-operator", "-o", "jsonpath={.spec.holderIdentity}").partition("_")[0]


def test_an_operator_that_was_paused_and_overtaken_writes_nothing_more(cluster, recorder, crowd, two_operators):
    former = holder(cluster)
    with crowd:
        time.sleep(crowd.chance.uniform(0, 2))
        cluster.signal(NAMESPACE, former, "operator", "SIGSTOP")
        try:
            wait_for(lambda: holder(cluster) != former, "the other operator to take over", seconds=90)
            crowd_at = crowd.moves
            wait_for(lambda: crowd.moves > crowd_at + 2, "pods to come and go", seconds=60)
        finally:
            cluster.signal(NAMESPACE, former, "operator", "SIGCONT")
        wait_for(lambda: operators(cluster).get(former, 0) > two_operators[former], "the former operator to end itself", seconds=90)
    assert holder(cluster) != former
    crowd.settles(3)
    judged(recorder)


def test_the_judge_is_told_of_everything(recorder, crowd):
    """The history is whole: what stands now is what its last versions say."""
    last = {}
    for change in sorted(recorder.changes(), key=lambda change: change.revision):
        if change.raw["kind"] == "ServicePortSlice" and change.raw["metadata"]["namespace"] == SPACE:
            last[change.raw["metadata"]["name"]] = change.raw["spec"].get("assignments", [])
    standing_now = {piece["metadata"]["name"]: piece["spec"].get("assignments", [])
                    for piece in json.loads(crowd.kubectl("get", "serviceportslices", "-o", "json"))["items"]}
    assert {name: last[name] for name in standing_now} == standing_now

"""A release's whole life by Helm 3 and by Helm 4, under traffic: installed, upgraded, rolled back, and gone without a trace.

An upgrade here is another image tag, so every pod of ours is replaced, and another size of a kernel table, so every connection is carried to
other maps. These tests come last: they take the release away.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from agents import counters
from held import Held
from release import IMAGES, NAMESPACE, Release, wait_for

TOP = Path(__file__).resolve().parents[2]
CHART = str(TOP / "charts" / "wharfinger")
COUNT, GRACE_S = 210, 20
SETTINGS = (f"uninstall.gracePeriodSeconds={GRACE_S}", "agent.updateStrategy.rollingUpdate.maxUnavailable=3")
UPGRADE = ("image.tag=next", "agent.capacities.flows=131072")
COMPONENTS = ("operator", "injector", "agent")
INSIDE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from pyroute2 import IPRoute
from support.programs import attached, exists
before = json.loads(sys.argv[2])
with IPRoute() as routes:
    indexes = [link["index"] for link in routes.get_links()]
print(json.dumps({"programs": sorted({number for index in indexes for number in attached(index)}), "pins": Path("/sys/fs/bpf/wharfinger").exists(),
                  "alive": [number for number in before if exists("program", number)]}))
"""


@dataclass
class Cycle:
    """One life of the release under `program` (helm or helm3), with its traffic."""

    release: Release
    program: str
    held: Held
    programs: dict[str, list[int]] = field(default_factory=dict)

    @property
    def cluster(self):
        return self.release.cluster

    def helm(self, *words: str) -> str:
        return self.cluster.helm(*words, "--namespace", NAMESPACE, program=self.program)

    def pods(self) -> dict[str, str]:
        """Name -> component of the release's pods that run."""
        found = json.loads(self.cluster.kubectl("-n", NAMESPACE, "get", "pods", "-o", "json"))["items"]
        return {pod["metadata"]["name"]: pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in found
                if not pod["metadata"].get("deletionTimestamp")}

    def in_kernel(self, node: str) -> dict:
        """What the kernel of a node's interfaces says: programs attached, whether anything is pinned, which of the former programs live."""
        words = [sys.executable, "-c", INSIDE, str(TOP / "tests"), json.dumps(self.programs.get(node, []))]
        return json.loads(self.cluster.exec(node, *words))

    def settled(self) -> dict:
        """What the traffic saw, once each held connection has been asked again, and new ones made, since this call."""
        before = self.held.look()
        return wait_for(lambda: (now := self.held.look())["asked"] >= before["asked"] + 2 * now["held"] and now["new"] > before["new"] and now,
                        "answers on all connections", seconds=90)


@pytest.fixture(scope="module", params=["helm3", "helm"])
def cycle(request: pytest.FixtureRequest, wharfinger: Release) -> Iterator[Cycle]:
    """Installed anew, the shop served, and 210 aware connections open."""
    cluster = wharfinger.cluster
    for node in cluster.nodes:
        for name in IMAGES:
            enter = cluster.exec_command(node.name, "ctr", "--namespace=k8s.io", "images", "tag", "--force")
            subprocess.run([*enter, f"wharfinger.local/{name}:dev", f"wharfinger.local/{name}:next"], check=True, capture_output=True)
    if cluster.helm("status", "wharfinger", "--namespace", NAMESPACE, check=False):
        cluster.helm("uninstall", "wharfinger", "--namespace", NAMESPACE)
    wharfinger.install(*SETTINGS, program=request.param)
    wharfinger.shop()
    address = cluster.kubectl("-n", "shop", "get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}").strip()
    before = counters(cluster)["to_pod", "client_redirected"]
    with Held(cluster, address, COUNT) as held:
        wait_for(lambda: held.look()["held"] == COUNT, "all connections open", seconds=60)
        assert counters(cluster)["to_pod", "client_redirected"] - before >= COUNT
        yield Cycle(wharfinger, request.param, held)


def unbroken(cycle: Cycle) -> None:
    seen = cycle.settled()
    assert (seen["ended"], seen["failed"], seen["held"]) == ([], [], COUNT)


def replaced(cycle: Cycle, before: dict[str, str]) -> None:
    now = cycle.pods()
    assert not now.keys() & before.keys()
    assert set(now.values()) == set(COMPONENTS)


def test_an_upgrade_that_replaces_every_pod_and_table_breaks_no_connection(cycle):
    before = cycle.pods()
    settings = [word for setting in (*SETTINGS, *UPGRADE) for word in ("--set", setting)]
    cycle.helm("upgrade", "wharfinger", CHART, *settings, "--wait", "--timeout", "180s")
    wait_for(lambda: not cycle.pods().keys() & before.keys(), "the former pods' end")
    replaced(cycle, before)
    unbroken(cycle)


def test_a_roll_back_breaks_no_connection(cycle):
    before = cycle.pods()
    cycle.helm("rollback", "wharfinger", "1", "--wait", "--timeout", "180s")
    wait_for(lambda: not cycle.pods().keys() & before.keys(), "the former pods' end")
    replaced(cycle, before)
    unbroken(cycle)


def test_uninstalling_gives_connections_their_grace_and_breaks_no_new_one(cycle):
    cycle.programs.update({node.name: cycle.in_kernel(node.name)["programs"] for node in cycle.cluster.nodes})
    assert all(cycle.programs.values())
    began = time.time()
    words = [str(cycle.cluster.program(cycle.program)), "uninstall", "wharfinger", "--namespace", NAMESPACE]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=cycle.cluster.environment()) as uninstall:
        wait_for(lambda: cycle.cluster.kubectl("-n", NAMESPACE, "get", "configmap", "wharfinger-uninstall", check=False), "the marker", seconds=60)
        cycle.held.close_half()
        wait_for(lambda: cycle.held.look()["held"] <= COUNT // 2, "half of the connections to end in order", seconds=60)
        said, _ = uninstall.communicate(timeout=240)
    assert uninstall.returncode == 0, said
    assert "were ended with RST" in said, said
    seen = wait_for(lambda: not (now := cycle.held.look())["held"] and now, "the others' end", seconds=30)
    assert len(seen["ended"]) == COUNT // 2
    assert min(moment for moment, _ in seen["ended"]) - began >= GRACE_S
    assert not [how for _, how in seen["ended"] if "Connection" not in how and "Incomplete" not in how], seen["ended"]
    assert seen["failed"] == []
    wait_for(lambda: cycle.held.look()["new"] > seen["new"], "new connections, unaware")


def test_after_uninstalling_nothing_is_left(cycle):
    kubectl = cycle.cluster.kubectl
    for node in cycle.cluster.nodes:
        wait_for(lambda name=node.name: cycle.in_kernel(name) == {"programs": [], "pins": False, "alive": []}, f"an empty kernel on {node.name}")
    kinds = kubectl("api-resources", "--api-group=wharfinger.io", "-o", "name").split()
    assert len(kinds) == 4
    for kind in kinds:
        assert json.loads(kubectl("get", kind, "-A", "-o", "json"))["items"] == []
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations", "clusterroles", "clusterrolebindings"):
        assert "wharfinger" not in kubectl("get", kind, "-o", "name")
    own = "all,configmaps,secrets,serviceaccounts,leases,roles,rolebindings,poddisruptionbudgets"
    wait_for(lambda: kubectl("-n", NAMESPACE, "get", own, "-o", "name").split() == ["configmap/kube-root-ca.crt", "serviceaccount/default"],
             "an empty namespace")
    for kind in ("pods", "services", "nodes", "namespaces", "customresourcedefinitions"):
        assert not [found["metadata"]["name"] for found in json.loads(kubectl("get", kind, "-A", "-o", "json"))["items"]
                    if any("wharfinger" in name for name in found["metadata"].get("finalizers", ()))]

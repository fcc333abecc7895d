"""A release's whole life by Helm 3 and by Helm 4, under traffic: installed, upgraded, rolled back, and gone without a trace.

An upgrade here is another image tag, so every pod of ours is replaced, and another size of a kernel table, so every connection is carried to
other maps. These tests come last: they take the release away.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import kernel
import pytest
import yaml
from agents import counters
from held import Held
from release import IMAGES, NAMESPACE, Release, wait_for
from support.programs import exists

TOP = Path(__file__).resolve().parents[2]
CHART = str(TOP / "charts" / "wharfinger")
COUNT, GRACE_S = 210, 20
ELDERS = 20
SETTINGS = (f"uninstall.gracePeriodSeconds={GRACE_S}", "agent.updateStrategy.rollingUpdate.maxUnavailable=3")
UPGRADE = ("image.tag=next", "agent.capacities.flows=131072")
COMPONENTS = ("operator", "injector", "agent")
KINDS = ("program", "map")
ENFORCE = "pod-security.kubernetes.io/enforce"
CREATED = ("customresourcedefinitions", "mutatingwebhookconfigurations", "clusterroles", "clusterrolebindings", "roles", "deployments",
           "daemonsets", "secrets")
KEPT = ("CustomResourceDefinition", "APIService", "Namespace", "Event")
"""Kinds whose objects may bear our name when the release is gone: definitions stay with what users wrote, the namespace is the user's."""


@dataclass
class Cycle:
    """One life of the release under `program` (helm or helm3), with its traffic. `elders`: connections that are older than the release; `held`:
    aware ones. `bare`: what each node's kernel had before the release; `used`: numbers of the programs and maps that were at work since."""

    release: Release
    program: str
    elders: Held
    held: Held
    bare: dict[str, dict]
    used: dict[str, set[int]] = field(default_factory=lambda: {kind: set() for kind in KINDS})

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

    def note_used(self) -> None:
        """Remembers the programs and maps that are at work on the nodes now."""
        for node in self.cluster.nodes:
            found = in_kernel(self.cluster, node.name)
            for kind in KINDS:
                assert found[f"{kind}s"]
                self.used[kind].update(found[f"{kind}s"])


def in_kernel(cluster, node: str) -> dict:
    """What the kernel has for a node, by its own word."""
    return json.loads(cluster.exec(node, sys.executable, kernel.__file__))


def removed(cluster) -> None:
    """There is no release, and nothing of one in any kernel."""
    if cluster.helm("status", "wharfinger", "--namespace", NAMESPACE, check=False):
        cluster.helm("uninstall", "wharfinger", "--namespace", NAMESPACE)
    for node in cluster.nodes:
        wait_for(lambda name=node.name: not ((found := in_kernel(cluster, name))["programs"] or "wharfinger" in str(found["pins"])),
                 f"no program and no pin on {node.name}")


@pytest.fixture(scope="module", params=["helm3", "helm"])
def cycle(request: pytest.FixtureRequest, wharfinger: Release) -> Iterator[Cycle]:
    """Installed anew while connections were open, the shop served, and 210 aware connections open."""
    cluster = wharfinger.cluster
    for node in cluster.nodes:
        for name in IMAGES:
            enter = cluster.exec_command(node.name, "ctr", "--namespace=k8s.io", "images", "tag", "--force")
            subprocess.run([*enter, f"wharfinger.local/{name}:dev", f"wharfinger.local/{name}:next"], check=True, capture_output=True)
    removed(cluster)
    bare = {node.name: in_kernel(cluster, node.name) for node in cluster.nodes}
    address = cluster.kubectl("-n", "shop", "get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}").strip()
    servers = cluster.kubectl("-n", "shop", "get", "pods", "-l", "app.kubernetes.io/name=shop", "-o", "jsonpath={.items[*].status.podIP}").split()
    with Held(cluster, [(address, 80), *((server, 8080) for server in servers)], ELDERS) as elders:
        elders.opened()
        wharfinger.install(*SETTINGS, program=request.param)
        wharfinger.shop()
        before, others = counters(cluster)["to_pod", "client_redirected"], elders.look()["new"] + 1
        with Held(cluster, [(address, 80)], COUNT) as held:
            others = held.opened()["new"] + elders.look()["new"] - others
            assert counters(cluster)["to_pod", "client_redirected"] - before >= COUNT + others
            yield Cycle(wharfinger, request.param, elders, held, bare)


def unbroken(cycle: Cycle) -> None:
    cycle.note_used()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Held.unbroken, (cycle.elders, cycle.held)))


def replaced(cycle: Cycle, before: dict[str, str]) -> None:
    now = cycle.pods()
    assert not now.keys() & before.keys()
    assert set(now.values()) == set(COMPONENTS)


def test_installing_breaks_no_connection_that_is_open_and_no_new_one(cycle):
    """Those that are open go straight to pods and by kube-proxy."""
    unbroken(cycle)


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
    cycle.note_used()
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
    cycle.elders.unbroken()


def test_after_uninstalling_no_kernel_has_a_program_map_pin_queue_or_rule_of_ours(cycle):
    for node in cycle.cluster.nodes:
        wait_for(lambda name=node.name: in_kernel(cycle.cluster, name) == cycle.bare[name], f"the kernel of {node.name} as it was before")
    for kind, numbers in cycle.used.items():
        wait_for(lambda kind=kind, numbers=numbers: not [number for number in numbers if exists(kind, number)], f"the end of all {kind}s")


def test_after_uninstalling_the_api_server_has_nothing_of_ours_but_definitions(cycle):
    kubectl = cycle.cluster.kubectl
    own = "all,configmaps,secrets,serviceaccounts,leases,roles,rolebindings,poddisruptionbudgets,networkpolicies,endpointslices"
    wait_for(lambda: kubectl("-n", NAMESPACE, "get", own, "-o", "name").split() == ["configmap/kube-root-ca.crt", "serviceaccount/default"],
             "an empty namespace")
    kinds = kubectl("api-resources", "--verbs=list", "-o", "name").split()
    assert len([kind for kind in kinds if kind.endswith(".wharfinger.io")]) == 4
    found = json.loads(kubectl("get", ",".join(kinds), "-A", "-o", "json"))["items"]
    assert {item["kind"] for item in found} >= {"Pod", "Node", "CustomResourceDefinition", "ClusterRole"}
    assert [name(item) for item in found if item["apiVersion"].startswith("wharfinger.io/")] == []
    assert [name(item) for item in found if "wharfinger" in item["metadata"]["name"] and item["kind"] not in KEPT] == []
    assert [name(item) for item in found if "wharfinger" in str(item["metadata"].get("finalizers"))] == []
    assert [name(item) for item in found if "wharfinger" in str(item.get("webhooks"))] == []


def name(item: dict) -> str:
    return f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


@pytest.fixture
def bare(wharfinger: Release) -> Release:
    """A cluster that never had a release, as far as its API server knows."""
    cluster = wharfinger.cluster
    removed(cluster)
    definitions = cluster.kubectl("get", "customresourcedefinitions", "-o", "name").split()
    ours = [definition for definition in definitions if definition.endswith(".wharfinger.io")]
    if ours:
        cluster.kubectl("delete", *ours)
    return wharfinger


def can_be_installed(release: Release) -> bool:
    code, view = release.command("check")
    return (code, view["installed"], view["problems"]) == (0, False, []) and all(question["well"] for question in view["questions"])


def test_check_of_a_cluster_without_a_release_says_that_it_can_be_installed(bare):
    assert can_be_installed(bare)


OLD_NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "old"}, "spec": {"unschedulable": True}}
FORMER_WEBHOOK = {
    "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
    "metadata": {"name": "former-injector", "labels": {"app.kubernetes.io/name": "wharfinger"}},
    "webhooks": [{"name": "former.inject.wharfinger.io", "clientConfig": {"service": {"name": "none", "namespace": NAMESPACE}},
                  "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
                  "namespaceSelector": {"matchLabels": {"former": "true"}},
                  "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}]}
OTHER_DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "serviceportpools.wharfinger.io"},
    "spec": {"group": "wharfinger.io", "scope": "Namespaced", "names": {"plural": "serviceportpools", "kind": "ServicePortPool"},
             "versions": [{"name": "v9", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}
IN_THE_WAY = {
    f"namespace {NAMESPACE}": ("enforces the Pod Security Standard restricted", f"kubectl label namespace {NAMESPACE}"),
    "MutatingWebhookConfiguration former-injector": ("no release is", "kubectl delete mutatingwebhookconfiguration former-injector"),
    "node old": ("has kernel 5.10", "agent.nodeSelector"),
    "CustomResourceDefinition serviceportpools.wharfinger.io": ("serves v9 and not v1alpha1", "crds.install"),
}


def test_check_names_what_is_in_an_installations_way_and_its_commands_remove_it(bare):
    kubectl = bare.cluster.kubectl
    try:
        kubectl("label", "namespace", NAMESPACE, f"{ENFORCE}=restricted", "--overwrite")
        kubectl("apply", "-f", "-", input=yaml.safe_dump_all([OLD_NODE, FORMER_WEBHOOK, OTHER_DEFINITION]))
        kubectl("patch", "node", "old", "--subresource=status", "--type=merge", "-p", json.dumps({"status": {"nodeInfo": {
            "kernelVersion": "5.10.0-30-amd64", "operatingSystem": "linux", "architecture": "amd64"}}}))
        kubectl("wait", "--for=condition=Established", "customresourcedefinition/serviceportpools.wharfinger.io")
        code, view = bare.command("check")
        problems = {problem["where"]: problem for problem in view["problems"]}
        assert (code, view["installed"], problems.keys()) == (1, False, IN_THE_WAY.keys())
        for where, (what, remedy) in IN_THE_WAY.items():
            assert what in problems[where]["what"]
            assert remedy in problems[where]["remedy"]
        for command in [problem["remedy"] for problem in problems.values() if problem["remedy"].startswith("kubectl ")]:
            kubectl(*shlex.split(command)[1:])
        kubectl("delete", "node/old", "customresourcedefinition/serviceportpools.wharfinger.io")
        assert can_be_installed(bare)
    finally:
        kubectl("label", "namespace", NAMESPACE, f"{ENFORCE}=privileged", "--overwrite")
        kubectl("delete", "node/old", "mutatingwebhookconfiguration/former-injector", "customresourcedefinition/serviceportpools.wharfinger.io",
                "--ignore-not-found")


def test_check_tells_who_may_only_look_what_an_installation_would_be_refused(bare, tmp_path):
    kubectl, subject = bare.cluster.kubectl, {"kind": "ServiceAccount", "name": "onlooker", "namespace": "default"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "onlooker"}
    documents = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "onlooker", "namespace": "default"}},
                 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "onlooker"},
                  "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]},
                 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "onlooker"},
                  "roleRef": role, "subjects": [subject]}]
    kubectl("apply", "-f", "-", input=yaml.safe_dump_all(documents))
    try:
        kubeconfig = json.loads(kubectl("config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
        kubeconfig["users"][0]["user"] = {"token": kubectl("-n", "default", "create", "token", "onlooker").strip()}
        (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
        code, view = bare.command("check", "--kubeconfig", str(tmp_path / "kubeconfig"))
    finally:
        kubectl("delete", "-f", "-", input=yaml.safe_dump_all(documents))
    told = {problem["what"] for problem in view["problems"]}
    assert (code, {problem["where"] for problem in view["problems"]}) == (1, {"you"})
    assert {f"may not create {resource}, which an installation does" for resource in CREATED} <= told
    assert all("administrator" in problem["remedy"] for problem in view["problems"])

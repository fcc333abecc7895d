"""NetworkPolicies on a real cluster, with the rules that an engine would make of them on every node: in iptables with ipset, and in nftables.

What a policy denies stays denied, whatever the pod sends; what it allows goes unaware; and it is said why."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from release import NAMESPACE, wait_for
from support.packets import REDIRECT, option, tcp
from support.policies import FORMS, Selected, enforce, relax
from wharfinger_api import parse

SPACE = "policy-tests"
SOURCES = Path(__file__).parents[2]
DIAL = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as connection:
        connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print("reached", len(connection.recv(1000)) > 0)
except OSError as error:
    print("denied", error)
"""
FORGE = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as channel:
    for packet in sys.argv[2:]:
        channel.sendto(bytes.fromhex(packet), (sys.argv[1], 0))
"""
EAGER = """
import socket, time
tries = reached = 0
until = time.monotonic() + 4
while time.monotonic() < until:
    tries += 1
    try:
        socket.create_connection(("%s", %d), timeout=0.05).close()
        reached += 1
    except OSError:
        time.sleep(0.01)
print(tries, reached, flush=True)
time.sleep(3600)
"""
PODS = {  # name: node, labels
    "till": ("node-2", {"app": "till", "wharfinger.io/inject": "false"}),
    "friend": ("node-1", {"access": "yes"}),
    "foe": ("node-2", {"role": "foe"}),
    "wary": ("node-3", {"role": "wary"}),
    "hostile": ("node-3", {"role": "wary", "wharfinger.io/inject": "false"}),
}


class Scene:
    """The pods, the pool and the engine's rules."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.nodes = [node.name for node in cluster.nodes]
        self.addresses = {}

    def apply(self, *documents):
        self.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(documents))

    def get(self, *words):
        return json.loads(self.cluster.kubectl("-n", SPACE, "get", *words, "-o", "json"))

    def on(self, node):
        def run(words, *, input=""):
            subprocess.run(self.cluster.exec_command(node, *words), input=input, text=True, check=True, capture_output=True)
        return run

    def enforce(self, form, node, *selected):
        """An engine's rules about a pod stand on the pod's own node."""
        enforce(form, self.on(node), selected)

    def relax(self, form):
        for node in self.nodes:
            relax(form, self.on(node))

    def execute(self, pod, code, *words):
        return self.cluster.kubectl("-n", SPACE, "exec", pod, "-c", "app", "--", "python3", "-c", code, *map(str, words))

    def reaches(self, pod, address, port, *, seconds=20):
        return self.execute(pod, DIAL, address, port, seconds).startswith("reached True")

    def forge(self, pod, *ports):
        """Aware SYNs to the server that no stack wrote."""
        packets = [tcp(f"{self.addresses[pod]}:45000", f"{self.server}:{port}", "S", options=option(REDIRECT, scope=self.scope))[14:].hex()
                   for port in ports]
        self.execute(pod, FORGE, self.server, *packets)

    @property
    def server(self):
        return self.addresses["till"]

    def assignment(self):
        return next(record for piece in self.get("serviceportslices")["items"] for record in piece["spec"].get("assignments", ())
                    if record["server"] == f"{SPACE}/till" and record["state"] != "Resting")

    def acknowledged(self):
        """Whether every agent has programmed the slices as they stand."""
        slices = [parse(piece) for piece in self.get("serviceportslices")["items"]]
        reports = [parse(report) for report in json.loads(self.cluster.kubectl("get", "nodereports", "-o", "json"))["items"]]
        return all(report.status.slices.has(piece) for report in reports for piece in slices)

    def condition(self, kind, aspect):
        found = self.get(kind, "till").get("status", {}).get("conditions", ())
        return next(((each["status"], each["message"]) for each in found if each["type"] == aspect), ("", ""))

    def counts(self, node):
        """(hook, reason) -> packets, as the agent of `node` says."""
        agent = json.loads(self.cluster.kubectl("-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/component=agent",
                                                "--field-selector", f"spec.nodeName={node}", "-o", "json"))["items"][0]["metadata"]["name"]
        code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:22342/metrics').read().decode())"
        text = self.cluster.kubectl("-n", NAMESPACE, "exec", agent, "--", "python3", "-c", code)
        return Counter({(hook, reason): int(float(n)) for hook, reason, n in
                        re.findall(r'^wharfinger_packets_total\{hook="(\w+)",reason="(\w+)"[^}]*\} (\S+)$', text, re.MULTILINE)})

    def policy_in_report(self, node, kind, pod):
        entries = json.loads(self.cluster.kubectl("get", "nodereport", node, "-o", "json"))["status"].get(kind, ())
        return next((entry.get("policy", "") for entry in entries if entry["pod"] == f"{SPACE}/{pod}"), None)

    def wharfinger(self, *words):
        """What the command line says."""
        environment = {**self.cluster.environment(), "PYTHONPATH": os.pathsep.join(str(SOURCES / root) for root in ("crds", "dataplane", "cli"))}
        return subprocess.run([sys.executable, "-m", "wharfinger_cli", *words], env=environment, capture_output=True, text=True, timeout=60).stdout

    def events(self, kind, name):
        return [event["message"] for event in self.get("events")["items"]
                if event["reason"] == "NetworkPolicy" and (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == (kind, name)]


def pod(name, node, labels, args):
    container = {"name": "app", "image": "wharfinger.local/shop:dev", "args": args,
                 "env": [{"name": "POD_NAME", "value": name}, {"name": "NODE_NAME", "value": node}],
                 "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_RAW"]}}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SPACE, "labels": labels},
            "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}}


def ours(kind, spec):
    return {"apiVersion": "wharfinger.io/v1alpha1", "kind": kind, "metadata": {"name": "till", "namespace": SPACE}, "spec": spec}


def policy(name, selects, **spec):
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": SPACE},
            "spec": {"podSelector": {"matchLabels": selects}, **spec}}


@pytest.fixture(scope="module")
def scene(wharfinger):
    scene = Scene(wharfinger.cluster)
    kubectl = wharfinger.cluster.kubectl
    scene.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": {"wharfinger.io/inject": "enabled"}}})
    wait_for(lambda: kubectl("-n", SPACE, "get", "serviceaccount", "default", check=False), "a service account")
    scene.apply(*(pod(name, node, labels, ["/shop/server.py"] if name == "till" else ["/shop/client.py", "idle"])
                  for name, (node, labels) in PODS.items()),
                {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "till", "namespace": SPACE},
                 "spec": {"selector": {"app": "till"}, "ports": [{"port": 80, "targetPort": 8080}]}},
                ours("ServicePortPool", {"virtualAddresses": {"service": {"name": "till"}}, "portRanges": [{"from": 20000, "to": 20099}],
                                         "servers": {"service": {"name": "till"}}, "targets": [{"name": "http", "targetPort": 8080}]}),
                ours("RedirectPortPool", {"servicePortPool": {"name": "till"}, "target": "http", "ports": [{"from": 80, "to": 80}]}))
    kubectl("-n", SPACE, "wait", "pods", "--all", "--for=condition=Ready", "--timeout=90s", timeout_s=100)
    kubectl("-n", SPACE, "wait", "redirectportpool/till", "--for=condition=Programmed", "--timeout=60s", timeout_s=70)
    wait_for(lambda: scene.assignment()["state"] == "Ready", "the server is Ready")
    scene.addresses = {each["metadata"]["name"]: each["status"]["podIP"] for each in scene.get("pods")["items"]}
    scene.virtual = scene.get("service", "till")["spec"]["clusterIP"]
    scene.scope = scene.get("serviceportslices")["items"][0]["spec"]["scope"]
    scene.service_port = scene.assignment()["targets"][0]["servicePorts"][0]
    wait_for(lambda: {scene.policy_in_report(PODS[name][0], "clients", name) for name in ("friend", "foe", "wary")} == {""}, "aware clients")
    yield scene
    kubectl("delete", "namespace", SPACE, "--wait=true", timeout_s=90)


@pytest.fixture(params=FORMS)
def form(scene, request):
    """How the engine writes its rules; without rules or policies afterwards."""
    yield request.param
    scene.cluster.kubectl("-n", SPACE, "delete", "networkpolicy", "--all")
    scene.relax(request.param)
    wait_for(lambda: scene.assignment()["state"] == "Ready" and not scene.policy_in_report("node-3", "clients", "wary"), "no policy any more")


def test_what_the_servers_policy_denies_stays_denied_and_what_it_allows_goes_unaware(scene, form):
    aware = scene.counts("node-2")["to_pod", "server_joined"]
    assert scene.reaches("foe", scene.virtual, 80)
    scene.apply(policy("only-friends", {"app": "till"}, policyTypes=["Ingress"], ingress=[
        {"from": [{"podSelector": {"matchLabels": {"access": "yes"}}}], "ports": [{"port": 8080, "protocol": "TCP"}]}]))
    scene.enforce(form, "node-2", Selected("Ingress", scene.server, [(scene.addresses["friend"], 8080, 8080)]))
    wait_for(lambda: scene.assignment()["state"] == "Draining", "the server leaves the set")
    wait_for(lambda: scene.policy_in_report("node-2", "servers", "till") == f"{SPACE}/only-friends", "the agent's report")
    wait_for(scene.acknowledged, "every agent knows")
    before = {node: scene.counts(node) for node in ("node-1", "node-2")}
    assert before["node-2"]["to_pod", "server_joined"] > aware
    assert not any(scene.reaches(name, scene.virtual, 80) for name in ("foe", "hostile"))
    assert not scene.reaches("hostile", scene.server, scene.service_port)
    assert scene.reaches("friend", scene.virtual, 80)
    scene.forge("hostile", 80, scene.service_port)
    wait_for(lambda: (scene.counts("node-2") - before["node-2"])["from_net", "policy_server"] >= 2, "forged options are dropped")
    assert (scene.counts("node-1") - before["node-1"])["from_pod", "no_server"] >= 1
    since = scene.counts("node-2") - before["node-2"]
    assert [since["to_pod", reason] for reason in ("server_syn", "server_syn_service", "server_joined")] == [0, 0, 0]
    status, message = scene.condition("serviceportpool", "Policed")
    assert status == "True"
    assert f"1 of 1 servers are unaware by rule, as NetworkPolicy {SPACE}/only-friends selects them for ingress: {SPACE}/till" in message
    wait_for(lambda: message in scene.events("ServicePortPool", "till"), "an Event")
    assert f"NetworkPolicy {SPACE}/only-friends" in scene.wharfinger("status")
    assert f"{SPACE}/till is Draining, as NetworkPolicy {SPACE}/only-friends selects it" in scene.wharfinger("explain", f"{scene.virtual}:80")
    scene.cluster.kubectl("-n", SPACE, "delete", "networkpolicy", "only-friends")
    scene.relax(form)
    wait_for(lambda: scene.condition("serviceportpool", "Policed")[0] == "False" and scene.assignment()["state"] == "Ready", "aware again")
    wait_for(scene.acknowledged, "every agent knows")
    assert scene.reaches("foe", scene.virtual, 80)
    assert scene.counts("node-2")["to_pod", "server_joined"] > before["node-2"]["to_pod", "server_joined"]


def test_what_a_pods_own_policy_denies_stays_denied_by_whatever_port_or_option_it_tries(scene, form):
    assert scene.reaches("hostile", scene.server, scene.service_port)
    scene.apply(policy("numbers", {"role": "wary"}, policyTypes=["Egress"], egress=[
        {"to": [{"podSelector": {"matchLabels": {"app": "till"}}}], "ports": [{"port": 20000, "endPort": 30000, "protocol": "TCP"}]}]))
    scene.enforce(form, "node-3", *[Selected("Egress", scene.addresses[name], [(scene.server, 20000, 30000)]) for name in ("wary", "hostile")])
    wait_for(lambda: scene.policy_in_report("node-3", "clients", "wary") == f"{SPACE}/numbers", "the agent's report")
    before = {node: scene.counts(node) for node in ("node-2", "node-3")}
    scene.apply(pod("late", "node-3", {"role": "wary", "wharfinger.io/inject": "false"}, ["-c", EAGER % (scene.server, scene.service_port)]))
    assert not scene.reaches("wary", scene.virtual, 80)
    assert not any(scene.reaches(name, scene.server, scene.service_port, seconds=1) for name in ("wary", "hostile"))
    scene.forge("hostile", 80, scene.service_port)
    tries, reached = wait_for(lambda: scene.cluster.kubectl("-n", SPACE, "logs", "late", check=False).split(), "the late pod's tries", seconds=60)
    assert (int(tries) > 0, int(reached)) == (True, 0)
    since = scene.counts("node-3") - before["node-3"]
    assert since["from_pod", "policy_client"] >= 1
    assert since["from_pod", "policy_service_port"] >= 2 + int(tries) // 2
    assert since["from_pod", "forged_option"] == 2
    since = scene.counts("node-2") - before["node-2"]
    assert [since["to_pod", reason] for reason in ("server_syn", "server_syn_service", "server_joined")] == [0, 0, 0]
    said = scene.wharfinger("explain", f"{scene.virtual}:80", "--from", f"{scene.addresses['wary']}:40000")
    assert "policy_client" in said
    assert f"NetworkPolicy {SPACE}/numbers selects it for egress" in said
    wait_for(lambda: any(f"NetworkPolicy {SPACE}/numbers selects this pod for egress" in message for message in scene.events("Pod", "wary")),
             "an Event")
    scene.cluster.kubectl("-n", SPACE, "delete", "networkpolicy/numbers", "pod/late")
    scene.relax(form)
    wait_for(lambda: scene.policy_in_report("node-3", "clients", "wary") == "", "aware again")
    joined = scene.counts("node-2")["to_pod", "server_joined"]
    assert scene.reaches("wary", scene.virtual, 80)
    assert scene.counts("node-2")["to_pod", "server_joined"] > joined

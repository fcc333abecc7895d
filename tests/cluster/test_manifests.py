"""Wrong manifests and ports at rest on a real cluster: what only the operator can know is said at once, and what ran goes on running.

What the API server refuses by itself is in test_operator.py.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from contextlib import contextmanager

import pytest
from space import Space, changed, eventually, server_pod, servers

NAMESPACE, SYSTEM = "manifest-tests", "wharfinger-system"
API = "wharfinger.io/v1alpha1"
ROOM = [{"from": 23000, "to": 23015}]
POOL = {
    "apiVersion": API, "kind": "ServicePortPool", "metadata": {"name": "web", "namespace": NAMESPACE},
    "spec": {"virtualAddresses": {"service": {"name": "web"}}, "portRanges": ROOM, "servers": {"service": {"name": "web"}},
             "targets": [{"name": "http", "targetPort": 8080}], "restTime": "2s"}}
REDIRECT = {
    "apiVersion": API, "kind": "RedirectPortPool", "metadata": {"name": "web", "namespace": NAMESPACE},
    "spec": {"servicePortPool": {"name": "web"}, "target": "http", "ports": [{"from": 80, "to": 80}]}}
HOLD = """
import http.client, json, select, sys
held = [http.client.HTTPConnection(sys.argv[1], 80, timeout=60) for _ in range(8)]
pods, requests, errors = [None] * len(held), 0, []
while True:
    for number, connection in enumerate(held):
        try:
            connection.request("GET", "/")
            pod = json.loads(connection.getresponse().read())["pod"]
            if pods[number] not in (None, pod):
                errors.append(f"{pods[number]} became {pod}")
            pods[number], requests = pod, requests + 1
        except Exception as error:
            errors.append(repr(error))
        connection.auto_open = 0
    if requests == len(held):
        print("open", flush=True)
    if errors or select.select([sys.stdin], [], [], 0.1)[0]:
        break
print(json.dumps({"requests": requests, "errors": errors, "servers": sorted(set(pods))}))
"""
"""Eight connections that are used every tenth of a second until standard input ends."""


class Manifests(Space):
    """The namespace, with an aware client."""

    def address(self):
        return self.get("service", "web")["spec"]["clusterIP"]

    @contextmanager
    def traffic(self, **less):
        """While it lasts, connections are held open; afterwards none of them had noticed anything, and new ones work."""
        command = [str(self.cluster.program("kubectl")), "-n", self.namespace, "exec", "-i", "client", "-c", "client", "--",
                   "python3", "-c", HOLD, self.address()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.cluster.environment()) as process:
            assert process.stdout.readline() == "open\n"
            yield
            assert process.poll() is None, process.stdout.read()
            process.stdin.close()
            result = json.loads(process.stdout.readline())
        assert result["errors"] == [] and result["requests"] >= 8, result
        self.dial()

    def dial(self):
        """New connections work."""
        report = json.loads(self.kubectl("exec", "client", "-c", "client", "--", "python3", "/shop/client.py", "burst",
                                         f"http://{self.address()}/", "20"))
        assert report["errors"] == 0, report

    def ready(self, count=2):
        return eventually(lambda: ports if len(ports := self.ports()) == count and not self.ports("Assigned") else None, within_s=60)

    def said(self, kind, name, aspect, reason):
        """The condition's message, once it is False for `reason` and an Event says so too."""
        condition = eventually(lambda: found if (found := self.condition(kind, name, aspect))[:2] == ("False", reason) else None)
        eventually(lambda: reason in self.reasons(name))
        return condition[2]

    def holds(self, kind, name, aspect):
        eventually(lambda: self.condition(kind, name, aspect)[0] == "True")


@pytest.fixture(scope="module")
def space(wharfinger):
    """Two servers, a pool and a redirect pool, Programmed, and an aware client."""
    space = Manifests(wharfinger.cluster, NAMESPACE)
    space.create(**{"wharfinger.io/inject": "enabled"})
    pod = server_pod()
    pod["spec"]["containers"][0] |= {"name": "client", "args": ["/shop/client.py", "idle"], "ports": [], "readinessProbe": None}
    client = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": NAMESPACE}, "spec": pod["spec"]}
    space.apply(*servers(NAMESPACE, **{"wharfinger.io/inject": "false"}), POOL, REDIRECT, client)
    space.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    space.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=90s")
    space.ready()
    yield space
    space.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true")


def service(name, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}], **spec}}


PLACES = itertools.count()
"""Of the pools' ranges, which lie side by side on one address."""


def pool(name, **spec):
    first = 24000 + 10 * next(PLACES)
    return changed(POOL, name, **{"virtualAddresses": {"service": {"name": "elsewhere"}}, "portRanges": [{"from": first, "to": first + 9}], **spec})


SAID = {
    "no-service": (pool("no-service", virtualAddresses={"service": {"name": "nobody"}}), "ResolvedRefs", "ServiceNotFound",
                   "spec.virtualAddresses.service: no Service nobody in namespace manifest-tests; create it"),
    "no-servers": (pool("no-servers", servers={"service": {"name": "nobody"}}), "ResolvedRefs", "ServiceNotFound",
                   "spec.servers.service: no Service nobody"),
    "headless": (pool("headless", virtualAddresses={"service": {"name": "headless"}}), "ResolvedRefs", "NoClusterIP",
                 "name a Service with a cluster IP"),
    "no-pods": (pool("no-pods", servers={"service": {"name": "unselecting"}}), "ResolvedRefs", "NoPods", "use spec.servers.selector or static"),
    "no-port": (pool("no-port", targets=[{"name": "http", "targetPort": "admin"}]), "ResolvedRefs", "TargetPortNotFound",
                "no container port named 'admin'; name the port in the pod's spec"),
    "homeless": (pool("homeless", servers={"static": [{"name": "a", "address": "192.0.2.77"}]}),
                 "Programmed", "ServersWaiting", "set spec.servers.static[].node"),
    "tight": (pool("tight", portRanges=[{"from": 25000, "to": 25000}]), "Accepted", "InsufficientPorts",
              "numbers to portRanges"),
    "pinned": (pool("pinned", pinned=[{"server": "a", "target": "http", "ports": [26000]}]), "Accepted",
               "InvalidPinned", "26000 is not in spec.portRanges; add it there"),
    "rival": (pool("rival", virtualAddresses={"service": {"name": "web"}}, portRanges=[{"from": 23015, "to": 23020}]), "Accepted", "Conflicted",
              "overlaps 23000-23015 of ServicePortPool manifest-tests/web, which is older"),
    "no-pool": (changed(REDIRECT, "no-pool", servicePortPool={"name": "nobody"}), "ResolvedRefs", "PoolNotFound", "create it, or correct the name"),
    "no-target": (changed(REDIRECT, "no-target", target="grpc"), "ResolvedRefs", "TargetNotFound", "has no target grpc; it has http"),
    "absent": (changed(REDIRECT, "absent", ports=[{"from": 8099, "to": 8099}], servers={"names": ["nobody"]}), "ResolvedRefs", "ServerNotFound",
               "spec.servers.names: ServicePortPool web has no server nobody; correct the name, or start the pod"),
    "again": (changed(REDIRECT, "again"), "Accepted", "Conflicted", "which is older"),
    "service-port": (changed(REDIRECT, "service-port", ports=[{"from": 23000, "to": 23015}]), "Accepted", "Conflicted",
                     "is the service port of server"),
}


@pytest.fixture(scope="module")
def mistakes(space):
    """All of them at once, younger than the pool by a second at least, while connections are held open."""
    time.sleep(1.1)  # Ages are whole seconds.
    others = [service("elsewhere"), service("headless", clusterIP="None"), service("unselecting", selector=None)]
    documents = [case[0] for case in SAID.values()]
    with space.traffic():
        space.apply(*others, *documents)
        for name, (document, aspect, reason, _) in SAID.items():
            space.said(document["kind"].lower(), name, aspect, reason)
    assert space.condition("spp", "web", "Accepted")[0] == "True"
    yield space
    for document in documents:
        space.kubectl("delete", document["kind"].lower(), document["metadata"]["name"], "--wait=false")
    for document in others:
        space.kubectl("delete", "service", document["metadata"]["name"])


@pytest.mark.parametrize("name", SAID)
def test_what_only_the_operator_can_know_is_said_by_condition_and_event_with_the_remedy(mistakes, name):
    document, aspect, reason, words = SAID[name]
    kind = document["kind"].lower()
    assert words in mistakes.said(kind, name, aspect, reason)
    programmed = mistakes.condition(kind, name, "Programmed")
    assert programmed[0] == "False" or aspect == "ResolvedRefs", programmed


def test_a_running_pool_that_an_edit_makes_too_small_keeps_its_servers_and_their_connections(space):
    before = space.ready()
    with space.traffic():
        space.apply(changed(POOL, portRanges=[{"from": 23100, "to": 23100}]))
        assert "servers that have service ports keep them" in space.said("spp", "web", "Accepted", "InsufficientPorts")
        assert space.ports() == before
        space.dial()
    space.apply(POOL)
    space.holds("spp", "web", "Accepted")


def test_a_surplus_server_gets_a_port_when_one_has_rested_without_anyones_help(space):
    before = space.ready()
    numbers = sorted(port for ports in before.values() for port in ports)
    with space.traffic():
        space.apply(changed(POOL, portRanges=[{"from": number, "to": number} for number in numbers]))
        space.scale(3)
        assert "3 servers need 3 service ports" in space.said("spp", "web", "Accepted", "InsufficientPorts")
        eventually(lambda: "NoFreePorts" in space.reasons("web"))
        assert space.ports() == before
    space.kubectl("delete", "pod", min(before).partition("/")[2], "--wait=false")
    (freed,) = before[min(before)]
    successor = eventually(lambda: next((server for server, ports in space.ports().items() if server not in before and ports == [freed]), None), 60)
    assert successor
    space.apply(POOL)
    space.ready(3)
    space.scale(2)
    space.ready(2)


def test_a_services_new_port_that_is_a_living_service_port_is_said_and_cuts_no_connection(space):
    before = space.ready()
    taken = min(port for ports in before.values() for port in ports)
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    with space.traffic():
        patch = {"spec": {"ports": [*ports, {"name": "late", "port": taken, "targetPort": "http"}]}}
        space.kubectl("patch", "service", "web", "--patch", json.dumps(patch))
        message = space.said("spp", "web", "Accepted", "ServicePortTaken")
        assert f"port {taken}" in message and f"{NAMESPACE}/web" in message and "give the Service another port" in message
        assert space.ports() == before
        space.kubectl("patch", "service", "web", "--type=merge", "--patch", json.dumps({"spec": {"ports": ports}}))
        space.holds("spp", "web", "Accepted")


def test_a_target_that_is_taken_out_and_put_in_with_another_port_changes_no_living_service_port(space):
    space.ready()
    before = [record for record in space.records() if record["state"] == "Ready"]  # a server that is gone rests, and is forgotten some time
    with space.traffic():
        space.apply(changed(POOL, targets=[{"name": "other", "targetPort": 8081}]))
        space.said("rpp", "web", "ResolvedRefs", "TargetNotFound")
        space.apply(changed(POOL, targets=[{"name": "http", "targetPort": 9090}]))
        assert "restart them" in space.said("spp", "web", "Programmed", "TargetChanged")
        kept = {(record["server"], target["name"]): target for record in space.records() for target in record["targets"]}
        assert all(kept[record["server"], target["name"]] == target for record in before for target in record["targets"])
        space.apply(changed(POOL, targets=[{"name": "other", "targetPort": 8081}]))
        eventually(lambda: space.condition("rpp", "web", "ResolvedRefs")[:2] == ("False", "TargetNotFound"))
        space.apply(POOL)
        space.holds("rpp", "web", "ResolvedRefs")
        space.holds("rpp", "web", "Programmed")


def test_an_agent_that_does_not_answer_holds_a_freed_port_until_it_does_and_a_new_operator_knows_it(space):
    before = space.ready()
    victim = min(before)
    agents = json.loads(space.cluster.kubectl("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=agent", "-o", "json"))["items"]
    node = space.get("pod", victim.partition("/")[2])["spec"]["nodeName"]
    silent = next(pod for pod in agents if pod["spec"]["nodeName"] != node)
    space.cluster.signal(SYSTEM, silent["metadata"]["name"], "agent", "SIGSTOP")
    try:
        space.kubectl("delete", "pod", victim.partition("/")[2], "--wait=false")
        eventually(lambda: space.ports("Resting").get(victim) == before[victim])
        space.cluster.kubectl("-n", SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/component=operator", "--wait=true")
        space.cluster.kubectl("-n", SYSTEM, "rollout", "status", "deployment/wharfinger-operator", "--timeout=90s")
        away = silent["spec"]["nodeName"]
        message = eventually(lambda: said if away in (said := space.condition("spp", "web", "Programmed")[2]) else None)
        assert "have not programmed the current tables yet" in message
        time.sleep(4)  # twice the rest time
        assert space.ports("Resting").get(victim) == before[victim]
        assert before[victim] not in space.ports().values()
    finally:
        space.cluster.signal(SYSTEM, silent["metadata"]["name"], "agent", "SIGCONT")
    eventually(lambda: victim not in space.ports("Resting"), within_s=60)
    space.ready()

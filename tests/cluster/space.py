"""A namespace on the cluster with servers, as tests of the operator use it."""

from __future__ import annotations

import copy
import json
import time

import yaml


def changed(document, name=None, **spec):
    document = copy.deepcopy(document)
    document["spec"] |= spec
    document["metadata"]["name"] = name or document["metadata"]["name"]
    return document


class Space:
    """A namespace of the tests' own."""

    def __init__(self, cluster, namespace):
        self.cluster, self.namespace = cluster, namespace

    def create(self, **labels):
        """Makes the namespace, `restricted`."""
        labels["pod-security.kubernetes.io/enforce"] = "restricted"
        self.cluster.kubectl("apply", "--filename=-", input=yaml.safe_dump({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}))

    def kubectl(self, *words, **options):
        return self.cluster.kubectl("--namespace", self.namespace, *words, **options)

    def apply(self, *documents):
        self.kubectl("apply", "--filename=-", input=yaml.safe_dump_all(documents))

    def get(self, kind, name=None):
        found = json.loads(self.kubectl("get", kind, *([name] if name else []), "--output=json"))
        return found if name else found["items"]

    def records(self):
        return [record for piece in self.get("serviceportslices") if piece["metadata"]["labels"]["wharfinger.io/pool"] == "web"
                for record in piece["spec"].get("assignments", ())]

    def ports(self, state="Ready"):
        return {record["server"]: record["targets"][0]["servicePorts"] for record in self.records() if record["state"] == state}

    def condition(self, kind, name, aspect):
        """(status, reason, message) on the object's current generation; empty words until there is one."""
        found = self.get(kind, name)
        for condition in found.get("status", {}).get("conditions", ()):
            if condition["type"] == aspect and condition["observedGeneration"] == found["metadata"]["generation"]:
                return condition["status"], condition["reason"], condition["message"]
        return "", "", ""

    def reasons(self, name):
        """Reasons of the Events on the object."""
        return {event["reason"] for event in self.get("events") if event["involvedObject"]["name"] == name}

    def scale(self, replicas):
        self.kubectl("scale", "deployment/web", f"--replicas={replicas}")


def eventually(condition, within_s=30.0):
    """The first true answer."""
    deadline = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not true within {within_s:g} s"
        time.sleep(0.1)
    return answer


def server_pod(**labels):
    """The template of a pod of the shop's server that satisfies the standard `restricted`."""
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"name": "server", "image": "wharfinger.local/shop:dev", "args": ["/shop/server.py"], "imagePullPolicy": "IfNotPresent",
                 "env": [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
                         for name, path in (("POD_NAME", "metadata.name"), ("NODE_NAME", "spec.nodeName"))],
                 "ports": [{"name": "http", "containerPort": 8080}],
                 "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
                 "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    return {"metadata": {"labels": labels}, "spec": {
        "containers": [container], "securityContext": security, "terminationGracePeriodSeconds": 2, "automountServiceAccountToken": False}}


def servers(namespace, replicas=2, **labels):
    """A Service and a Deployment of pods behind it."""
    return (
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": namespace},
         "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
         "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": server_pod(app="web", **labels)}})

"""Objects as an API server has them, and what was read of a cluster in which all is well."""

from datetime import UTC, datetime, timedelta

from wharfinger_api import dump, parse
from wharfinger_cli._seen import AgentLease, AgentPod, Installation, Pools, Workload

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
VIRTUAL, CLIENT = "10.96.0.10", "10.244.1.7"
NODES = ("node-1", "node-2")
SCOPE, X = 7, 80


def conditions(**statuses):
    """Accepted, ResolvedRefs and Programmed as True, but those given as (reason, message)."""
    found = []
    for kind in ("Accepted", "ResolvedRefs", "Programmed"):
        reason, message = statuses.get(kind, (kind, "fine"))
        status = "False" if kind in statuses else "True"
        found.append({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-21T09:00:00Z",
                      "observedGeneration": 1})
    return found


def resource(kind, name, body, namespace="shop", generation=1):
    metadata = {"name": name, "namespace": namespace, "uid": f"u-{kind}-{name}", "generation": generation, "resourceVersion": str(generation)}
    return parse({"apiVersion": "wharfinger.io/v1alpha1", "kind": kind, "metadata": metadata, **body})


def service_pool(observed=1, servers=None, **statuses):
    return resource("ServicePortPool", "shop", {
        "spec": {"virtualAddresses": {"service": {"name": "shop"}}, "portRanges": [{"from": 20000, "to": 20999}],
                 "servers": {"service": {"name": "shop"}}, "targets": [{"name": "http", "targetPort": "http"}]},
        "status": {"observedGeneration": observed, "scope": SCOPE, "virtualAddresses": [VIRTUAL],
                   "ports": {"total": 1000, "used": 2, "resting": 1, "free": 997},
                   "servers": servers or {"ready": 2}, "conditions": conditions(**statuses)}})


def redirect_pool(observed=1, ready=2, **statuses):
    return resource("RedirectPortPool", "web", {
        "spec": {"servicePortPool": {"name": "shop"}, "target": "http", "ports": [{"from": X, "to": X}]},
        "status": {"observedGeneration": observed, "virtualAddresses": [VIRTUAL], "servers": {"ready": ready},
                   "conditions": conditions(**statuses)}})


def assignment(number, state="Ready", **changes):
    return {"server": f"shop/shop-{number}", "address": f"10.244.2.{number}", "node": "node-2", "podUID": f"u-{number}", "state": state,
            "since": "2026-11-21T09:00:00Z", "redirects": ["web"],
            "targets": [{"name": "http", "protocol": "TCP", "targetPort": 8080, "servicePorts": [20000 + number]}], **changes}


def port_slice(*assignments, generation=1, policy="Hash"):
    return resource("ServicePortSlice", "shop-0", {"spec": {
        "pool": {"name": "shop", "uid": "u-pool", "generation": 1}, "scope": SCOPE, "virtualAddresses": [VIRTUAL],
        "redirects": [{"name": "web", "generation": 1, "ports": [{"from": X, "to": X}], "target": "http", "policy": policy}],
        "assignments": list(assignments or (assignment(1), assignment(2)))}}, generation=generation)


def report(node, *, version=1, clients=(), servers=(), ready="True", kernel="6.12.3-cloud", fallbacks=(), findings=()):
    """`clients` and `servers`: pod, address and, if there is one, the policy that keeps it unaware."""
    attached = [[{"pod": pod, "uid": pod, "address": address, "policy": "".join(policy)} for pod, address, *policy in pods]
                for pods in (clients, servers)]
    return resource("NodeReport", node, {"status": {
        "agentVersion": "0.1.0", "kernel": kernel, "attachMode": "clsact" if fallbacks else "tcx",
        "fallbacks": [{"name": name, "message": message} for name, message in fallbacks],
        "slices": {"version": str(version)}, "servers": attached[1], "clients": attached[0],
        "findings": [dump(finding) for finding in findings],
        "conditions": [{"type": "Ready", "status": ready, "reason": "Attached", "message": "see the agent's log",
                        "lastTransitionTime": "2026-11-21T09:00:00Z"}]}}, namespace="")


def pools(**changes):
    every = {"services": (service_pool(),), "redirects": (redirect_pool(),), "slices": (port_slice(),),
             "reports": (report("node-1", clients=[("shop/client-0", CLIENT)]), report("node-2"))}
    return Pools(**(every | changes))


def workload(component, wanted, ready, kind="Deployment"):
    return Workload(kind, "wharfinger-system", f"wharfinger-{component}", component, "0.1.0", wanted, ready)


def installation(**changes):
    every = {
        "now": NOW, "nodes": NODES,
        "workloads": (workload("operator", 1, 1), workload("injector", 2, 2), workload("agent", 2, 2, "DaemonSet")),
        "agents": tuple(AgentPod("wharfinger-system", f"wharfinger-agent-{node}", node, True) for node in NODES),
        "leases": tuple(AgentLease(node, NOW - timedelta(seconds=4), 40) for node in NODES)}
    return Installation(**(every | changes))

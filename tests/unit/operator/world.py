"""A cluster in memory for the planner's tests: objects as the API server would show them, writes as it would take them.

Every write bumps versions and generations as the real one does (the cluster tests hold it to that); agents acknowledge when told to.
"""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from itertools import count

from wharfinger_api import dump
from wharfinger_operator.apply import slice_body
from wharfinger_operator.difference import difference
from wharfinger_operator.index import Index
from wharfinger_operator.planner import Planner, plan
from wharfinger_operator.snapshot import Snapshot

EPOCH = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
SYSTEM = "wharfinger-system"
LITERAL = (IPv4Network("192.0.2.0/24"),)
CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
API = "wharfinger.io/v1alpha1"


class World:
    """`now` moves only by `later`. Objects are raw; the snapshot under test is fed with each change."""

    def __init__(self, nodes=("n1", "n2")):
        self.now = EPOCH
        self._versions = count(1)
        self._uids = count(1)
        self.raw = {}
        self.history = []
        self.slices_at = 0
        """resourceVersion of the last event of a slice."""
        self.see(Snapshot(SYSTEM, LITERAL))
        for node in nodes:
            self.put("Node", "", node, {})
            self.renew(node)
            self.put("NodeReport", "", node, {"status": {}})

    def see(self, snapshot):
        """This is what the operator has seen; it begins to plan from it."""
        self.snapshot, self.planner = snapshot, Planner(snapshot)
        snapshot.follower = self.planner.see

    def restart(self):
        """Another operator begins, which sees what there is and knows of nothing before."""
        self.see(Snapshot(SYSTEM, LITERAL))
        for (kind, _, _), raw in sorted(self.raw.items()):
            self.snapshot.put(kind, raw, self.now)

    # objects

    def put(self, kind, namespace, name, body):
        """Creates or replaces; generation rises when the spec changes, as the API server does it."""
        old = self.raw.get((kind, namespace, name))
        metadata = {"name": name, "namespace": namespace, "uid": f"u{next(self._uids)}", "generation": 1,
                    "creationTimestamp": stamp(self.now)} if old is None else dict(old["metadata"])
        if old is not None and old.get("spec") != body.get("spec", old.get("spec")):
            metadata["generation"] += 1
        metadata["resourceVersion"] = str(next(self._versions))
        metadata |= body.get("metadata", {})
        raw = {"apiVersion": API, "kind": kind, **(old or {}), **body, "metadata": metadata}
        self.raw[kind, namespace, name] = raw
        if kind == "ServicePortSlice":
            self.slices_at = int(metadata["resourceVersion"])
        self.snapshot.put(kind, raw, self.now)
        return raw

    def delete(self, kind, namespace, name):
        raw = self.raw.pop((kind, namespace, name))
        raw = {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(next(self._versions))}}
        if kind == "ServicePortSlice":
            self.slices_at = int(raw["metadata"]["resourceVersion"])
        self.snapshot.remove(kind, raw, self.now)

    def service(self, name="web", addresses=("10.96.0.10",), ports=(80,), selector=None, namespace="shop"):
        spec = {"clusterIPs": list(addresses), "ports": [{"port": port} for port in ports],
                "selector": {"app": name} if selector is None else selector}
        return self.put("Service", namespace, name, {"spec": spec})

    def pod(self, name, node="n1", address=None, ready=True, app="web", namespace="shop", terminating=False, phase="Running",
            ports=(("http", 8080),), host_network=False, labels=None):
        """Creates the pod, or changes it: its uid stays."""
        address = address or f"10.1.0.{1 + sum(map(ord, name)) % 250}"
        metadata = {"labels": labels or {"app": app}} | ({"deletionTimestamp": stamp(self.now)} if terminating else {})
        container = {"name": "c", "ports": [{"name": label, "containerPort": number} for label, number in ports]}
        spec = {"nodeName": node, "containers": [container], "hostNetwork": host_network}
        status = {"phase": phase, "podIPs": [{"ip": address}],
                  "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
        return self.put("Pod", namespace, name, {"metadata": metadata, "spec": spec, "status": status})

    def pool(self, name="web", namespace="shop", first=20000, last=20099, servers=None, addresses=None, targets=None, **spec):
        body = {"virtualAddresses": addresses or {"service": {"name": "web"}}, "portRanges": [{"from": first, "to": last}],
                "servers": servers or {"service": {"name": "web"}}, "targets": targets or [{"name": "http", "targetPort": "http"}],
                **spec}
        return self.put("ServicePortPool", namespace, name, {"spec": body})

    def redirect(self, name="web-80", namespace="shop", pool="web", port=80, target="http", **spec):
        body = {"servicePortPool": {"name": pool}, "target": target, "ports": [{"from": port, "to": port}], **spec}
        return self.put("RedirectPortPool", namespace, name, {"spec": body})

    # time and agents

    def later(self, seconds, renew=True):
        """Time passes; the agents that renewed last go on doing so."""
        live = [node for node, agent in self.snapshot.agents.items() if agent.live(self.now)]
        self.now += timedelta(seconds=seconds)
        for node in live if renew else ():
            self.renew(node)

    def renew(self, node):
        self.put("Lease", SYSTEM, f"wharfinger-agent-{node}", {"spec": {"renewTime": stamp(self.now), "leaseDurationSeconds": 40}})

    def acknowledge(self, *nodes):
        """The agents of these nodes (all live ones) program what stands and attach the servers of their node."""
        live = [node for node, agent in self.snapshot.agents.items() if agent.live(self.now)]
        slices = list(self.slices().values())
        for node in nodes or live:
            attached = [{"pod": record["server"], "uid": record.get("podUID", ""), "address": record["address"]}
                        for raw in slices for record in raw["spec"].get("assignments", ())
                        if record.get("node") == node and record["state"] != "Resting"]
            self.put("NodeReport", "", node, {"status": {"slices": {"version": str(self.slices_at)}, "servers": attached}})

    # planning

    def slices(self):
        return {(namespace, name): raw for (kind, namespace, name), raw in self.raw.items() if kind == "ServicePortSlice"}

    def plan(self):
        """The whole plan, by a planner that followed each change; one made just now must want the same, and what does not stand be told."""
        told, made, whole = self.planner.plan(self.now), self.planner.everything(self.now), plan(self.snapshot, self.now)
        assert made == whole
        assert self.planner.index.orphans == Index(self.snapshot).orphans
        assert difference(told) == difference(whole)
        return made

    def step(self):
        """Plans once and writes; what was written. Every version of every slice is kept in `history`."""
        made = self.plan()
        change = difference(made)
        for group in change.pools:
            for item in group.writes:
                body = slice_body(item, CONTEXT)
                standing = self.raw.get(("ServicePortSlice", item.pool.metadata.namespace, item.name))
                if standing is None:
                    assert "resourceVersion" not in body["metadata"]
                else:
                    assert body["metadata"].pop("resourceVersion") == standing["metadata"]["resourceVersion"], "a stale write"
                written = self.put("ServicePortSlice", item.pool.metadata.namespace, item.name, body)
                self.history.append((self.now, written))
            for piece in group.deletions:
                self.delete("ServicePortSlice", piece.metadata.namespace, piece.metadata.name)
        for item in change.statuses:
            metadata = item.resource.metadata
            self.put(type(item.resource).__name__, metadata.namespace, metadata.name, {"status": dump(item.status)})
        self.events = made.events
        self.made = made
        return change

    def settle(self, acknowledge=True):
        """Plans, writes and acknowledges until nothing is left to do."""
        for _ in range(12):
            changed = bool(self.step())
            if acknowledge:
                before = {key: raw["status"] for key, raw in self.raw.items() if key[0] == "NodeReport"}
                self.acknowledge()
                changed |= before != {key: raw["status"] for key, raw in self.raw.items() if key[0] == "NodeReport"}
            if not changed:
                return
        raise AssertionError("the plan does not come to rest")

    # looking

    def records(self, state=None):
        """All assignments, in slices' order."""
        found = [record for _, raw in sorted(self.slices().items()) for record in raw["spec"].get("assignments", ())]
        return [record for record in found if state is None or record["state"] == state]

    def ports(self, state=None):
        """Server to its service ports."""
        found = {}
        for record in self.records(state):
            found.setdefault(record["server"], []).extend(port for target in record["targets"] for port in target["servicePorts"])
        return found

    def states(self):
        return {record["server"]: record["state"] for record in self.records()}

    def condition(self, kind, name, aspect, namespace="shop"):
        """(status, reason, message)."""
        for condition in self.raw[kind, namespace, name].get("status", {}).get("conditions", ()):
            if condition["type"] == aspect:
                return condition["status"], condition["reason"], condition["message"]
        return None

    def status(self, name="web", namespace="shop"):
        return self.raw["ServicePortPool", namespace, name]["status"]


def stamp(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def shop(servers=("a", "b", "c"), nodes=("n1", "n2"), **pool):
    """A Service of these pods on alternating nodes, a pool and a redirect pool on it."""
    world = World(nodes)
    world.service()
    for index, name in enumerate(servers):
        world.pod(name, node=nodes[index % len(nodes)])
    world.pool(**pool)
    world.redirect()
    return world

"""A load of long connections on a cluster (program.py in pods): makes its pods and pools, asks how the connections are, judges.

Pods are bare, each on a node that is named: nothing but a test makes or moves one. The host asks them directly, so that the answers come
also while the API server is down.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from agents import counters
from release import wait_for
from testbed import Cluster

PROGRAM = Path(__file__).parent / "program.py"
PORT, STATUS_PORT = 7000, 9000
API = "wharfinger.io/v1alpha1"
SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True)
class Pod:
    """A pod of the load, and its address."""

    name: str
    node: str
    address: str


@dataclass(frozen=True)
class Seen:
    """What the clients saw so far: connections held open, how others ended, wrong bytes, and fresh connections that failed."""

    open: int
    opened: int
    fresh: int
    messages: int
    slowest_s: float
    servers: Mapping[str, int]
    ended: tuple[dict, ...]
    wrong: tuple[dict, ...]
    failed: tuple[dict, ...]
    pending: tuple[dict, ...]
    """Fresh connections that have neither gone well nor failed yet: client, began."""

    def ended_of(self, *servers: str) -> list[dict]:
        """The ends of connections to these servers."""
        return [end for end in self.ended if end["server"] in servers]

    def ended_but_of(self, *servers: str) -> list[dict]:
        """The ends of connections to any other server."""
        return [end for end in self.ended if end["server"] not in servers]


@dataclass
class Load:
    """The load in `namespace` on `cluster`: `connections` in all, rounded up to as many for each client, and `fresh_per_s` new short ones besides, by
    each client. `moves`: as the pool has it. `lingers_s`: how long a server that terminates goes on."""

    cluster: Cluster
    namespace: str = "load"
    connections: int = 1000
    interval_s: float = 2.0
    fresh_per_s: float = 2.0
    rest: str = "20s"
    moves: Mapping[str, object] = field(default_factory=dict)
    lingers_s: int = 0
    servers: dict[str, Pod] = field(default_factory=dict)
    clients: dict[str, Pod] = field(default_factory=dict)

    def start(self, servers_per_node: int = 2) -> None:
        """Servers and a client on every node, all connections open and each of them aware: the programs counted that."""
        self._space()
        for node in self.cluster.nodes:
            for n in range(servers_per_node):
                self.servers[f"server-{node.name}-{n}"] = Pod(f"server-{node.name}-{n}", node.name, "")
        self.apply(*(self._server(pod) for pod in self.servers.values()))
        self.servers = self._ready(self.servers)
        self.wait_for_servers(*self.servers)
        for node in self.cluster.nodes:
            self.clients[f"client-{node.name}"] = Pod(f"client-{node.name}", node.name, "")
        before = counters(self.cluster)["to_pod", "client_redirected"]
        self.apply(*(self._client(pod) for pod in self.clients.values()))
        self.clients = self._ready(self.clients)
        wait_for(lambda: (seen := self.seen()).opened == self.share * len(self.clients) and seen, "all connections open", seconds=120)
        seen = self.seen()
        redirected = counters(self.cluster)["to_pod", "client_redirected"] - before
        if redirected < seen.opened + seen.fresh or seen.open != seen.opened or seen.failed or seen.wrong:
            raise AssertionError(f"{redirected} of {seen.opened} held and {seen.fresh} fresh connections were redirected; ended: {seen.ended[:3]}, "
                                 f"failed: {seen.failed[:3]}, wrong: {seen.wrong[:3]}")

    def add_server(self, name: str, node: str) -> Pod:
        """One more server, Ready."""
        self.apply(self._server(Pod(name, node, "")))
        self.servers |= self._ready({name: Pod(name, node, "")})
        self.wait_for_servers(name)
        return self.servers[name]

    def add_client(self, name: str, node: str, connections: int) -> Pod:
        """One more client, with connections of its own."""
        self.apply(self._client(Pod(name, node, ""), connections))
        self.clients |= self._ready({name: Pod(name, node, "")})
        wait_for(lambda: self._status(self.clients[name])["opened"] == connections, f"{name}'s connections", seconds=120)
        return self.clients[name]

    def lose(self, *names: str) -> None:
        """These pods are gone; they are asked no more."""
        for name in names:
            self.servers.pop(name, None)
            self.clients.pop(name, None)

    def seen(self) -> Seen:
        """What the clients say, all of them; of each end also who says it."""
        clients = tuple(self.clients.values())
        found = self._ask(clients, "/")
        for client, status in zip(clients, found, strict=True):
            for end in (*status["ended"], *status["wrong"], *status["fresh"]["failed"]):
                end["client"] = client.name
        servers: dict[str, int] = {}
        for status in found:
            for name, count in status["servers"].items():
                servers[name] = servers.get(name, 0) + count
        return Seen(
            open=sum(status["open"] for status in found), opened=sum(status["opened"] for status in found),
            fresh=sum(status["fresh"]["ok"] for status in found), messages=sum(status["messages"] for status in found),
            slowest_s=max((status["slowest_s"] for status in found), default=0.0), servers=servers,
            ended=tuple(end for status in found for end in status["ended"]), wrong=tuple(wrong for status in found for wrong in status["wrong"]),
            failed=tuple(end for status in found for end in status["fresh"]["failed"]),
            pending=tuple({"client": client.name, "began": began} for client, status in zip(clients, found, strict=True)
                          for began in status["fresh"]["pending"]))

    def wrong_at_servers(self) -> list[dict]:
        """Bytes that the servers found wrong."""
        return [wrong for status in self._ask(self.servers.values(), "/") for wrong in status["wrong"]]

    def held_at_servers(self) -> int:
        """Connections open at the servers, by their word."""
        return sum(status["open"] for status in self._ask(self.servers.values(), "/"))

    def goes_on(self, seconds: float = 60) -> None:
        """Waits until messages were exchanged that were asked for after this call, and fresh connections made."""
        before = self.seen()
        wait_for(lambda: (now := self.seen()).messages >= before.messages + now.open // 2 and now.fresh > before.fresh,
                 "messages and fresh connections", seconds=seconds, every=0.5)

    def finish(self) -> Seen:
        """Ends the load in order: a last checked message on each connection."""
        self._ask(self.clients.values(), "/finish")
        wait_for(lambda: all(status["done"] for status in self._ask(self.clients.values(), "/")), "the load's end", seconds=180)
        return self.seen()

    def kubectl(self, *words: str, **options) -> str:
        return self.cluster.kubectl("-n", self.namespace, *words, **options)

    def apply(self, *documents: dict) -> None:
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(documents))

    def remove(self) -> None:
        """Everything, at once."""
        self.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", check=False)
        self.cluster.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=true", timeout_s=180)

    def records(self) -> list[dict]:
        """All assignments of the load's pool."""
        found = json.loads(self.kubectl("get", "serviceportslices", "-o", "json"))["items"]
        return [record for piece in found for record in piece["spec"].get("assignments", ())]

    def states(self) -> dict[str, str]:
        """Server -> its assignment's state."""
        return {record["server"].partition("/")[2]: record["state"] for record in self.records()}

    def ports(self, *names: str) -> set[int]:
        """The service ports that these servers have, or had and that rest."""
        return {port for record in self.records() if record["server"].partition("/")[2] in names
                for target in record["targets"] for port in target["servicePorts"]}

    def wait_for_servers(self, *names: str, seconds: float = 60) -> None:
        """Until these are Ready and their pools Programmed."""
        wait_for(lambda: all(self.states().get(name) == "Ready" for name in names), f"{', '.join(names)} to be Ready", seconds=seconds)
        for kind in ("serviceportpool", "redirectportpool"):
            self.kubectl("wait", f"{kind}/load", "--for=condition=Programmed", f"--timeout={seconds:.0f}s")

    def programs_a_change(self, seconds: float = 60) -> None:
        """Whether operator and all agents work: a change of the redirect pool becomes Programmed."""
        now = self.kubectl("get", "redirectportpool/load", "-o", "jsonpath={.spec.policy}")
        policy = "Random" if now == "Hash" else "Hash"
        self.kubectl("patch", "redirectportpool/load", "--type=merge", "-p", json.dumps({"spec": {"policy": policy}}))

        def programmed() -> bool:
            found = json.loads(self.kubectl("get", "redirectportpool/load", "-o", "json"))
            return any(entry["type"] == "Programmed" and entry["status"] == "True" and entry["observedGeneration"] == found["metadata"]["generation"]
                       for entry in found["status"].get("conditions", ()))

        wait_for(programmed, f"policy {policy} to be Programmed", seconds=seconds)

    def _space(self) -> None:
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": {
                "wharfinger.io/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted"}}}))
        self.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load"}, "data": {"program.py": PROGRAM.read_text()}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "load"}, "spec": {
                "selector": {"app": "load-server"}, "ports": [{"name": "load", "port": PORT, "targetPort": "load"}]}},
            {"apiVersion": API, "kind": "ServicePortPool", "metadata": {"name": "load"}, "spec": {
                "virtualAddresses": {"service": {"name": "load"}}, "portRanges": [{"from": 21000, "to": 21099}],
                "servers": {"service": {"name": "load"}}, "targets": [{"name": "load", "targetPort": "load"}], "restTime": self.rest,
                "moves": dict(self.moves)}},
            {"apiVersion": API, "kind": "RedirectPortPool", "metadata": {"name": "load"}, "spec": {
                "servicePortPool": {"name": "load"}, "target": "load", "ports": [{"from": PORT, "to": PORT}]}})

    @property
    def share(self) -> int:
        """Connections of each client that is there from the start."""
        return -(-self.connections // len(self.cluster.nodes))

    @property
    def address(self) -> str:
        """The Service's cluster IP."""
        return self.kubectl("get", "service", "load", "-o", "jsonpath={.spec.clusterIP}").strip()

    def _server(self, pod: Pod) -> dict:
        labels = {"app": "load-server", "wharfinger.io/inject": "false"}
        probe = {"readinessProbe": {"tcpSocket": {"port": "status"}, "periodSeconds": 1}, "ports": [
            {"name": "load", "containerPort": PORT}, {"name": "status", "containerPort": STATUS_PORT}]}
        if self.lingers_s:
            wait = ["python3", "-c", f"import time; time.sleep({self.lingers_s})"]
            probe["lifecycle"] = {"preStop": {"exec": {"command": wait}}}
        return self._pod(pod, labels, ["serve", str(PORT), str(STATUS_PORT)], probe)

    def _client(self, pod: Pod, connections: int | None = None) -> dict:
        count = self.share if connections is None else connections
        words = ["hold", self.address, str(PORT), str(STATUS_PORT), str(count), str(self.interval_s), str(self.fresh_per_s)]
        return self._pod(pod, {"app": "load-client"}, words, {})

    def _pod(self, pod: Pod, labels: dict, words: list[str], more: dict) -> dict:
        name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        container = {"name": "load", "image": "wharfinger.local/shop:dev", "imagePullPolicy": "IfNotPresent", "args": ["/load/program.py", *words],
                     "env": [name], "volumeMounts": [{"name": "load", "mountPath": "/load", "readOnly": True}], "securityContext": SECURITY, **more}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.name, "labels": labels}, "spec": {
            "nodeName": pod.node, "restartPolicy": "Never", "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": self.lingers_s + 2,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container], "volumes": [{"name": "load", "configMap": {"name": "load"}}]}}

    def _ready(self, pods: Mapping[str, Pod]) -> dict[str, Pod]:
        """These pods with their addresses, once they are Ready."""
        self.kubectl("wait", *(f"pod/{name}" for name in pods), "--for=condition=Ready", "--timeout=90s")
        found = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
        return {pod["metadata"]["name"]: Pod(pod["metadata"]["name"], pod["spec"]["nodeName"], pod["status"]["podIP"])
                for pod in found if pod["metadata"]["name"] in pods}

    def _ask(self, pods: Iterable[Pod], path: str) -> list[dict]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda pod: self._status(pod, path), pods))

    @staticmethod
    def _status(pod: Pod, path: str = "/") -> dict:
        for attempt in range(3):
            connection = http.client.HTTPConnection(pod.address, STATUS_PORT, timeout=20)
            try:
                connection.request("GET", path)
                return json.loads(connection.getresponse().read())
            except (OSError, http.client.HTTPException):
                if attempt == 2:
                    raise
                time.sleep(0.5)
            finally:
                connection.close()
        raise AssertionError("unreachable")

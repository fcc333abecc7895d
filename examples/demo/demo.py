"""The main job, shown step by step on a real three-node cluster. Every line that it prints is read from the running system."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests" / "cluster"), str(TOP / "tests")]

import wire  # noqa: E402
from agents import counters  # noqa: E402
from release import NAMESPACE, OTLP, Release, wait_for  # noqa: E402
from rich.console import Console  # noqa: E402
from testbed import Cluster  # noqa: E402
from traces import connection_trace, tree  # noqa: E402

BURST = 200
DOWNLOAD_RATE = 4_000_000
DOWNLOAD_SECONDS = 45


class Demo:
    """The story's steps, in order. A step that does not hold raises AssertionError with what it saw."""

    def __init__(self, cluster: Cluster, console: Console) -> None:
        self.cluster, self.console, self.release = cluster, console, Release(cluster)

    def say(self, text: str = "") -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold cyan]━━ {text}[/]", highlight=False)

    def kubectl(self, *words: str) -> str:
        return self.cluster.kubectl(*words)

    def client(self, name: str, *words: str) -> dict:
        """What client.py reports in the pod of a deployment: its last line."""
        out = self.kubectl("-n", "shop", "exec", f"deploy/{name}", "-c", "client", "--", "python3", "/shop/client.py", *words)
        return json.loads(out.splitlines()[-1])

    def address(self) -> str:
        return self.kubectl("-n", "shop", "get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}").strip()

    def install(self) -> None:
        """Images, chart, examples."""
        self.title("Images, from the project's own Dockerfiles, on every node")
        self.release.images()
        self.title("helm install")
        self.say(self.release.install(f"telemetry.otlpEndpoint={OTLP.format(address=self.release.jaeger())}").split("NOTES:")[0].strip())
        self.title("kubectl apply -f examples/shop/")
        self.release.shop()
        self.say(self.kubectl("-n", "shop", "get", "pods", "-o", "wide"))

    def pools(self) -> None:
        self.title("The pools, as kubectl prints them")
        for kind in ("serviceportpools", "redirectportpools", "serviceportslices"):
            self.say(self.kubectl("-n", "shop", "get", kind))
        self.say(self.kubectl("get", "nodereports"))

    def burst(self) -> None:
        """200 connections of the aware client, seen by the application, by the programs' counters and on the wire."""
        address = self.address()
        self.title(f"{BURST} connections from the injected client to the Service's own cluster IP, {address}:80")
        before = counters(self.cluster)
        with wire.captures(self.cluster, address) as taken:
            seen = self.client("client", "burst", f"http://{address}:80/", str(BURST))
        moved = {key: count - before.get(key, 0) for key, count in counters(self.cluster).items() if count != before.get(key, 0)}
        for server, count in seen["servers"].items():
            self.say(f"  {count:4d}  {server}")
        self.say(f"  nodes: {seen['nodes']}   errors: {seen['errors']}   resets: {seen['resets']}   the application saw: {seen['peers']}")
        assert seen["errors"] == 0 and sum(seen["servers"].values()) == BURST, seen
        assert set(seen["peers"]) == {f"{address}:80"} and len(seen["servers"]) == 4 and len(seen["nodes"]) >= 2, seen
        self.say("\n  what the nodes' programs counted (hook, reason, packets):")
        for (hook, reason), count in sorted(moved.items(), key=lambda item: (item[0][0], -item[1])):
            if reason.startswith(("client", "server", "net_")):
                self.say(f"    {hook:10} {reason:28} {count:6d}")
        assert moved["from_pod", "client_syn"] == moved["to_pod", "client_redirected"] == moved["to_pod", "server_syn"] == BURST, moved
        self.say("\n  what passed the nodes' uplinks (tcpdump; connections within one node do not):")
        for line in wire.report(taken.segments(), self.service_ports()):
            self.say(f"    {line}")

    def service_ports(self) -> dict[tuple[str, int], str]:
        """(server address, service port) -> server, from the slices."""
        slices = json.loads(self.kubectl("-n", "shop", "get", "serviceportslices", "-o", "json"))
        return {(a["address"], port): a["server"] for piece in slices["items"] for a in piece["spec"]["assignments"]
                for target in a["targets"] for port in target["servicePorts"]}

    def unaware(self) -> None:
        address = self.address()
        self.title(f"40 connections from the client that is not injected, to the same {address}:80, through kube-proxy")
        before = counters(self.cluster)
        seen = self.client("client-unaware", "burst", f"http://{address}:80/", "40")
        moved = {key for key, count in counters(self.cluster).items() if count != before.get(key, 0)}
        self.say(f"  servers: {seen['servers']}   errors: {seen['errors']}")
        ours = sorted(reason for _, reason in moved if reason.startswith(("client", "server_")))
        self.say(f"  packets that a translator touched meanwhile: {ours or 'none'}")
        assert seen["errors"] == 0 and not ours, (seen, ours)

    def trace(self) -> None:
        self.title("One connection's trace, from Jaeger")
        since = time.time()
        self.client("client", "burst", f"http://{self.address()}:80/", "4")
        spans = wait_for(lambda: connection_trace(self.cluster, since), "a trace with client, balancer and server in Jaeger", seconds=60, every=1)
        for line in tree(spans):
            self.say(f"  {line}")

    def restarts(self) -> None:
        """A paced download that outlasts the death of every agent."""
        address = self.address()
        total = DOWNLOAD_RATE * DOWNLOAD_SECONDS
        self.title(f"A download of {total:,} bytes at {DOWNLOAD_RATE:,} a second, while every agent pod is killed and restarted in turn "
                   f"(about {DOWNLOAD_SECONDS} s)")
        lines: list[dict] = []
        command = [str(self.cluster.program("kubectl")), "-n", "shop", "exec", "deploy/client", "-c", "client", "--",
                   "python3", "/shop/client.py", "download", f"http://{address}:80/", str(total), str(DOWNLOAD_RATE)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.cluster.environment()) as process:
            reader = threading.Thread(target=lambda: [lines.append(json.loads(line)) for line in process.stdout], daemon=True)
            reader.start()
            wait_for(lambda: lines, "the download's first second")
            for pod in self.agents():
                moved = self.kill(pod, lines)
                self.say(f"  {pod} killed and replaced; meanwhile {moved:,} bytes arrived")
                assert moved > 0, f"no byte arrived while {pod} was away"
            reader.join(timeout=DOWNLOAD_SECONDS + 60)
        result = lines[-1]
        self.say(f"  {result}")
        assert result["checksum"] == "right" and result["resets"] == 0, result

    def agents(self) -> list[str]:
        return self.kubectl("-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/component=agent",
                            "-o", "jsonpath={.items[*].metadata.name}").split()

    def kill(self, pod: str, lines: list[dict]) -> int:
        """Kills an agent without notice, waits for its successor, and answers how many bytes arrived in between."""
        start = lines[-1]["bytes"]
        node = self.kubectl("-n", NAMESPACE, "get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")
        self.kubectl("-n", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
        wait_for(lambda: self.ready_agent(node) not in (None, pod), f"another agent, ready, on {node}", seconds=60)
        assert "checksum" not in lines[-1], f"the download ended before {pod} was replaced: {lines[-1]}"
        return lines[-1]["bytes"] - start

    def ready_agent(self, node: str) -> str | None:
        """The name of the node's agent pod, if it is ready."""
        found = json.loads(self.kubectl("-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/component=agent",
                                        "--field-selector", f"spec.nodeName={node}", "-o", "json"))["items"]
        return next((pod["metadata"]["name"] for pod in found for condition in pod["status"].get("conditions", ())
                     if condition["type"] == "Ready" and condition["status"] == "True" and "deletionTimestamp" not in pod["metadata"]), None)

    def farewell(self) -> None:
        self.title("The cluster stays up")
        self.say(f"  export KUBECONFIG={self.cluster.kubeconfig}")
        self.say(f"  export PATH={self.cluster.program('kubectl').parent}:$PATH")
        self.say("  kubectl get wharfinger --all-namespaces")
        self.say(f"  {TOP / '.venv/bin/wharfinger'} status")
        self.say(f"  {TOP / '.venv/bin/wharfinger'} explain {self.address()}:80")
        self.say("  make down        ends it")


def main() -> None:
    console = Console(soft_wrap=True)
    demo = Demo(Cluster.ensure(), console)
    demo.install()
    demo.pools()
    demo.burst()
    demo.unaware()
    demo.trace()
    demo.restarts()
    demo.farewell()


if __name__ == "__main__":
    main()

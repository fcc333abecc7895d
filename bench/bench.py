"""`make bench`: what Wharfinger costs, as ratios taken in turn in one run, with medians. Prints a table; stores bench/results/latest.json.

Absolute figures of a shared machine move by ten per cent and more; the ratios of neighbours in time are what to read.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import kubernetes

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "tests" / "cluster"), str(TOP / "tests")]

import lives  # noqa: E402
import programs  # noqa: E402
import tools  # noqa: E402
import traces  # noqa: E402
from release import NAMESPACE, OTLP, Release, wait_for  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from testbed import Cluster  # noqa: E402

ROUNDS = 9
PACKET_MOST = {"from_pod": 1.25, "to_pod": 2.0, "from_net": 1.25}
"""What was aimed at, as ratios to forward only."""
TRACES_MOST = 0.01
"""Of connections/s, at a tenth of the traces."""
LOADS = {"connections": 3000, "latency": 4000, "bulk": 1_000_000_000}
FIGURES = {"connections/s": ("connections", "per_second", 1), "latency p50 (µs)": ("latency", "p50_us", -1),
           "latency p99 (µs)": ("latency", "p99_us", -1), "bulk (Gb/s)": ("bulk", "gigabits_per_second", 1)}
PATHS = ("direct", "wharfinger", "kube-proxy")
CLIENTS = {"direct": "client-direct", "wharfinger": "client-aware", "kube-proxy": "client-proxied"}
SERVERS = ("server", "direct-server", "proxied-server")


def pod(name: str, node: str, *arguments: str, inject: bool = False) -> dict:
    """A Deployment of one pod on a node. Each path has a client and a server of its own: two that end at the same pair of ports would
    meet each other's TIME_WAIT and wait a second for the next SYN."""
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "bench"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name, "wharfinger.io/inject": str(inject).lower()}},
            "spec": {
                "nodeName": node, "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "load", "image": "wharfinger.local/shop:dev", "imagePullPolicy": "IfNotPresent",
                                "args": ["/bench/load.py", *arguments], "volumeMounts": [{"name": "bench", "mountPath": "/bench"}]}],
                "volumes": [{"name": "bench", "configMap": {"name": "load"}}]}}}}


def deploy(cluster: Cluster) -> dict[str, tuple[str, str, int]]:
    """The pods and pools of bench.yaml, ready; path -> (client deployment, address, port)."""
    near, far = cluster.nodes[0].name, cluster.nodes[1].name
    text = Path(__file__).with_name("bench.yaml").read_text()
    script = Path(__file__).with_name("load.py").read_text()
    cluster.kubectl("apply", "-f", "-", input=text.split("---")[0])
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load", "namespace": "bench"}, "data": {"load.py": script}}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(config))
    cluster.kubectl("apply", "-f", "-", input=text)
    pods = [pod(name, far, "serve", "8080") for name in SERVERS]
    pods += [pod(name, near, "idle", inject=path == "wharfinger") for path, name in CLIENTS.items()]
    cluster.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    for name in (*SERVERS, *CLIENTS.values()):
        cluster.kubectl("-n", "bench", "rollout", "status", f"deployment/{name}", "--timeout=120s")
    cluster.kubectl("-n", "bench", "wait", "redirectportpool/bench", "--for=condition=Programmed", "--timeout=60s")
    address = cluster.kubectl("-n", "bench", "get", "pods", "-l", "app=direct-server", "-o", "jsonpath={.items[0].status.podIP}")
    service = {name: cluster.kubectl("-n", "bench", "get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
               for name in ("server", "proxied-server")}
    targets = {"direct": (address, 8080), "wharfinger": (service["server"], 80), "kube-proxy": (service["proxied-server"], 80)}
    return {path: (CLIENTS[path], *target) for path, target in targets.items()}


def paths(cluster: Cluster, rounds: int, console: Console) -> dict[str, dict[str, dict[str, float]]]:
    """figure -> path -> summary: above 1 is more of it."""
    ways = deploy(cluster)
    seen: dict[str, dict[str, list[float]]] = {figure: {path: [] for path in PATHS} for figure in FIGURES}
    for number in range(rounds):
        console.print(f"round {number + 1} of {rounds}", highlight=False)
        for load, count in LOADS.items():
            for path in PATHS[number % 3:] + PATHS[:number % 3]:
                deployment, address, port = ways[path]
                got = json.loads(cluster.kubectl("-n", "bench", "exec", f"deploy/{deployment}", "-c", "load", "--",
                                                 "python3", "/bench/load.py", load, address, str(port), str(count)))
                for figure, (kind, key, _) in FIGURES.items():
                    if kind == load:
                        seen[figure][path].append(got[key])
    return {figure: {path: summary(values, of["direct"]) for path, values in of.items()} for figure, of in seen.items()}


def summary(values: list[float], direct: list[float]) -> dict[str, float]:
    """The median, and the ratio to `direct` of the same round: its median, least and greatest."""
    ratios = [value / other for value, other in zip(values, direct, strict=True)]
    return {"median": statistics.median(values), "ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}


def change_to_table(cluster: Cluster, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds from asking the API server for a change to the last agent's table write, by the agents' own logs: of a pool (its policy)
    and of a server (its pod is deleted, so that it drains)."""
    took: dict[str, list[float]] = {"pool": [], "server": []}
    client = kubernetes.config.new_client_from_config(str(cluster.kubeconfig))
    pools, pods = kubernetes.client.CustomObjectsApi(client), kubernetes.client.CoreV1Api(client)
    for number in range(rounds):
        policy = {"spec": {"policy": ("Random", "Hash")[number % 2]}}
        asked = time.time()
        pools.patch_namespaced_custom_object("wharfinger.io", "v1alpha1", "bench", "redirectportpools", "bench", policy)
        took["pool"].append(last_write_ms(cluster, asked))
        (pod,) = pods.list_namespaced_pod("bench", label_selector="app=server").items
        asked = time.time()
        pods.delete_namespaced_pod(pod.metadata.name, "bench")
        took["server"].append(last_write_ms(cluster, asked))
        wait_for(lambda gone=pod.metadata.uid: settled(pods, gone), "the server's successor")
        cluster.kubectl("-n", "bench", "wait", "serviceportpool/bench", "--for=condition=Programmed", "--timeout=60s")
        time.sleep(2)  # what follows the change (acknowledgements, Resting) must not be taken for the next one's
    return {what: {"p50_ms": statistics.median(values), "max_ms": max(values)} for what, values in took.items()}


def settled(pods: kubernetes.client.CoreV1Api, gone: str) -> bool:
    """Whether one ready server is there, and it is another than `gone` (uid)."""
    found = pods.list_namespaced_pod("bench", label_selector="app=server").items
    return len(found) == 1 and found[0].metadata.uid != gone and any(
        condition.type == "Ready" and condition.status == "True" for condition in found[0].status.conditions or ())


def last_write_ms(cluster: Cluster, asked: float) -> float:
    """Milliseconds from `asked` (seconds since 1970) to the last of the agents' first table writes after it."""
    stamps = wait_for(lambda: table_writes(cluster, asked), "every agent's table write in its log")
    return (max(stamps) - asked) * 1000


def table_writes(cluster: Cluster, since: float) -> list[float]:
    """The moment of each agent's first table write after `since`; empty until every agent has one."""
    found = []
    pods = cluster.kubectl("-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/component=agent",
                           "-o", "jsonpath={.items[*].metadata.name}").split()
    for pod in pods:
        for line in cluster.kubectl("-n", NAMESPACE, "logs", pod, "--since=60s").splitlines():
            record = json.loads(line) if line.startswith("{") else {}
            moment = datetime.fromisoformat(record["timestamp"]).timestamp() if record.get("event") == "tables written" else 0
            if moment > since:
                found.append(moment)
                break
    return found if len(found) == len(pods) else []


def memory(cluster: Cluster) -> dict[str, float]:
    """Resident megabytes of each component's process: the median over its processes."""
    seen: dict[str, list[float]] = {}
    modules = {"wharfinger_operator.injector": "injector", "wharfinger_operator": "operator", "wharfinger_dataplane.agent": "agent",
               "wharfinger_sidecar": "sidecar"}
    for node in cluster.nodes:
        for line in cluster.exec(node.name, "ps", "-eo", "rss,args").splitlines()[1:]:
            rss, _, words = line.strip().partition(" ")
            python = words.split()[0].endswith(("python", "python3"))
            component = next((name for module, name in modules.items() if python and f"-m {module}" in words), None)
            if component:
                seen.setdefault(component, []).append(int(rss) / 1024)
    return {component: statistics.median(values) for component, values in sorted(seen.items())}


def show(result: dict, console: Console) -> None:
    table = Table(title="pod to pod, two nodes: medians, and ratios to direct of the same round (least to greatest)")
    for column in ("", *PATHS):
        table.add_column(column, justify="left" if not column else "right")
    for figure, of in result["paths"].items():
        table.add_row(figure, *("{median:,.1f}  {ratio:.3f} ({least:.2f} to {greatest:.2f})".format(**of[path]) for path in PATHS))
    console.print(table)
    for title, key in (("nanoseconds a packet of real TCP, by the kernel's own account", "programs"),
                       ("nanoseconds an established data packet, by test runs", "established")):
        table = Table(title=title)
        for column in ("program", "ours", "forward only", "ratio", "most"):
            table.add_column(column, justify="right")
        for hook, of in result[key].items():
            table.add_row(hook, f"{of['ours_ns']:.0f}", f"{of['forward_only_ns']:.0f}", f"{of['ratio']:.2f}", f"{PACKET_MOST[hook]:.2f}")
        console.print(table)
    for end, of in result["lives"].items():
        console.print(f"a connection's life at its {end}'s node: {of['ours_ns'] / 1000:.1f} µs of the programs' time in {len(of['packets'])} runs, "
                      f"forward only {of['forward_only_ns'] / 1000:.1f}")
    table = Table(title="loads of others in a lab: the pod's address, the virtual address, their ratio (95 % intervals)")
    for column in ("", "direct", "aware", "ratio"):
        table.add_column(column, justify="right")
    for figure, of in result["tools"].items():
        table.add_row(figure, f"{of['direct']:,.1f}", f"{of['aware']:,.1f}", "{:.3f} ({:.3f} to {:.3f})".format(of["ratio"], *of["interval"]))
    console.print(table)
    table = Table(title="traces, all on one processor: µs a connection; their share of it, and connections/s to those without (95 % intervals)")
    for column in ("share of traces", "without", "reports", "telemetry", "of without", "connections/s", "collector", "spans dropped"):
        table.add_column(column, justify="right")
    for share, of in result["traces"].items():
        table.add_row(share, f"{of['without_us']:.0f}", f"{of['reports_us']:.2f}", f"{of['telemetry_us']:.2f}",
                      "{:.2%} ({:.2%} to {:.2%})".format(of["share"], *of["share_interval"]),
                      "{:.3f} ({:.3f} to {:.3f})".format(of["ratio"], *of["ratio_interval"]), f"{of['collector_us']:.2f}", str(of["spans_dropped"]))
    console.print(table)
    for what, took in result["change"].items():
        console.print(f"a {what}'s change to the last node's table write: p50 {took['p50_ms']:.0f} ms, max {took['max_ms']:.0f} ms")
    console.print("resident memory (MB): " + ", ".join(f"{name} {size:.0f}" for name, size in result["memory"].items()))


def main() -> None:
    console = Console(width=140)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    release = Release(Cluster.ensure())
    release.images()
    release.install(f"telemetry.otlpEndpoint={OTLP.format(address=release.jaeger())}", "telemetry.samplingRatio=0.1")
    result = {"taken": datetime.now(UTC).isoformat(timespec="seconds"), "rounds": rounds,
              "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=TOP).stdout.strip(),
              "paths": paths(release.cluster, rounds, console), "programs": programs.measure(rounds),
              "established": programs.established(rounds), "lives": lives.lives(), "tools": tools.measure(rounds),
              "traces": traces.measure(rounds),
              "change": change_to_table(release.cluster, rounds), "memory": memory(release.cluster)}
    folder = TOP / "bench" / "results"
    folder.mkdir(exist_ok=True)
    (folder / "latest.json").write_text(json.dumps(result, indent=2) + "\n")
    show(result, console)
    if (share := result["traces"]["0.1"]["share"]) > TRACES_MOST:
        sys.exit(f"a tenth of the traces costs {share:.1%} of connections/s: {TRACES_MOST:.0%} at most was the aim (bench/traces.py)")


if __name__ == "__main__":
    main()

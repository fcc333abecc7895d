"""What may happen to a cluster, and how it is known to be well again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from load import Load
from release import NAMESPACE, wait_for
from testbed import Cluster, containers

OWN = ("agent", "operator", "injector")
KUBERNETES = ("kube-apiserver", "etcd", "containerd")
BACK_S = 120.0
STUCK_S = 30.0
"""A fresh connection that takes longer is one that fails, only later."""


def standing(cluster: Cluster, component: str) -> dict[str, tuple[int, bool, str]]:
    """Pod -> how often its container was started again, whether it is ready, and its node, of a component of ours."""
    found = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "pods", "-l", f"app.kubernetes.io/component={component}", "-o", "json"))["items"]
    return {pod["metadata"]["name"]: (status["restartCount"], status["ready"], pod["spec"]["nodeName"]) for pod in found
            for status in pod["status"].get("containerStatuses", ())}


def kill_own(cluster: Cluster, component: str) -> None:
    """`kill -9` of every container of a component of ours; returns when all of them are ready again."""
    before = standing(cluster, component)
    for pod in before:
        cluster.signal(NAMESPACE, pod, component, "SIGKILL")
    wait_for(lambda: (now := standing(cluster, component)).keys() == before.keys() and all(
        count > before[pod][0] and ready for pod, (count, ready, _) in now.items()), f"the {component} to be back", seconds=BACK_S, every=0.5)


def kill_lives(cluster: Cluster, node: str, pod: str, component: str) -> None:
    """`kill -9` of whatever container of this pod runs on its node now, whether or not the API server knows of it yet."""
    labels = f'labels."io.kubernetes.pod.name"=={pod},labels."io.kubernetes.container.name"=={component}'
    for identity in cluster.exec(node, *containers.CTR, "containers", "list", "--quiet", labels).split():
        cluster.exec(node, *containers.CTR, "task", "kill", "--signal", "SIGKILL", identity, check=False)


def kill_kubernetes(cluster: Cluster, component: str) -> None:
    """`kill -9` of a daemon of Kubernetes, containerd on every node; returns when it answers and all nodes are Ready."""
    if component == "containerd":
        for node in cluster.nodes:
            cluster.crash(f"{node.name}-containerd")
        for node in cluster.nodes:
            wait_for(lambda node=node: containers.answers(cluster.exec_command(node.name)), f"containerd of {node.name}", seconds=BACK_S)
    else:
        cluster.crash(component)
        wait_for(lambda: cluster.kubectl("get", "--raw", "/readyz", check=False) == "ok", f"{component} to be back", seconds=BACK_S)
    wait_for(cluster.healthy, "all nodes to be Ready", seconds=BACK_S)


def unharmed(load: Load, before, *gone: str, until: Mapping[str, float] | None = None):
    """What is seen now: since `before` no connection ended but to the servers `gone`, no byte was wrong, no new connection failed or waits in vain.

    `until`: client -> the moment from which on it must know that those are gone. A fresh connection that it began earlier may have been meant for
    one of them: before a server's name is read, nobody can say.
    """
    seen, now = load.seen(), time.time()
    ended = [end for end in seen.ended_but_of(*gone) if end not in before.ended]
    assert ended == [], f"{len(ended)} connections ended, such as {ended[:3]}"
    assert seen.wrong == ()
    must_know = (until or {}).get
    failed = [end for end in seen.failed if end not in before.failed
              and not (end["server"] in ("", *gone) and end["at"] - end["age_s"] < must_know(end["client"], 0.0))]
    assert failed == [], f"{len(failed)} fresh connections failed, such as {failed[:3]}"
    stuck = [each for each in seen.pending if each not in before.pending
             and must_know(each["client"], 0.0) <= each["began"] < now - STUCK_S]
    assert stuck == [], f"{len(stuck)} fresh connections wait for an answer, such as {stuck[:3]}"
    assert load.wrong_at_servers() == []
    return seen


def told(load: Load, before, since: float, within_s: float, *gone: str) -> dict[str, int]:
    """How the connections to the servers `gone` ended: how -> number. All must have, each at once and not by a time-out."""
    held = sum(before.servers.get(name, 0) for name in gone)
    assert held > 0
    wait_for(lambda: not any((now := load.seen()).servers.get(name) for name in gone) and now, f"the end of {held} connections", seconds=120)
    ends = [end for end in load.seen().ended_of(*gone) if end not in before.ended]
    how: dict[str, int] = {}
    for end in ends:
        how[end["how"]] = how.get(end["how"], 0) + 1
    assert len(ends) == held
    assert how.keys() <= {"reset", "aborted", "end"}, how
    slowest = max(end["at"] for end in ends) - since
    assert slowest < within_s, f"the last of {held} clients was told after {slowest:.1f} s"
    print(f"{held} connections ended within {slowest:.2f} s: {how}")
    return how


def delete_by_force(load: Load, *pods: str) -> None:
    """`kubectl delete --force`: the objects are gone at once, whatever their kubelets say."""
    load.kubectl("delete", "pod", *pods, "--grace-period=0", "--force", "--wait=false")


def not_ready(cluster: Cluster, *nodes: str) -> bool:
    """Whether the control plane has noticed that these nodes are silent."""
    found = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    ready = {node["metadata"]["name"]: condition["status"] for node in found for condition in node["status"]["conditions"]
             if condition["type"] == "Ready"}
    return all(ready[name] != "True" for name in nodes)

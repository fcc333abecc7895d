"""Who is an aware client, who should be and is not: by the selectors of the webhooks that the cluster has. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime, timedelta

from wharfinger_api import INJECT_LABEL, NodeReport

from ._neighbours import refused_pods
from ._problems import Problem
from ._seen import REPORTED_CLIENTS
from ._surroundings import Pod, Surroundings

PATIENCE = timedelta(seconds=30)
"""A pod that runs for less may still be on its way into the agent's report."""
ROLLED = ("Deployment", "StatefulSet", "DaemonSet")


def missed(seen: Surroundings) -> Iterator[Problem]:
    """Pods that a webhook selects and that have no sidecar: created while no injector answered, or before their namespace was labelled."""
    yield from _by_owner(
        (pod for pod in seen.pods if not pod.sidecar and not pod.unfit and _selected(pod, seen)),
        lambda count: f"{count} running without the sidecar though selected for injection, so unaware",
        "make them anew, for a pod is injected when it is created")


def unattached(seen: Surroundings, reports: Collection[NodeReport], now: datetime) -> Iterator[Problem]:
    """Pods with the sidecar whose node's agent has no translator for them: their start gate gave up."""
    known = refused_pods(reports)  # told by themselves
    clients = {report.metadata.name: {client.uid for client in report.status.clients} for report in reports}
    yield from _by_owner(
        (pod for pod in seen.pods
         if pod.sidecar and pod.running_since and now - pod.running_since > PATIENCE
         and pod.node in clients and len(clients[pod.node]) < REPORTED_CLIENTS and pod.uid not in clients[pod.node]
         and f"{pod.namespace}/{pod.name}" not in known),
        lambda count: f"{count} injected, but without a translator, so unaware",
        "see the Events of the pod and the log of its node's agent; a translator is attached also later, then make no pod anew")


def outdated(seen: Surroundings, version: str) -> Iterator[Problem]:
    """Pods that another version's injector injected."""
    yield from _by_owner(
        (pod for pod in seen.pods if pod.sidecar and version and pod.version not in ("", version)),
        lambda count: f"{count} with the sidecar of another version than {version}", "they work; for the new sidecar make them anew")


def misspelt(seen: Surroundings) -> Iterator[Problem]:
    """Labels that look like a wish and are none."""
    for name, labels in sorted((seen.namespaces or {}).items()):
        if labels.get(INJECT_LABEL, "enabled") not in ("enabled", "disabled"):
            yield Problem(f"namespace {name}", f"its label {INJECT_LABEL} is {labels[INJECT_LABEL]!r}, which selects nothing",
                          f"kubectl label namespace {name} {INJECT_LABEL}=enabled --overwrite; or disabled")
    yield from _by_owner(
        (pod for pod in seen.pods if pod.labels.get(INJECT_LABEL, "true") not in ("true", "false")),
        lambda count: f"{count} with a label {INJECT_LABEL} that is neither \"true\" nor \"false\" and selects nothing",
        'write "true" or "false" in the pod template')


def _selected(pod: Pod, seen: Surroundings) -> bool:
    namespace = {**(seen.namespaces or {}).get(pod.namespace, {}), "kubernetes.io/metadata.name": pod.namespace}
    return any(webhook.namespaces.holds(namespace) and webhook.pods.holds(pod.labels) for webhook in seen.webhooks)


def _by_owner(pods: Iterable[Pod], what: Callable[[str], str], remedy: str) -> Iterator[Problem]:
    owned: dict[tuple[str, str, str], list[Pod]] = defaultdict(list)
    for pod in pods:
        owned[pod.namespace, *pod.owner].append(pod)
    for (namespace, kind, name), found in sorted(owned.items()):
        count = "is" if not kind else "1 pod is" if len(found) == 1 else f"{len(found)} pods are"
        yield Problem(f"{kind or 'Pod'} {namespace}/{name}", what(count), f"{remedy}: {_anew(namespace, kind, name, found)}")


def _anew(namespace: str, kind: str, name: str, pods: list[Pod]) -> str:
    if kind in ROLLED:
        return f"kubectl rollout restart --namespace {namespace} {kind.lower()}/{name}"
    if kind:
        return f"kubectl delete pod --namespace {namespace} {' '.join(sorted(pod.name for pod in pods)[:5])}"
    return f"delete it and create it again: kubectl delete pod --namespace {namespace} {name}"

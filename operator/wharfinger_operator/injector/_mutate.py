"""What the injector does to a pod: a pure function from the pod's manifest to a JSON patch (RFC 6902).

Rules
- Reasons to leave a pod alone are asked in order; the first that holds names the outcome.
- An injected pod has the sidecar as the first init container, restartPolicy Always (a native sidecar), so that its start
  gate stands before everything else in the pod; an annotation with the injector's version; a label that says "aware".
- The wanted pod is compared with the pod in hand, so a second call patches nothing, and one after another webhook has put
  itself in front moves the sidecar back to the front. Fields that the API server or others added to ours are left alone.
- The sidecar satisfies the Pod Security Standard "restricted" whatever the pod's own security context says.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wharfinger_operator.injector._settings import SidecarSettings

CONTAINER = "wharfinger-sidecar"
INJECT_LABEL = "wharfinger.io/inject"
CLIENT_LABEL = "wharfinger.io/client"
CLIENT_AWARE = "aware"
INJECTED_ANNOTATION = "wharfinger.io/injected"
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
USER_ID = 65532
"""The sidecar's user and group: numeric, so that the kubelet can tell that it is not root; no account needs the number."""

Pod = Mapping[str, Any]
"""A v1 Pod as JSON."""
Operation = dict[str, Any]
"""One operation of a JSON patch."""


class Reason(enum.StrEnum):
    """Why a pod was left alone, or that it was injected."""

    RELEASE_NAMESPACE = "release namespace"
    OPTED_OUT = "opted out by label"
    HOST_NETWORK = "host network"
    NOT_LINUX = "not Linux"
    MIRROR = "mirror of a static pod"
    ALREADY_INJECTED = "already injected"
    INJECTED = "injected"


@dataclass(frozen=True)
class Decision:
    """The outcome for one pod; `patch` is empty for every reason but INJECTED."""

    reason: Reason
    patch: tuple[Operation, ...] = ()


def mutate(pod: Pod, namespace: str, settings: SidecarSettings) -> Decision:
    """Decide for `pod`, which is being created in `namespace` (a pod under creation need not name its own)."""
    for holds, reason in REASONS_TO_LEAVE:
        if holds(pod, namespace, settings):
            return Decision(reason)
    patch = (*_metadata_patch(pod, settings), *_container_patch(pod, sidecar(settings)))
    return Decision(Reason.INJECTED, patch) if patch else Decision(Reason.ALREADY_INJECTED)


def _in_release_namespace(_pod: Pod, namespace: str, settings: SidecarSettings) -> bool:
    return namespace == settings.release_namespace


def _opted_out(pod: Pod, _namespace: str, _settings: SidecarSettings) -> bool:
    return _metadata(pod, "labels").get(INJECT_LABEL) == "false"


def _on_host_network(pod: Pod, _namespace: str, _settings: SidecarSettings) -> bool:
    return bool(pod["spec"].get("hostNetwork"))


def _not_linux(pod: Pod, _namespace: str, _settings: SidecarSettings) -> bool:
    return (pod["spec"].get("os") or {}).get("name", "linux") != "linux"


def _is_mirror(pod: Pod, _namespace: str, _settings: SidecarSettings) -> bool:
    # The kubelet runs a static pod from its file; the API server's copy must stay a copy.
    return MIRROR_ANNOTATION in _metadata(pod, "annotations")


REASONS_TO_LEAVE: tuple[tuple[Callable[[Pod, str, SidecarSettings], bool], Reason], ...] = (
    (_in_release_namespace, Reason.RELEASE_NAMESPACE),
    (_opted_out, Reason.OPTED_OUT),
    (_on_host_network, Reason.HOST_NETWORK),
    (_not_linux, Reason.NOT_LINUX),
    (_is_mirror, Reason.MIRROR),
)


def sidecar(settings: SidecarSettings) -> dict[str, Any]:
    """The sidecar's container as the pod gets it."""
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "NODE_NAME": "spec.nodeName"}
    downward = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    return {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "restartPolicy": "Always",
        "env": [*downward, {"name": "WHARFINGER_START_GATE_TIMEOUT_S", "value": f"{settings.start_gate_timeout_s:g}"}],
        # The start gate: see wharfinger_sidecar.__main__ for why a hook and not a probe.
        "lifecycle": {"postStart": {"exec": {"command": ["/usr/bin/python3", "-S", "-m", "wharfinger_sidecar", "gate"]}}},
        "resources": {kind: dict(amounts) for kind, amounts in settings.resources.items()},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": USER_ID,
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _metadata_patch(pod: Pod, settings: SidecarSettings) -> list[Operation]:
    wanted = (("annotations", INJECTED_ANNOTATION, settings.version), ("labels", CLIENT_LABEL, CLIENT_AWARE))
    operations: list[Operation] = []
    for kind, key, value in wanted:
        present = _metadata(pod, kind)
        if not present:
            operations.append({"op": "add", "path": f"/metadata/{kind}", "value": {key: value}})
        elif present.get(key) != value:
            operations.append({"op": "add", "path": f"/metadata/{kind}/{_escaped(key)}", "value": value})
    return operations


def _container_patch(pod: Pod, wanted: dict[str, Any]) -> list[Operation]:
    present = pod["spec"].get("initContainers") or []
    if not present:
        return [{"op": "add", "path": "/spec/initContainers", "value": [wanted]}]
    places = [index for index, container in enumerate(present) if container["name"] == CONTAINER]
    if places == [0] and _covers(present[0], wanted):
        return []
    # From the last to the first, so that a removal does not move the places still to be removed.
    removals = [{"op": "remove", "path": f"/spec/initContainers/{index}"} for index in reversed(places)]
    return [*removals, {"op": "add", "path": "/spec/initContainers/0", "value": wanted}]


def _covers(actual: Any, wanted: Any) -> bool:
    """Whether `actual` has everything that `wanted` has. Lists match item by item: ours hold nothing that others add to."""
    if isinstance(wanted, dict):
        return isinstance(actual, dict) and all(key in actual and _covers(actual[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(actual, list) and len(actual) == len(wanted) and all(map(_covers, actual, wanted))
    return bool(actual == wanted)


def _metadata(pod: Pod, kind: str) -> Mapping[str, str]:
    return (pod.get("metadata") or {}).get(kind) or {}


def _escaped(key: str) -> str:
    """`key` as a step of a JSON pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")

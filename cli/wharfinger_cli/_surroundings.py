"""What Wharfinger is, or will be, installed into: nodes, namespaces, webhooks and pods, from the API server's JSON. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wharfinger_api import GROUP, INJECTED_ANNOTATION, PLURALS, SIDECAR_CONTAINER, VERSION, LabelSelector

Json = Mapping[str, Any]
Version = tuple[int, int]


@dataclass(frozen=True)
class Node:
    """`kernel` is (major, minor), `addresses` the internal ones."""

    name: str
    system: str
    architecture: str
    kernel: Version
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Webhook:
    """One webhook of a MutatingWebhookConfiguration of ours. `ca_bundle` is PEM, empty until the injector has written it."""

    configuration: str
    namespaces: LabelSelector
    pods: LabelSelector
    failure_policy: str
    ca_bundle: str


@dataclass(frozen=True)
class Pod:
    """A pod that has not ended. `owner` is what makes pods like it: (kind, name), kind empty for a pod made by hand; `version` the
    injector's that injected it, empty if none did; `unfit` why no pod like it can be aware, if so."""

    namespace: str
    name: str
    uid: str
    node: str
    labels: Mapping[str, str]
    owner: tuple[str, str]
    version: str
    sidecar: bool
    running_since: datetime | None
    unfit: str


@dataclass(frozen=True)
class Surroundings:
    """A cluster but for our own objects. `namespaces`: name -> labels; `definitions`: our kinds' plural -> versions served; `denied`:
    what the asker may not do and an installation does; `daemon_sets`: names, of the whole cluster."""

    version: Version
    nodes: tuple[Node, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] | None = None
    definitions: Mapping[str, tuple[str, ...]] | None = None
    webhooks: tuple[Webhook, ...] = ()
    pods: tuple[Pod, ...] = ()
    daemon_sets: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()

    @property
    def is_defined(self) -> bool:
        """Whether all our kinds are served."""
        return all(VERSION in (self.definitions or {}).get(plural, ()) for plural in PLURALS.values())


def version_of(text: str) -> Version:
    """(major, minor) of a version such as v1.34.4 or 6.18.5-cloud; (0, 0) when it has none."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def node(raw: Json) -> Node:
    info = raw["status"].get("nodeInfo", {})
    addresses = tuple(entry["address"] for entry in raw["status"].get("addresses", ()) if entry["type"] == "InternalIP")
    return Node(raw["metadata"]["name"], info.get("operatingSystem", ""), info.get("architecture", ""),
                version_of(info.get("kernelVersion", "")), addresses)


def webhooks(configurations: Iterable[Json]) -> tuple[Webhook, ...]:
    """All webhooks of these configurations."""
    return tuple(
        Webhook(raw["metadata"]["name"], LabelSelector.model_validate(entry.get("namespaceSelector") or {}),
                LabelSelector.model_validate(entry.get("objectSelector") or {}), entry.get("failurePolicy", "Fail"),
                _text(entry["clientConfig"].get("caBundle", "")))
        for raw in configurations for entry in raw.get("webhooks", ()))


def definitions(raw: Iterable[Json]) -> dict[str, tuple[str, ...]]:
    """Our kinds' plurals -> the versions that the API server serves."""
    return {found["spec"]["names"]["plural"]: tuple(entry["name"] for entry in found["spec"]["versions"] if entry["served"])
            for found in raw if found["spec"]["group"] == GROUP}


def pod(raw: Json) -> Pod | None:
    """None for a pod that has ended or is about to."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status", {})
    if status.get("phase") in ("Succeeded", "Failed") or metadata.get("deletionTimestamp"):
        return None
    started = [found["state"]["running"]["startedAt"] for found in status.get("containerStatuses", ()) if "running" in found.get("state", {})]
    return Pod(
        namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"], node=spec.get("nodeName", ""),
        labels=metadata.get("labels") or {}, owner=_owner(metadata), version=(metadata.get("annotations") or {}).get(INJECTED_ANNOTATION, ""),
        sidecar=any(found["name"] == SIDECAR_CONTAINER for found in spec.get("initContainers", ())),
        running_since=datetime.fromisoformat(max(started)) if started else None, unfit=_unfit(metadata, spec))


def _unfit(metadata: Json, spec: Json) -> str:
    if spec.get("hostNetwork"):
        return "uses its node's network"
    if (spec.get("os") or {}).get("name", "linux") != "linux":
        return "is not for Linux"
    return "is a static pod" if "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}) else ""


def _owner(metadata: Json) -> tuple[str, str]:
    """A ReplicaSet that a Deployment made bears the Deployment's name and a hash that is also the pod's label."""
    found = next((entry for entry in metadata.get("ownerReferences", ()) if entry.get("controller")), None)
    if found is None:
        return "", metadata["name"]
    hashed = (metadata.get("labels") or {}).get("pod-template-hash", "")
    if found["kind"] == "ReplicaSet" and hashed and found["name"].endswith(f"-{hashed}"):
        return "Deployment", found["name"].removesuffix(f"-{hashed}")
    return found["kind"], found["name"]


def _text(base64: str) -> str:
    from base64 import b64decode

    return b64decode(base64).decode(errors="replace")

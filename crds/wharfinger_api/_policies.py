"""networking.k8s.io/v1 NetworkPolicy, as far as it matters whom one selects: what it allows is for the policy engine to judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from ._errors import MalformedObject
from ._pools import LabelSelector

Direction = Literal["Ingress", "Egress"]


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """Which pods of its own namespace a policy selects, and in which directions."""

    namespace: str
    name: str
    selector: LabelSelector
    directions: frozenset[str]


def network_policy(raw: Mapping[str, Any]) -> NetworkPolicy:
    """A policy as the API server gives it. Without policyTypes it is for ingress, and for egress if it has egress rules. MalformedObject
    when its selector cannot be read."""
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    directions = spec.get("policyTypes") or ("Ingress", *(["Egress"] if spec.get("egress") else ()))
    try:
        selector = LabelSelector.model_validate(spec.get("podSelector") or {})
    except ValidationError as error:
        raise MalformedObject(f"NetworkPolicy {metadata['namespace']}/{metadata['name']}: spec.podSelector: {error}") from error
    return NetworkPolicy(metadata["namespace"], metadata["name"], selector, frozenset(directions))


class Policies:
    """The policies of a cluster, to be asked whom they select."""

    def __init__(self, policies: Iterable[NetworkPolicy] = ()) -> None:
        self._by_namespace: dict[str, list[NetworkPolicy]] = {}
        for policy in sorted(policies, key=lambda policy: policy.name):
            self._by_namespace.setdefault(policy.namespace, []).append(policy)

    def selecting(self, direction: Direction, namespace: str, labels: Mapping[str, str]) -> str:
        """namespace/name of the first policy, by name, that selects a pod with these labels in this direction; empty when none does."""
        return next((f"{policy.namespace}/{policy.name}" for policy in self._by_namespace.get(namespace, ())
                     if direction in policy.directions and policy.selector.holds(labels)), "")

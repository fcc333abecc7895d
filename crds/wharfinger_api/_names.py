"""Names that more than one piece must agree on (docs/architecture.md, "Kubernetes")."""

from __future__ import annotations

GROUP = "wharfinger.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
PLURALS = {
    "ServicePortPool": "serviceportpools",
    "RedirectPortPool": "redirectportpools",
    "ServicePortSlice": "serviceportslices",
    "NodeReport": "nodereports",
}
"""Kind to the plural in the API server's paths."""

POOL_LABEL = f"{GROUP}/pool"
INJECT_LABEL = f"{GROUP}/inject"
CLIENT_LABEL = f"{GROUP}/client"
INJECTED_ANNOTATION = f"{GROUP}/injected"
TRACEPARENT_ANNOTATION = f"{GROUP}/traceparent"
SIDECAR_CONTAINER = "wharfinger-sidecar"
OPERATOR_LEASE = "wharfinger-operator"
AGENT_LEASE_PREFIX = "wharfinger-agent-"
UNINSTALL_MARKER = "wharfinger-uninstall"
"""The ConfigMap of the release namespace at which agents leave their nodes."""
GRACE_KEY = "gracePeriodSeconds"
"""Of the marker's data."""
DETACHED = "Detached"
"""The condition of a NodeReport by which an agent acknowledges the marker."""


def agent_lease(node: str) -> str:
    """Name of the Lease that the agent of `node` renews, in the release namespace."""
    return AGENT_LEASE_PREFIX + node


def node_of_lease(name: str) -> str | None:
    """The node whose agent renews the Lease `name`, or None when it is not an agent's Lease."""
    return name.removeprefix(AGENT_LEASE_PREFIX) if name.startswith(AGENT_LEASE_PREFIX) else None

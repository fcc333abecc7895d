"""A kubeconfig's current context, for an agent that a developer runs outside a pod."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from wharfinger_dataplane.agent.access import Access, NoAccess


def kubeconfig(path: Path) -> Access:
    """What `path` says of server, authority, token and client certificate. NoAccess when it says nothing of use."""
    try:
        raw = yaml.safe_load(path.read_text())
        context = _named(raw["contexts"], raw["current-context"])["context"]
        cluster = _named(raw["clusters"], context["cluster"])["cluster"]
        user = _named(raw["users"], context["user"])["user"]
        return Access(cluster["server"], _pem(path, cluster, "certificate-authority"), token=user.get("token", ""),
                      certificate=_pem(path, user, "client-certificate") + _pem(path, user, "client-key"))
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise NoAccess(f"{path} is no kubeconfig with a current context: {error}") from error


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(name)


def _pem(path: Path, entry: dict[str, Any], field: str) -> str:
    if data := entry.get(f"{field}-data"):
        return base64.b64decode(data).decode()
    return (path.parent / entry[field]).read_text() if field in entry else ""

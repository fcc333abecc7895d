"""kubeconfig files: who speaks to the API server, and with which certificate."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import yaml

from .settings import Settings


def kubeconfig(settings: Settings, user: str) -> dict:
    """One that carries its certificates in itself, so that it can be copied anywhere on this machine."""
    folder = settings.certificates
    name = f"wharfinger-testbed-{settings.index}"
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": settings.server, "certificate-authority-data": _data(folder / "ca.crt")}}],
        "users": [{"name": name, "user": {"client-certificate-data": _data(folder / f"{user}.crt"),
                                          "client-key-data": _data(folder / f"{user}.key")}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }


def write(settings: Settings, user: str, path: Path) -> Path:
    """Writes the kubeconfig of a user whose certificate has that file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(kubeconfig(settings, user), sort_keys=False))
    if "SUDO_UID" in os.environ:  # whoever started this by sudo uses kubectl as himself
        os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))
    return path


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()

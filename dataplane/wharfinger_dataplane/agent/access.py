"""Where the API server is, and as whom the agent speaks to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class NoAccess(Exception):
    """Nothing says where the API server is, or who we are to it."""


@dataclass(frozen=True)
class Access:
    """Where the API server is and who asks: by a token that is read again when its file changes, or by a client certificate."""

    server: str
    ca: str
    """Certificates of authorities, PEM; empty: the system's."""
    token_file: Path | None = None
    token: str = ""
    certificate: str = ""
    """A client's certificate and key, PEM; empty: none."""


def service_account(environment: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> Access:
    """What every pod is given (Kubernetes documentation, "Accessing the Kubernetes API from a Pod"). NoAccess when this is no pod."""
    try:
        host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
        ca = (directory / "ca.crt").read_text()
    except (KeyError, OSError) as error:
        raise NoAccess(f"no API server is known: neither KUBECONFIG nor a pod's service account ({error})") from error
    return Access(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}", ca, token_file=directory / "token")

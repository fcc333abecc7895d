"""What the injector asks of the API server: its Secret, and the trust bundle of its webhook configuration. Nothing else does.

Five requests, made with the HTTP library that serves the webhook: the official client alone takes some 70 MB of memory,
three quarters of what each replica had with it.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

FIELD_MANAGER = "wharfinger-injector"
"""Server-side apply's owner of what is written here, so that Helm's own apply leaves it alone."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = aiohttp.ClientTimeout(total=10)
NOT_FOUND, CONFLICT = 404, 409
SHOWN_CHARACTERS = 500
"""Of an answer that is an error."""


class ClusterError(Exception):
    """The API server did not do what was asked; the message says what was asked and what it answered."""


@dataclass(frozen=True)
class ApiServer:
    """Where the API server is (`url` without a slash at its end) and how we are known to it: by `context` or by a token."""

    url: str
    context: ssl.SSLContext
    token: Path | None = None
    """A file, which the kubelet renews: it is read for every request."""

    @classmethod
    def in_cluster(cls, environment: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> ApiServer:
        """As the pod's service account (Kubernetes documentation, "Accessing the API from within a Pod")."""
        try:
            host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
            context = ssl.create_default_context(cafile=str(account / "ca.crt"))
        except (KeyError, OSError) as error:
            raise ClusterError(f"not in a pod with a service account: {error!r}") from error
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", context, account / "token")


@dataclass(frozen=True)
class StoredSecret:
    """A Secret's data (base64 values) and the resourceVersion that a replacement must still find."""

    data: Mapping[str, str]
    resource_version: str


class Cluster:
    """One namespace's Secrets and the cluster's mutating webhook configurations. An asynchronous context manager."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self._secrets = f"/api/v1/namespaces/{namespace}/secrets"
        self._configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=server.context), timeout=TIMEOUT)

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def read_secret(self, name: str) -> StoredSecret | None:
        """The Secret `name`, or None when there is none."""
        secret = await self._ask("GET", f"{self._secrets}/{name}", expected=NOT_FOUND)
        return StoredSecret(secret.get("data") or {}, secret["metadata"]["resourceVersion"]) if secret else None

    async def create_secret(self, name: str, kind: str, data: Mapping[str, str]) -> bool:
        """Whether the Secret was created; False when another replica was first."""
        return await self._ask("POST", self._secrets, _secret(name, kind, data), CONFLICT) is not None

    async def replace_secret(self, name: str, kind: str, data: Mapping[str, str], resource_version: str) -> bool:
        """Whether the Secret was replaced; False when it is no longer the one of `resource_version`."""
        return await self._ask("PUT", f"{self._secrets}/{name}", _secret(name, kind, data, resource_version), CONFLICT) is not None

    async def read_trust(self, configuration: str) -> dict[str, bytes]:
        """Trust bundle (PEM, may be empty) of every webhook in the mutating webhook configuration, by the webhook's name."""
        found = await self._ask("GET", f"{self._configurations}/{configuration}")
        return {hook["name"]: base64.b64decode(hook["clientConfig"].get("caBundle") or "") for hook in found.get("webhooks") or ()}

    async def write_trust(self, configuration: str, webhooks: tuple[str, ...], bundle: bytes) -> None:
        """Set the trust bundle of `webhooks`, and of nothing else in the configuration (a strategic merge by name)."""
        encoded = base64.b64encode(bundle).decode()
        body = {"webhooks": [{"name": name, "clientConfig": {"caBundle": encoded}} for name in webhooks]}
        await self._ask("PATCH", f"{self._configurations}/{configuration}", body)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, expected: int | None = None) -> Any:
        """The answer's JSON; None for the one refusal (HTTP status) that is an answer too; else ClusterError."""
        merge = "application/strategic-merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": merge, "User-Agent": FIELD_MANAGER}
        try:
            if self._server.token is not None:
                headers["Authorization"] = f"Bearer {self._server.token.read_text().strip()}"
            query = {} if method == "GET" else {"fieldManager": FIELD_MANAGER}
            async with self._session.request(method, self._server.url + path, params=query, json=body, headers=headers) as response:
                if response.ok:
                    return await response.json()
                if response.status == expected:
                    return None
                text = (await response.text())[:SHOWN_CHARACTERS]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterError(f"could not {method} {path}: {error!r}") from error
        raise ClusterError(f"could not {method} {path}: {response.status} {response.reason}: {text}")


def _secret(name: str, kind: str, data: Mapping[str, str], resource_version: str | None = None) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER}}
    if resource_version is not None:
        metadata["resourceVersion"] = resource_version
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": dict(data)}

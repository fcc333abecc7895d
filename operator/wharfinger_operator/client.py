"""The one wall to the API server for what the operator itself asks and writes (kopf has its own for watching).

A thin client over aiohttp: the process has both anyway, and a write costs one round trip. Foreign errors are wrapped once, here.
"""

from __future__ import annotations

import json
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from wharfinger_api import API_VERSION, PLURALS

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_READ_EVERY_S = 60.0
"""The kubelet renews the token's file long before the old one runs out; reading it anew is all there is to do."""
REQUEST_TIMEOUT_S = 8.0
PAGE = 500
WATCH_S = 240


class ClientError(Exception):
    """The API server did not do what was asked. The message says what was asked and what it answered."""


class Missing(ClientError):
    """404: the object, or its kind, does not exist."""


class Conflict(ClientError):
    """409: the object exists already, or is no longer the version that was written from."""


class Rejected(ClientError):
    """Any other refusal that asking again does not change."""


class Unavailable(ClientError):
    """No answer, or one that says to try again."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Where a kind lives in the API: path prefix and plural."""

    prefix: str
    plural: str


KINDS: dict[str, Kind] = {
    "Pod": Kind("/api/v1", "pods"), "Service": Kind("/api/v1", "services"), "Node": Kind("/api/v1", "nodes"),
    "Event": Kind("/api/v1", "events"), "EndpointSlice": Kind("/apis/discovery.k8s.io/v1", "endpointslices"),
    "NetworkPolicy": Kind("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Lease": Kind("/apis/coordination.k8s.io/v1", "leases"),
    "ConfigMap": Kind("/api/v1", "configmaps"), "Secret": Kind("/api/v1", "secrets"),
    "MutatingWebhookConfiguration": Kind("/apis/admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations"),
    **{kind: Kind(f"/apis/{API_VERSION}", plural) for kind, plural in PLURALS.items()}}
OWN = ("ServicePortPool", "RedirectPortPool", "ServicePortSlice")
"""What users and the operator write, which is what kopf watches; other kinds are watched beside it (seeing.py)."""
SELECTIONS: dict[str, dict[str, str]] = {
    "EndpointSlice": {"labelSelector": "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io"}}
"""What is not asked for: EndpointSlices of Services with a selector say what the pods say themselves, and change with each of them."""


def login(**_: Any) -> kopf.ConnectionInfo:
    """Credentials of the pod's service account, else of KUBECONFIG. kopf.LoginError when there are neither.

    The address is the one in the environment, as client-go takes it: a cluster need not have DNS for its own operator to work.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host and (ACCOUNT / "token").exists():
        return kopf.ConnectionInfo(
            server=f"https://{f'[{host}]' if ':' in host else host}:{port}", ca_path=ACCOUNT / "ca.crt",
            token=(ACCOUNT / "token").read_text().strip(), expiration=datetime.now(UTC) + timedelta(seconds=10 * TOKEN_READ_EVERY_S))
    found = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    if found is None:
        raise kopf.LoginError("no service account is mounted and KUBECONFIG is not set")
    return found


class Client:
    """Requests to one API server. Use as an asynchronous context. `counted` is told of each by method and plural."""

    def __init__(self, connection: kopf.ConnectionInfo, counted: Counter[tuple[str, str]] | None = None) -> None:
        self._connection = connection
        self.counted = Counter() if counted is None else counted
        self._token_read = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        context: ssl.SSLContext | bool = self._connection.as_ssl_context() if self._connection.server.startswith("https") else False
        self._session = aiohttp.ClientSession(
            base_url=self._connection.server, connector=aiohttp.TCPConnector(ssl=context, limit=64),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """The object. Missing when there is none."""
        return await self._ask("GET", _path(kind, namespace, name))

    async def list(self, kind: str, namespace: str = "") -> tuple[list[dict[str, Any]], int]:
        """All objects of a kind (of a namespace), and the resourceVersion of the listing."""
        items: list[dict[str, Any]] = []
        parameters = {"limit": str(PAGE), **SELECTIONS.get(kind, {})}
        while True:
            page = await self._ask("GET", _path(kind, namespace), parameters=parameters)
            items += page.get("items") or ()
            version = int(page["metadata"].get("resourceVersion") or 0)
            if not page["metadata"].get("continue"):
                return items, version
            parameters = {"limit": str(PAGE), **SELECTIONS.get(kind, {}), "continue": page["metadata"]["continue"]}

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The object as created. Conflict when it exists."""
        return await self._ask("POST", _path(kind, namespace), body=body)

    async def replace(self, kind: str, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The object as replaced. Conflict when it is no longer the body's resourceVersion."""
        return await self._ask("PUT", _path(kind, namespace, name), body=body)

    async def patch_status(self, kind: str, namespace: str, name: str, status: Mapping[str, Any]) -> dict[str, Any]:
        """The object with its status merged (RFC 7386: lists are replaced whole)."""
        path = _path(kind, namespace, name) + "/status"
        return await self._ask("PATCH", path, body={"status": status}, content_type="application/merge-patch+json")

    async def delete(self, kind: str, namespace: str, name: str, uid: str, resource_version: str) -> None:
        """Deletes exactly this version of this object. Conflict when it is another by now."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        await self._ask("DELETE", _path(kind, namespace, name), body={"preconditions": preconditions})

    async def remove(self, kind: str, namespace: str, name: str) -> None:
        """Deletes whatever has this name. Missing when there is none."""
        await self._ask("DELETE", _path(kind, namespace, name))

    async def watch(self, kind: str, namespace: str, version: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """(ADDED, MODIFIED, DELETED or BOOKMARK; object) since `version`, until the server ends the stream. Unavailable when it breaks."""
        parameters = {"watch": "true", "resourceVersion": str(version), "timeoutSeconds": str(WATCH_S), "allowWatchBookmarks": "true",
                      **SELECTIONS.get(kind, {})}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_S, sock_read=WATCH_S + REQUEST_TIMEOUT_S)
        path = _path(kind, namespace)
        try:
            async with self._open().get(path, params=parameters, headers=self._headers(), timeout=timeout) as answer:
                await _refuse("GET", path, answer)
                async for line in _lines(answer):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Unavailable(f"watch {path}: {event['object'].get('message')}")
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"watch {path}: {error!r}") from error

    async def _ask(self, method: str, path: str, *, body: Mapping[str, Any] | None = None, parameters: Mapping[str, str] | None = None,
                   content_type: str = "application/json") -> dict[str, Any]:
        self.counted[method, _plural(path)] += 1
        headers = {**self._headers(), "Content-Type": content_type}
        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._open().request(method, path, data=data, params=parameters, headers=headers) as answer:
                await _refuse(method, path, answer)
                return dict(await answer.json())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{method} {path}: {error!r}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is used outside its context")
        return self._session

    def _headers(self) -> dict[str, str]:
        clock = datetime.now(UTC).timestamp()
        if self._connection.token and clock - self._token_read > TOKEN_READ_EVERY_S:
            self._token_read = clock
            if (ACCOUNT / "token").exists() and self._connection.ca_path == ACCOUNT / "ca.crt":
                self._connection = replace(self._connection, token=(ACCOUNT / "token").read_text().strip())
        return self._connection.as_http_headers()


def _path(kind: str, namespace: str, name: str = "") -> str:
    where = KINDS[kind]
    middle = f"/namespaces/{namespace}" if namespace else ""
    return f"{where.prefix}{middle}/{where.plural}" + (f"/{name}" if name else "")


def _plural(path: str) -> str:
    """The plural in a path as `_path` makes it."""
    rest = path.split("/")[3 if path.startswith("/api/") else 4:]
    return rest[2] if rest[0] == "namespaces" and len(rest) > 2 else rest[0]


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The answer's lines, however long: a NodeReport of a thousand slices is one, and aiohttp's own reading stops at 128 KiB."""
    parts: list[bytes] = []
    async for chunk in answer.content.iter_any():
        first, *others = chunk.split(b"\n")
        parts.append(first)
        for other in others:
            yield b"".join(parts)
            parts = [other]


async def _refuse(method: str, path: str, answer: aiohttp.ClientResponse) -> None:
    """Raises what a refusal means."""
    if answer.status < 400:
        return
    try:
        said = json.loads(await answer.text()).get("message") or answer.reason
    except ValueError:
        said = answer.reason
    message = f"{method} {path}: {answer.status} {said}"
    if answer.status == 404:
        raise Missing(message)
    if answer.status == 409:
        raise Conflict(message)
    if answer.status == 429 or answer.status >= 500 or answer.status == 401:
        raise Unavailable(message)
    raise Rejected(message)

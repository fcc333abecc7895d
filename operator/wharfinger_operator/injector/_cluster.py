"""What the injector asks of the API server: its Secret, and the trust bundle of its webhook configuration. Nothing else does."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client

FIELD_MANAGER = "wharfinger-injector"
"""Server-side apply's owner of what is written here, so that Helm's own apply leaves it alone."""
TIMEOUT_S = 10
NOT_FOUND, CONFLICT = 404, 409


class ClusterError(Exception):
    """The API server did not do what was asked; the message says what was asked and what it answered."""


@dataclass(frozen=True)
class StoredSecret:
    """A Secret's data (base64 values) and the resourceVersion that a replacement must still find."""

    data: Mapping[str, str]
    resource_version: str


class Cluster:
    """One namespace's Secrets and the cluster's mutating webhook configurations, by way of `api` (the process's credentials)."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._core = client.CoreV1Api(api)
        self._admission = client.AdmissionregistrationV1Api(api)
        self._namespace = namespace

    def read_secret(self, name: str) -> StoredSecret | None:
        """The Secret `name`, or None when there is none."""
        secret = _ask(f"read Secret {name}", NOT_FOUND, lambda: self._core.read_namespaced_secret(
            name, self._namespace, _request_timeout=TIMEOUT_S))
        return StoredSecret(secret.data or {}, secret.metadata.resource_version) if secret else None

    def create_secret(self, name: str, kind: str, data: Mapping[str, str]) -> bool:
        """Whether the Secret was created; False when another replica was first."""
        body = {"metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER}}, "type": kind, "data": dict(data)}
        return _ask(f"create Secret {name}", CONFLICT, lambda: self._core.create_namespaced_secret(
            self._namespace, body, field_manager=FIELD_MANAGER, _request_timeout=TIMEOUT_S)) is not None

    def replace_secret(self, name: str, kind: str, data: Mapping[str, str], resource_version: str) -> bool:
        """Whether the Secret was replaced; False when it is no longer the one of `resource_version`, or is gone."""
        labels = {"app.kubernetes.io/managed-by": FIELD_MANAGER}
        body = {"metadata": {"name": name, "resourceVersion": resource_version, "labels": labels}, "type": kind, "data": dict(data)}
        return _ask(f"replace Secret {name}", CONFLICT, lambda: self._core.replace_namespaced_secret(
            name, self._namespace, body, field_manager=FIELD_MANAGER, _request_timeout=TIMEOUT_S)) is not None

    def read_trust(self, configuration: str) -> dict[str, bytes]:
        """Trust bundle (PEM, may be empty) of every webhook in the mutating webhook configuration, by the webhook's name."""
        found = _ask(f"read MutatingWebhookConfiguration {configuration}", None, lambda: (
            self._admission.read_mutating_webhook_configuration(configuration, _request_timeout=TIMEOUT_S)))
        return {webhook.name: base64.b64decode(webhook.client_config.ca_bundle or "") for webhook in found.webhooks or ()}

    def write_trust(self, configuration: str, webhooks: tuple[str, ...], bundle: bytes) -> None:
        """Set the trust bundle of `webhooks`, and of nothing else in the configuration (a strategic merge by name)."""
        encoded = base64.b64encode(bundle).decode()
        body = {"webhooks": [{"name": name, "clientConfig": {"caBundle": encoded}} for name in webhooks]}
        _ask(f"patch MutatingWebhookConfiguration {configuration}", None, lambda: (
            self._admission.patch_mutating_webhook_configuration(
                configuration, body, field_manager=FIELD_MANAGER, _request_timeout=TIMEOUT_S)))


def _ask(what: str, expected_refusal: int | None, call: Callable[[], Any]) -> Any:
    """The call's answer; None for the one refusal (HTTP status) that is an answer too; else ClusterError."""
    try:
        return call()
    except client.ApiException as error:
        if error.status == expected_refusal:
            return None
        raise ClusterError(f"could not {what}: {error.status} {error.reason}: {error.body}") from error
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(f"could not {what}: {error}") from error

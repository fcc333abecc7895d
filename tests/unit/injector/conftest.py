"""Settings, pods and times that the injector's tests share."""

from datetime import UTC, datetime

import pytest
from wharfinger_operator.injector._settings import InjectorSettings, SidecarSettings


@pytest.fixture
def now():
    return datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


@pytest.fixture
def settings():
    sidecar = SidecarSettings(
        version="0.1.0", image="wharfinger.local/sidecar:dev", image_pull_policy="IfNotPresent",
        resources={"requests": {"cpu": "5m", "memory": "16Mi"}}, start_gate_timeout_s=10.0, release_namespace="wharfinger-system")
    return InjectorSettings(sidecar, "wharfinger-injector", "wharfinger-injector", "wharfinger-injector-certificates", 8443, "info")


@pytest.fixture
def pod():
    """A pod as the webhook gets it: as a template wrote it, with some of the API server's defaults."""
    return {
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"generateName": "client-", "labels": {"app": "client"}, "annotations": {"team/notes": "x"}},
        "spec": {"containers": [{"name": "client", "image": "client"}], "initContainers": [{"name": "migrate", "image": "client"}]},
    }

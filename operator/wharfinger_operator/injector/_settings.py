"""The injector's settings: read once from the environment, in which the chart writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOG_LEVELS = ("debug", "info", "warning", "error")
KINDS_OF_RESOURCES = {"requests", "limits"}


class SettingsError(ValueError):
    """A setting is missing or not understood; the message names the variable and what it must be."""


@dataclass(frozen=True)
class SidecarSettings:
    """What goes into pods. `resources` is a container's `resources`; `start_gate_timeout_s` is seconds, above 0."""

    version: str
    image: str
    image_pull_policy: str
    resources: Mapping[str, Mapping[str, str]]
    start_gate_timeout_s: float
    release_namespace: str


@dataclass(frozen=True)
class InjectorSettings:
    """Everything the process needs to know. `service` is the Service's name in the release namespace."""

    sidecar: SidecarSettings
    service: str
    webhook_configuration: str
    certificate_secret: str
    listen_port: int
    log_level: str

    @property
    def server_names(self) -> tuple[str, ...]:
        """DNS names by which the API server calls: `<service>.<namespace>.svc` and its shorter and longer forms."""
        short = f"{self.service}.{self.sidecar.release_namespace}"
        return (f"{short}.svc", short, f"{short}.svc.cluster.local")


def settings_from(environment: Mapping[str, str]) -> InjectorSettings:
    """Settings from `environment`; SettingsError when a variable is missing or not understood."""
    sidecar = SidecarSettings(
        version=_text(environment, "WHARFINGER_VERSION"),
        image=_text(environment, "WHARFINGER_SIDECAR_IMAGE"),
        image_pull_policy=_text(environment, "WHARFINGER_SIDECAR_PULL_POLICY"),
        resources=_resources(environment, "WHARFINGER_SIDECAR_RESOURCES"),
        start_gate_timeout_s=_number(environment, "WHARFINGER_START_GATE_TIMEOUT_S", low=0.05, high=300),
        release_namespace=_text(environment, "POD_NAMESPACE"),
    )
    return InjectorSettings(
        sidecar=sidecar,
        service=_text(environment, "WHARFINGER_SERVICE"),
        webhook_configuration=_text(environment, "WHARFINGER_WEBHOOK_CONFIGURATION"),
        certificate_secret=_text(environment, "WHARFINGER_CERTIFICATE_SECRET"),
        listen_port=int(_number(environment, "WHARFINGER_LISTEN_PORT", low=1, high=65535)),
        log_level=_level(environment, "WHARFINGER_LOG_LEVEL"),
    )


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise SettingsError(f"environment variable {name} is not set; the chart sets it in the injector's Deployment")
    return value


def _level(environment: Mapping[str, str], name: str) -> str:
    value = _text(environment, name)
    if value not in LOG_LEVELS:
        raise SettingsError(f"environment variable {name} is {value!r}, must be one of {', '.join(LOG_LEVELS)}")
    return value


def _number(environment: Mapping[str, str], name: str, low: float, high: float) -> float:
    text = _text(environment, name)
    try:
        value = float(text)
    except ValueError as error:
        raise SettingsError(f"environment variable {name} is {text!r}, must be a number") from error
    if not low <= value <= high:
        raise SettingsError(f"environment variable {name} is {text}, must be from {low:g} to {high:g}")
    return value


def _resources(environment: Mapping[str, str], name: str) -> Mapping[str, Mapping[str, str]]:
    text = _text(environment, name)
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"environment variable {name} is no JSON: {error}") from error
    if not isinstance(value, dict) or not set(value) <= KINDS_OF_RESOURCES:
        raise SettingsError(f"environment variable {name} is {text}, must be an object with requests and limits only")
    return value

"""The hooks' settings: read once from the environment, in which the chart writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class SettingsError(ValueError):
    """A variable is missing or not understood; the message names it and says what it must be."""


@dataclass(frozen=True, slots=True)
class UninstallSettings:
    """`namespace` and `release` are the release's. `grace_s`: what open connections have. `margin_s`: what agents have beyond that."""

    namespace: str
    release: str
    webhook_configuration: str
    certificate_secret: str
    grace_s: float
    keep_pools: bool
    margin_s: float = 30.0
    poll_s: float = 0.5


def settings_from(environment: Mapping[str, str]) -> UninstallSettings:
    """POD_NAMESPACE, and WHARFINGER_ with RELEASE, WEBHOOK_CONFIGURATION, CERTIFICATE_SECRET, GRACE_S and KEEP_POOLS: all are needed."""

    def need(name: str) -> str:
        if not environment.get(name):
            raise SettingsError(f"environment variable {name} is not set; the chart's hooks set it")
        return environment[name]

    grace, keep = need("WHARFINGER_GRACE_S"), need("WHARFINGER_KEEP_POOLS")
    if not grace.isdigit():
        raise SettingsError(f"environment variable WHARFINGER_GRACE_S is {grace!r}, must be a whole number of seconds")
    if keep not in ("true", "false"):
        raise SettingsError(f"environment variable WHARFINGER_KEEP_POOLS is {keep!r}, must be true or false")
    return UninstallSettings(
        namespace=need("POD_NAMESPACE"), release=need("WHARFINGER_RELEASE"), webhook_configuration=need("WHARFINGER_WEBHOOK_CONFIGURATION"),
        certificate_secret=need("WHARFINGER_CERTIFICATE_SECRET"), grace_s=float(grace), keep_pools=keep == "true")

"""The operator's settings: read once from the environment, in which the chart writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network


class SettingsError(ValueError):
    """A setting is missing or not understood; the message names the variable and what it must be."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the process needs to know.

    `namespace` is the release's, where the Leases are; `identity` names this pod as a Lease's holder: the same after a restart of the
    container, so that it need not wait for its own Lease to run out. `literal_addresses`: where virtual addresses may lie that pools give
    literally, and not by a Service.
    """

    namespace: str
    identity: str
    debounce_s: float
    pool_grace_s: float
    resync_s: float
    lease_duration_s: float
    lease_renew_s: float
    health_port: int
    log_level: str
    literal_addresses: tuple[IPv4Network, ...]


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Settings from `environment`; SettingsError when a variable is not understood."""
    name, uid = environment.get("POD_NAME") or "operator", environment.get("POD_UID") or ""
    return Settings(
        namespace=environment.get("POD_NAMESPACE") or "wharfinger-system",
        identity=f"{name}_{uid}" if uid else name,
        debounce_s=_number(environment, "WHARFINGER_DEBOUNCE_MS", 20, low=0, high=10_000) / 1000,
        pool_grace_s=_number(environment, "WHARFINGER_POOL_GRACE_S", 60, low=0, high=86_400),
        resync_s=_number(environment, "WHARFINGER_RESYNC_S", 300, low=5, high=86_400),
        lease_duration_s=_number(environment, "WHARFINGER_LEASE_DURATION_S", 15, low=3, high=300),
        lease_renew_s=_number(environment, "WHARFINGER_LEASE_RENEW_S", 4, low=0.5, high=100),
        health_port=int(_number(environment, "WHARFINGER_HEALTH_PORT", 8081, low=1, high=65535)),
        log_level=_choice(environment, "WHARFINGER_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        literal_addresses=_networks(environment, "WHARFINGER_LITERAL_ADDRESSES"),
    )


def _networks(environment: Mapping[str, str], name: str) -> tuple[IPv4Network, ...]:
    try:
        return tuple(IPv4Network(word.strip()) for word in environment.get(name, "").split(",") if word.strip())
    except ValueError as error:
        raise SettingsError(f"environment variable {name}: {error}; it must be IPv4 networks such as 192.0.2.0/24, with commas between") from error


def _number(environment: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError as error:
        raise SettingsError(f"environment variable {name} is {text!r}, must be a number") from error
    if not low <= value <= high:
        raise SettingsError(f"environment variable {name} is {text}, must be from {low:g} to {high:g}")
    return value


def _choice(environment: Mapping[str, str], name: str, default: str, known: tuple[str, ...]) -> str:
    value = (environment.get(name) or default).lower()
    if value not in known:
        raise SettingsError(f"environment variable {name} is {value!r}, must be one of {', '.join(known)}")
    return value

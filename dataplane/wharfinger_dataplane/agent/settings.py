"""The agent's settings: one object, read from the environment once, in main."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wharfinger_dataplane.attach import Mode

T = TypeVar("T")


class SettingError(ValueError):
    """A variable is missing or not understood; the message names it and says what it must be."""


@dataclass(frozen=True)
class Settings:
    """Units are in the names. Every field has an environment variable: see `settings_from`."""

    node: str
    namespace: str
    """Where the agent's Lease is: the release's namespace."""
    health_port: int = 22342
    """On the loopback address; 0: any free one."""
    bpffs: Path = Path("/sys/fs/bpf")
    netns_directory: Path = Path("/run/netns")
    attach_mode: Mode = Mode.AUTO
    uplinks: tuple[str, ...] = ()
    """Names of the node's uplinks; empty: those that routes and the node's address tell."""
    capacities: tuple[tuple[str, int], ...] = ()
    """Entries of tables that shall differ from the built-in numbers."""
    late_s: float = 10.0
    """After how many seconds a pod whose translator is missing gets an Event: the start gate's time-out."""
    gc_period_s: float = 5.0
    flow_idle_s: float = 3600.0
    """How long a connection may be silent before its socket is asked for."""
    lease_period_s: float = 10.0
    lease_duration_s: int = 40
    log_level: str = "info"


def settings_from(environment: Mapping[str, str]) -> Settings:
    """NODE_NAME and POD_NAMESPACE (both needed), and WHARFINGER_ with each further field's name in capitals.

    SettingError for what is wrong."""

    def need(name: str) -> str:
        if not environment.get(name):
            raise SettingError(f"{name} is not set: the chart takes it from the downward API")
        return environment[name]

    def read(name: str, default: T, convert: Callable[[str], T], shape: str) -> T:
        text = environment.get(f"WHARFINGER_{name}", "").strip()
        if not text:
            return default
        try:
            return convert(text)
        except ValueError as error:
            raise SettingError(f"WHARFINGER_{name} is {text!r}: must be {shape}") from error

    return Settings(
        node=need("NODE_NAME"),
        namespace=need("POD_NAMESPACE"),
        health_port=read("HEALTH_PORT", Settings.health_port, _port, "a port number"),
        bpffs=read("BPFFS", Settings.bpffs, Path, "a directory"),
        netns_directory=read("NETNS_DIRECTORY", Settings.netns_directory, Path, "a directory"),
        attach_mode=read("ATTACH_MODE", Settings.attach_mode, Mode, "auto, tcx or clsact"),
        uplinks=read("UPLINKS", Settings.uplinks, _words, "names of interfaces, with commas"),
        capacities=read("CAPACITIES", Settings.capacities, _capacities, "table=entries, with commas"),
        late_s=read("LATE_S", Settings.late_s, _positive, "a number of seconds above 0"),
        gc_period_s=read("GC_PERIOD_S", Settings.gc_period_s, _positive, "a number of seconds above 0"),
        flow_idle_s=read("FLOW_IDLE_S", Settings.flow_idle_s, _positive, "a number of seconds above 0"),
        log_level=read("LOG_LEVEL", Settings.log_level, _level, "debug, info, warning or error"),
    )


def _port(text: str) -> int:
    if not 0 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


def _positive(text: str) -> float:
    if not 0.0 < float(text) < 1e9:
        raise ValueError(text)
    return float(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _capacities(text: str) -> tuple[tuple[str, int], ...]:
    pairs = tuple(word.partition("=") for word in _words(text))
    return tuple((name, int(number)) for name, _, number in pairs)


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError(text)
    return text.lower()

"""kopf's handlers: each takes an event into the snapshot and rouses the worker. Nothing is decided here.

Only `on.event` is used, on our own kinds too: it puts neither finalizer nor annotation on anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import kopf
import structlog
from wharfinger_api import ApiError

from .client import KINDS, OWN, login
from .snapshot import Snapshot

WATCHED = ("Pod", "Service", "EndpointSlice", "Node", "NetworkPolicy", "NodeReport", "ServicePortPool", "RedirectPortPool", "ServicePortSlice")
"""Kinds that are watched in the whole cluster: our own by kopf, the others beside it (seeing.py), as are Leases in one namespace only."""


def take(snapshot: Snapshot, kind: str, event: str | None, raw: Mapping[str, Any], now: datetime) -> bool:
    """Takes one watch event into the snapshot; whether a plan could tell. An object that cannot be read is reported and left as it was."""
    try:
        return snapshot.remove(kind, raw, now) if event == "DELETED" else snapshot.put(kind, raw, now)
    except (ApiError, KeyError, TypeError, ValueError) as error:
        structlog.get_logger().error("an object cannot be read; what was known of it stays", kind=kind,
                                     name=(raw.get("metadata") or {}).get("name"), error=str(error))
        return False


def register(registry: kopf.OperatorRegistry, snapshot: Snapshot, notify: Callable[[], None], clock: Callable[[], datetime]) -> None:
    """Registers a handler for each of our own kinds."""
    kopf.on.login(registry=registry)(login)
    for kind in OWN:
        where = KINDS[kind]
        _, _, group_version = where.prefix.removeprefix("/").partition("/")
        group, _, version = group_version.rpartition("/")

        def handle(event: Mapping[str, Any], kind: str = kind, **_: Any) -> None:
            if take(snapshot, kind, event["type"], event["object"], clock()):
                notify()

        kopf.on.event(group, version, where.plural, registry=registry, id=f"see-{where.plural}")(handle)

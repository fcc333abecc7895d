"""What watching alone does not give: a full listing before the first plan, listings now and then, and the agents' Leases.

A watch that breaks may miss a deletion; kopf lists anew but does not tell what is gone. So everything is listed at the start (before a
number is given), soon after (kopf's own first listing began later than ours), and then every few minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from wharfinger_api import API_VERSION

from .client import Client, ClientError
from .handlers import WATCHED, take
from .snapshot import Snapshot

SOON_S = 10.0
RETRY_S = 1.0


async def list_all(client: Client, snapshot: Snapshot, namespace: str, clock: Callable[[], datetime]) -> bool:
    """Lists every kind into the snapshot; whether a plan could tell. ClientError when one cannot be listed."""
    changed = False
    for kind in (*WATCHED, "Lease"):
        items, version = await client.list(kind, namespace if kind == "Lease" else "")
        # A listing's items have no kind of their own; our readers ask for it.
        named = [{"apiVersion": API_VERSION, "kind": kind, **item} for item in items]
        changed |= snapshot.reconcile(kind, named, version, clock())
    return changed


async def first_listing(client: Client, snapshot: Snapshot, namespace: str, clock: Callable[[], datetime]) -> None:
    """Returns when everything was listed once; until then the kinds may be missing, as when the chart is being installed."""
    while True:
        try:
            await list_all(client, snapshot, namespace, clock)
            return
        except ClientError as error:
            structlog.get_logger().warning("the cluster cannot be listed yet; will try again", error=str(error))
            await asyncio.sleep(RETRY_S)


async def list_now_and_then(client: Client, snapshot: Snapshot, namespace: str, clock: Callable[[], datetime],
                            notify: Callable[[], None], every_s: float) -> None:
    """Until cancelled."""
    pause = SOON_S
    while True:
        await asyncio.sleep(pause)
        pause = every_s
        try:
            if await list_all(client, snapshot, namespace, clock):
                notify()
        except ClientError as error:
            structlog.get_logger().warning("a listing failed; will try again", error=str(error))
            pause = SOON_S


async def watch_leases(client: Client, snapshot: Snapshot, namespace: str, clock: Callable[[], datetime],
                       notify: Callable[[], None]) -> None:
    """Until cancelled. One namespace's Leases: kopf would watch the cluster's, all nodes' heartbeats among them."""
    while True:
        try:
            items, version = await client.list("Lease", namespace)
            if snapshot.reconcile("Lease", items, version, clock()):
                notify()
            async for event, raw in client.watch("Lease", namespace, version):
                if take(snapshot, "Lease", event, raw, clock()):
                    notify()
        except ClientError as error:
            structlog.get_logger().info("the watch of Leases ended; listing anew", error=str(error))
            await asyncio.sleep(RETRY_S)

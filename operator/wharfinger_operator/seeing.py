"""What is seen beside kopf: a full listing before the first plan, and the kinds that others write, listed and watched here.

kopf keeps a task and a memory for each object and spends a millisecond on each event (docs/bench.md): too much for every pod of a cluster, so
it watches our own kinds only. A watch of ours that breaks is followed by a listing, which tells what is gone; kopf lists anew but does not tell,
so its kinds are listed at the start (before a number is given), soon after (its own first listing began later than ours), and then every few
minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

import structlog
from wharfinger_api import API_VERSION

from .client import OWN, Client, ClientError
from .handlers import WATCHED, take
from .snapshot import Snapshot

SEEN = (*(kind for kind in WATCHED if kind not in OWN), "Lease")
"""Kinds that are watched here. Leases in one namespace only: the cluster's would be all nodes' heartbeats."""
SOON_S = 10.0
RETRY_S = 1.0


Versions = dict[str, int]


async def list_all(client: Client, snapshot: Snapshot, namespace: str, clock: Callable[[], datetime],
                   kinds: Iterable[str] = (*OWN, *SEEN)) -> tuple[bool, Versions]:
    """Lists these kinds into the snapshot; whether a plan could tell, and the listings' versions. ClientError when one cannot be listed."""
    changed, versions = False, Versions()
    for kind in kinds:
        items, versions[kind] = await client.list(kind, namespace if kind == "Lease" else "")
        # A listing's items have no kind of their own; our readers ask for it.
        named = [{"apiVersion": API_VERSION, "kind": kind, **item} for item in items]
        changed |= snapshot.reconcile(kind, named, versions[kind], clock())
    return changed, versions


async def first_listing(client: Client, snapshot: Snapshot, namespace: str, clock: Callable[[], datetime]) -> Versions:
    """Returns when everything was listed once; until then the kinds may be missing, as when the chart is being installed."""
    while True:
        try:
            return (await list_all(client, snapshot, namespace, clock))[1]
        except ClientError as error:
            structlog.get_logger().warning("the cluster cannot be listed yet; will try again", error=str(error))
            await asyncio.sleep(RETRY_S)


async def list_now_and_then(client: Client, snapshot: Snapshot, namespace: str, clock: Callable[[], datetime],
                            notify: Callable[[], None], every_s: float) -> None:
    """Lists kopf's kinds, until cancelled."""
    pause = SOON_S
    while True:
        await asyncio.sleep(pause)
        pause = every_s
        try:
            if (await list_all(client, snapshot, namespace, clock, OWN))[0]:
                notify()
        except ClientError as error:
            structlog.get_logger().warning("a listing failed; will try again", error=str(error))
            pause = SOON_S


async def watch(client: Client, snapshot: Snapshot, kind: str, namespace: str, version: int, clock: Callable[[], datetime],
                notify: Callable[[], None]) -> None:
    """Takes in what happens to a kind after `version`, until cancelled. A stream that ends is taken up where it ended; one that breaks,
    or whose past the server has forgotten, is followed by a listing.
    """
    where = namespace if kind == "Lease" else ""
    while True:
        try:
            async for event, raw in client.watch(kind, where, version):
                version = int(raw["metadata"]["resourceVersion"])
                if event == "BOOKMARK":
                    continue
                if take(snapshot, kind, event, {"apiVersion": API_VERSION, "kind": kind, **raw}, clock()):
                    notify()
        except ClientError as error:
            structlog.get_logger().info("a watch broke; listing anew", kind=kind, error=str(error))
            version = await _listed(client, snapshot, kind, where, clock, notify)


async def _listed(client: Client, snapshot: Snapshot, kind: str, namespace: str, clock: Callable[[], datetime],
                  notify: Callable[[], None]) -> int:
    """The version of a listing that was taken in."""
    while True:
        await asyncio.sleep(RETRY_S)
        try:
            changed, versions = await list_all(client, snapshot, namespace, clock, [kind])
        except ClientError as error:
            structlog.get_logger().info("a listing failed; will try again", kind=kind, error=str(error))
            continue
        if changed:
            notify()
        return versions[kind]

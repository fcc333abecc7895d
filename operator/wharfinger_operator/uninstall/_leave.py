"""Before the release's objects go: no new sidecars, and every live agent leaves its node.

An agent that does not answer holds nobody up for longer than the bound; its node is named with what to do there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from wharfinger_api import DETACHED, GRACE_KEY, UNINSTALL_MARKER, node_of_lease

from ..client import Client, ClientError, Conflict, Missing
from ._settings import UninstallSettings

LEASE_S = 40
REMEDY = ("programs and tables may go on in that node's kernel. When it is back, remove /sys/fs/bpf/wharfinger on it and, on a kernel before 6.6, "
          "`tc qdisc del dev INTERFACE clsact` of the interfaces that `tc filter` shows ours on; or restart the node")


@dataclass(frozen=True, slots=True)
class Agents:
    """By node: what those that have left say, those that live and have not, and those of which there is a report but no sign of life."""

    left: dict[str, str]
    staying: tuple[str, ...]
    silent: tuple[str, ...]


def agents(leases: Iterable[Mapping[str, Any]], reports: Iterable[Mapping[str, Any]], now: datetime) -> Agents:
    """How far the agents are, by their Leases and NodeReports as the API server has them. Pure."""
    live = {node for lease in leases if (node := node_of_lease(lease["metadata"]["name"])) and _fresh(lease.get("spec") or {}, now)}
    left, reported = {}, set()
    for report in reports:
        node = report["metadata"]["name"]
        reported.add(node)
        for condition in (report.get("status") or {}).get("conditions") or ():
            if (condition["type"], condition["status"]) == (DETACHED, "True"):
                left[node] = condition["message"]
    return Agents(left, tuple(sorted(live - left.keys())), tuple(sorted(reported - live - left.keys())))


def _fresh(spec: Mapping[str, Any], now: datetime) -> bool:
    if not spec.get("renewTime"):
        return False
    return now < datetime.fromisoformat(spec["renewTime"]) + timedelta(seconds=float(spec.get("leaseDurationSeconds") or LEASE_S))


def marker(settings: UninstallSettings) -> dict[str, Any]:
    """The ConfigMap at which agents leave."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": UNINSTALL_MARKER, "namespace": settings.namespace},
            "data": {GRACE_KEY: f"{settings.grace_s:g}"}}


async def leave(client: Client, settings: UninstallSettings) -> bool:
    """Returns when every live agent has left its node, or the bound has passed. False only when the API server could not be asked at all."""
    deadline = time.monotonic() + settings.grace_s + settings.margin_s
    begun, seen, told = False, None, set()
    while True:
        try:
            if not begun:
                await _begin(client, settings)
                print(f"New connections are unaware from now on; those that are open have {settings.grace_s:g} s.", flush=True)
                begun = True
            leases, _ = await client.list("Lease", settings.namespace)
            seen = agents(leases, await listed(client, "NodeReport"), datetime.now(UTC))
            for node in sorted(seen.left.keys() - told):
                print(f"{node}: {seen.left[node]}", flush=True)
                told.add(node)
            if not seen.staying:
                break
        except ClientError as error:
            print(f"will try again: {error}", flush=True)
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(settings.poll_s)
    if seen is None:
        return False
    for node in seen.staying:
        print(f"{node}: its agent has not left in time: {REMEDY}.", flush=True)
    for node in seen.silent:
        print(f"{node}: its agent shows no sign of life: {REMEDY}.", flush=True)
    return True


async def listed(client: Client, kind: str) -> list[dict[str, Any]]:
    """All objects of a kind; none when the kind itself is gone."""
    try:
        return (await client.list(kind))[0]
    except Missing:
        return []


async def _begin(client: Client, settings: UninstallSettings) -> None:
    with suppress(Missing):  # first, or pods that are made meanwhile would wait for agents that leave
        await client.remove("MutatingWebhookConfiguration", "", settings.webhook_configuration)
    with suppress(Conflict):  # of an uninstallation that was broken off; agents follow it already
        await client.create("ConfigMap", settings.namespace, marker(settings))

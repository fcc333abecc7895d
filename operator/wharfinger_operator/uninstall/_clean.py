"""After the release's objects are gone: what its processes wrote goes as well, once none of them runs that would write it again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from wharfinger_api import OPERATOR_LEASE, UNINSTALL_MARKER, node_of_lease

from ..client import Client, ClientError, Missing
from ._leave import listed
from ._settings import UninstallSettings

WRITERS = ("operator", "injector", "agent")
POOLS = ("RedirectPortPool", "ServicePortPool")
OURS = ("ServicePortSlice", "NodeReport")
BOUND_S = 90.0


def writers(pods: Iterable[Mapping[str, Any]], release: str) -> list[str]:
    """Names of the release's pods that could still write, sorted. Pure."""
    return sorted(pod["metadata"]["name"] for pod in pods
                  if (labels := pod["metadata"].get("labels") or {}).get("app.kubernetes.io/instance") == release
                  and labels.get("app.kubernetes.io/component") in WRITERS)


async def clean(client: Client, settings: UninstallSettings) -> bool:
    """Whether nothing is left. What is still there after the bound is named."""
    deadline = time.monotonic() + BOUND_S
    while True:
        try:
            left = await _round(client, settings)
            if not left:
                print("Nothing of the release is left" + (", but for the pools." if settings.keep_pools else "."), flush=True)
                return True
        except ClientError as error:
            left = [str(error)]
        if time.monotonic() >= deadline:
            print("Still there: " + "; ".join(left), flush=True)
            return False
        await asyncio.sleep(settings.poll_s)


async def _round(client: Client, settings: UninstallSettings) -> list[str]:
    """Removes what may go; what is still there, in words."""
    pods, _ = await client.list("Pod", settings.namespace)
    if running := writers(pods, settings.release):
        return [f"pod {name}" for name in running]
    left = []
    for kind in (*(() if settings.keep_pools else POOLS), *OURS):
        for found in await listed(client, kind):
            metadata = found["metadata"]
            await _remove(client, kind, metadata.get("namespace", ""), metadata["name"])
            held = f" (held by {', '.join(metadata['finalizers'])})" if metadata.get("finalizers") else ""
            left.append(f"{kind} {metadata.get('namespace', '')}/{metadata['name']}{held}")
    leases, _ = await client.list("Lease", settings.namespace)
    for name in (lease["metadata"]["name"] for lease in leases):
        if name == OPERATOR_LEASE or node_of_lease(name):
            await _remove(client, "Lease", settings.namespace, name)
    await _remove(client, "Secret", settings.namespace, settings.certificate_secret)
    if not left:
        await _remove(client, "ConfigMap", settings.namespace, UNINSTALL_MARKER)
    return left


async def _remove(client: Client, kind: str, namespace: str, name: str) -> None:
    with suppress(Missing):
        await client.remove(kind, namespace, name)

"""Puts the operator together and runs it until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

import kopf
import structlog

from .apply import Applier
from .client import Client, login
from .handlers import register
from .lease import LostLease, OperatorLease
from .metrics import served
from .seeing import SEEN, first_listing, list_now_and_then, watch
from .settings import Settings, SettingsError, settings_from
from .snapshot import Snapshot
from .telemetry import Telemetry, configure_logs
from .worker import Worker

FAILED = 1
WRONG_SETTINGS = 2


def clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def kopf_settings() -> kopf.OperatorSettings:
    """kopf only watches here: it posts no Events, scans for no kinds that come later, and gives up silent streams."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.queueing.exit_timeout = 0.2
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.inactivity_timeout = 120
    return settings


async def serve(settings: Settings, telemetry: Telemetry) -> None:
    """Runs until SIGTERM or SIGINT. LostLease when another operator took over."""
    async with Client(login(), telemetry.counts.requests) as client:
        lease = OperatorLease(client, settings.namespace, settings.identity, settings.lease_duration_s, settings.lease_renew_s,
                              time.monotonic)
        snapshot = Snapshot(settings.namespace, settings.literal_addresses)
        worker = Worker(snapshot, Applier(client, snapshot, telemetry, lease.held, clock), clock, settings.debounce_s,
                        settings.pool_grace_s)
        registry = kopf.OperatorRegistry()
        register(registry, snapshot, worker.notify, clock)
        health = await served(telemetry.counts, snapshot, settings.health_port)

        async def work() -> None:
            await lease.acquire()
            versions = await first_listing(client, snapshot, settings.namespace, clock)
            structlog.get_logger().info("adopted what stands", pools=len(snapshot.pools), slices=len(snapshot.slices),
                                        pods=len(snapshot.pods), nodes=len(snapshot.nodes), agents=len(snapshot.agents))
            worker.notify()
            async with asyncio.TaskGroup() as group:
                group.create_task(lease.keep())
                group.create_task(worker.run())
                for kind in SEEN:
                    group.create_task(watch(client, snapshot, kind, settings.namespace, versions[kind], clock, worker.notify))
                group.create_task(list_now_and_then(client, snapshot, settings.namespace, clock, worker.notify, settings.resync_s))

        working = asyncio.create_task(work())

        @kopf.on.cleanup(registry=registry, id="leave")
        async def leave(**_: Any) -> None:
            # kopf takes its time to end its streams; a successor shall not wait for that.
            await cancelled(working)
            await lease.release()

        watching = kopf.operator(
            registry=registry, settings=kopf_settings(), standalone=True, clusterwide=True)
        try:
            await first_of(asyncio.create_task(watching), working)
        finally:
            await lease.release()
            await health.cleanup()


async def cancelled(*tasks: asyncio.Task[None]) -> list[BaseException | None]:
    """Cancels the tasks, waits for their end, and gives what they raised."""
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def first_of(*tasks: asyncio.Task[None]) -> None:
    """Returns when one of the tasks has ended and the others are cancelled; raises the first error that any of them raised.

    A task that someone has cancelled does not count: it is leaving in order, and the others follow by themselves.
    """
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if not all(task.cancelled() for task in done):
                break
    finally:
        ended = await cancelled(*tasks)
    for error in ended:
        if isinstance(error, Exception):
            raise _leaf(error)


def _leaf(error: Exception) -> Exception:
    """The first error in a group of them."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def main() -> int:
    """The process's exit status."""
    try:
        settings = settings_from(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    configure_logs(settings.log_level)
    telemetry = Telemetry()
    try:
        asyncio.run(serve(settings, telemetry))
    except LostLease as error:
        structlog.get_logger().error("the Lease is lost; ending, for another to go on", error=str(error))
        return FAILED
    finally:
        telemetry.close()
    return 0

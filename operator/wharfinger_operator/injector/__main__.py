"""`python -m wharfinger_operator.injector`: serve admission reviews, keep the certificates, until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime

import structlog

from wharfinger_operator.injector._cluster import ApiServer, Cluster, ClusterError
from wharfinger_operator.injector._keeper import ContendedError, synchronise
from wharfinger_operator.injector._keyring import Keyring
from wharfinger_operator.injector._server import WebhookServer
from wharfinger_operator.injector._settings import InjectorSettings, SettingsError, settings_from

SYNCHRONISE_EVERY_S = 10.0
"""Two reads a replica; it bounds how long a re-created webhook configuration stays without a trust bundle."""
RETRY_S = 1.0
"""After a failure: at installation the webhook configuration comes some moments after us."""
WRONG_SETTINGS = 2
LEAVE_S = 3.0
"""After SIGTERM, go on answering for as long as API servers may still be sent here by their view of the Service."""

log = structlog.get_logger()


def configure_logs(level: str) -> None:
    """JSON lines on standard error, from `level` up."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def keep(cluster: Cluster, settings: InjectorSettings, server: WebhookServer) -> None:
    """Synchronise for ever; start `server` with the first keyring, and hand every later one to it."""
    serving: Keyring | None = None
    while True:
        pause_s = SYNCHRONISE_EVERY_S
        try:
            keyring = await synchronise(cluster, settings, datetime.now(UTC), serving)
        except (ClusterError, ContendedError) as error:
            # What is served and trusted goes on being so: a replica stays ready while the API server is away.
            pause_s = RETRY_S
            log.warning("synchronisation failed; will try again", error=str(error), after_s=pause_s)
        else:
            if serving is None or keyring.serving != serving.serving:
                server.use(keyring.serving)
            if serving is None:
                await server.start()
            serving = keyring
            server.ready = True
        await asyncio.sleep(pause_s)


async def run(settings: InjectorSettings, api: ApiServer) -> None:
    """Serve until SIGTERM or SIGINT."""
    server = WebhookServer(settings.sidecar, settings.listen_port)
    ended = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, ended.set)
    async with Cluster(api, settings.sidecar.release_namespace) as cluster:
        keeping = asyncio.create_task(keep(cluster, settings, server))
        ending = asyncio.create_task(ended.wait())
        await asyncio.wait({keeping, ending}, return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            keeping.result()
        server.ready = False
        await asyncio.sleep(LEAVE_S)
        keeping.cancel()
        await server.stop()
    log.info("ended")


def main() -> None:
    """Settings from the environment; exit status 2 with one line when they, or the pod's service account, are wrong."""
    configure_logs("info")
    try:
        settings, api = settings_from(os.environ), ApiServer.in_cluster(os.environ)
    except (SettingsError, ClusterError) as error:
        log.error("cannot start", error=str(error))
        sys.exit(WRONG_SETTINGS)
    configure_logs(settings.log_level)
    asyncio.run(run(settings, api))


if __name__ == "__main__":
    main()

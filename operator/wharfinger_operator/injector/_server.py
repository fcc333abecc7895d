"""The webhook's HTTPS server, on aiohttp: the library beneath kopf's own webhook server.

Why not kopf's server itself: it follows a renewed certificate by closing its listener and opening another, and between the
two the API server is refused, which with failurePolicy Ignore means pods without sidecars; it reads keys from files only;
and it answers no health checks. Here the listener keeps one SSL context, into which renewed certificates are loaded:
handshakes after that use them, and open connections stay.
"""

from __future__ import annotations

import os
import ssl
import time

import structlog
from aiohttp import web

from wharfinger_operator.injector._keyring import Pair
from wharfinger_operator.injector._mutate import Pod, mutate
from wharfinger_operator.injector._review import ReviewError, answer, parse
from wharfinger_operator.injector._settings import SidecarSettings

MUTATE_PATH = "/mutate"
MAX_BODY_BYTES = 4 * 1024 * 1024
"""An object has at most 1.5 MiB (etcd's limit), as JSON somewhat more; a review of a creation has one."""
DRAIN_S = 10.0

log = structlog.get_logger()


class WebhookServer:
    """Listens on `port` of all addresses. `ready` says whether the API server can trust us yet: it is what /readyz answers."""

    def __init__(self, settings: SidecarSettings, port: int) -> None:
        self.ready = False
        self._settings = settings
        self._port = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.add_routes([web.post(MUTATE_PATH, self._mutate), web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)])
        self._runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=DRAIN_S)

    def use(self, serving: Pair) -> None:
        """Serve with this certificate from the next handshake on. The key stays in memory: ssl reads files only, so it gets one there."""
        descriptor = os.memfd_create("wharfinger-serving", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(serving.certificate + serving.key)
            self._context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    async def start(self) -> None:
        """Listen. `use` must have been called, or every handshake fails."""
        await self._runner.setup()
        await web.TCPSite(self._runner, None, self._port, ssl_context=self._context).start()
        log.info("listening", port=self._port)

    async def stop(self) -> None:
        """Close the listener, let running reviews end (DRAIN_S seconds at most)."""
        await self._runner.cleanup()

    async def _mutate(self, request: web.Request) -> web.Response:
        began = time.monotonic()
        try:
            review = parse(await request.read())
        except ReviewError as error:
            log.warning("review refused", error=str(error), peer=request.remote)
            return web.json_response({"error": str(error)}, status=400)
        decision = mutate(review.pod, review.namespace, self._settings)
        log.info("pod reviewed", namespace=review.namespace, pod=_name(review.pod), reason=str(decision.reason), request=review.uid,
                 took_ms=round((time.monotonic() - began) * 1000, 2))
        return web.json_response(answer(review, decision))

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self.ready:
            return web.Response(text="ok\n")
        return web.Response(text="the trust bundle is not published yet\n", status=503)


def _name(pod: Pod) -> str:
    """The pod's name; of a pod that has none yet, the prefix of the one it gets, with a star."""
    metadata = pod.get("metadata") or {}
    return str(metadata.get("name") or f"{metadata.get('generateName', '')}*")

"""The HTTPS server on the loopback interface, with real TLS: rotation and bad input."""

import asyncio
import contextlib
import json
import socket
import ssl
from datetime import UTC, datetime

import aiohttp
import pytest
from wharfinger_operator.injector._keyring import renew
from wharfinger_operator.injector._server import WebhookServer


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def serving(settings, keyring, port):
    server = WebhookServer(settings.sidecar, port)
    server.use(keyring.serving)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def client_of(keyring):
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=keyring.trust_bundle.decode())))


async def call(session, settings, port, path, body=None):
    method = "GET" if body is None else "POST"
    async with session.request(method, f"https://127.0.0.1:{port}{path}", data=body, server_hostname=settings.server_names[0]) as answer:
        return answer.status, await answer.text()


def test_review_of_a_pod_is_answered_with_a_patch(settings, pod, port):
    keyring = renew(None, settings.server_names, datetime.now(UTC)).keyring
    request = {"uid": "u", "namespace": "shop", "operation": "CREATE", "object": pod}
    body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})

    async def scenario():
        async with serving(settings, keyring, port), client_of(keyring) as session:
            return await call(session, settings, port, "/mutate", body)

    status, text = asyncio.run(scenario())
    assert status == 200
    assert json.loads(text)["response"]["patchType"] == "JSONPatch"


def test_body_that_is_no_review_is_answered_with_400_and_the_reason(settings, port):
    keyring = renew(None, settings.server_names, datetime.now(UTC)).keyring

    async def scenario():
        async with serving(settings, keyring, port), client_of(keyring) as session:
            return await call(session, settings, port, "/mutate", b"{}")

    status, text = asyncio.run(scenario())
    assert (status, "no AdmissionReview" in text) == (400, True)


def test_readiness_waits_for_the_published_trust_bundle_and_health_does_not(settings, port):
    keyring = renew(None, settings.server_names, datetime.now(UTC)).keyring

    async def scenario():
        async with serving(settings, keyring, port) as server, client_of(keyring) as session:
            before = [(await call(session, settings, port, path))[0] for path in ("/healthz", "/readyz")]
            server.ready = True
            return before, (await call(session, settings, port, "/readyz"))[0]

    assert asyncio.run(scenario()) == ([200, 503], 200)


def test_renewed_certificate_serves_new_connections_and_leaves_open_ones_alone(settings, port):
    old, new = (renew(None, settings.server_names, datetime.now(UTC)).keyring for _ in range(2))

    async def scenario():
        async with serving(settings, old, port) as server, client_of(old) as kept, client_of(new) as fresh:
            first = await call(kept, settings, port, "/healthz")
            server.use(new.serving)
            return first[0], (await call(kept, settings, port, "/healthz"))[0], (await call(fresh, settings, port, "/healthz"))[0]

    assert asyncio.run(scenario()) == (200, 200, 200)

"""What the injector makes of an API server that does not answer as hoped. (What it makes of one that does is seen on a cluster.)"""

import asyncio
import socket
import ssl
import subprocess
import sys

import pytest
from aiohttp import web
from wharfinger_operator.injector._cluster import ApiServer, Cluster, ClusterError


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def server_at(port, token=None):
    return ApiServer(f"http://127.0.0.1:{port}", ssl.create_default_context(), token)


def answered(port, token, status, body, seen):
    """What reading a Secret gives when the API server answers so; the request's headers go to `seen`."""
    async def handle(request):
        seen.append(request.headers)
        return web.json_response(body, status=status)

    async def scenario():
        application = web.Application()
        application.add_routes([web.get("/{path:.*}", handle)])
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            async with Cluster(server_at(port, token), "ns") as cluster:
                return await cluster.read_secret("certificates")
        finally:
            await runner.cleanup()

    return asyncio.run(scenario())


def test_api_server_that_cannot_be_reached_is_an_error_that_says_what_was_asked(port):
    async def scenario():
        async with Cluster(server_at(port), "ns") as cluster:
            await cluster.read_secret("certificates")

    with pytest.raises(ClusterError, match="could not GET /api/v1/namespaces/ns/secrets/certificates"):
        asyncio.run(scenario())


def test_refusal_is_an_error_with_the_answers_words(port):
    with pytest.raises(ClusterError, match=r"403 Forbidden.*secrets is forbidden"):
        answered(port, None, 403, {"message": "secrets is forbidden"}, [])


def test_secret_that_is_not_there_is_an_answer(port):
    assert answered(port, None, 404, {}, []) is None


def test_token_is_read_for_every_request_because_the_kubelet_renews_it(port, tmp_path):
    token, seen = tmp_path / "token", []
    for text in ("first\n", "second\n"):
        token.write_text(text)
        answered(port, token, 404, {}, seen)
    assert [headers["Authorization"] for headers in seen] == ["Bearer first", "Bearer second"]


def test_token_that_cannot_be_read_is_an_error(port, tmp_path):
    with pytest.raises(ClusterError, match="No such file"):
        answered(port, tmp_path / "none", 404, {}, [])


def test_process_outside_a_pod_ends_with_one_line_and_status_2():
    ended = subprocess.run([sys.executable, "-m", "wharfinger_operator.injector"], capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "WHARFINGER_VERSION is not set" in ended.stderr

"""The commands as they are called: output, exit codes, and what is said when the cluster cannot be asked."""

import json
import resource
import subprocess
import sys
import threading
from dataclasses import fields, is_dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import get_args, get_type_hints

import pytest
import yaml
from typer.testing import CliRunner
from unit.cli.objects import pools
from wharfinger_cli import _keys
from wharfinger_cli._output import plain
from wharfinger_cli.check import CheckView
from wharfinger_cli.explain import Explanation
from wharfinger_cli.main import app
from wharfinger_cli.pools import PoolsView, build_pools
from wharfinger_cli.status import StatusView
from wharfinger_cli.sysdump import DumpView

HELP_WITHIN_S = 1.0


class Refusing:
    """An API server that answers everything alike."""

    def __init__(self, status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_words):
                """Says nothing: the tests' output is theirs."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def answering():
    servers = []

    def make(status, body):
        servers.append(Refusing(status, body))
        return servers[-1].url
    yield make
    for server in servers:
        server.close()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Calls the command against the API server at a URL."""
    monkeypatch.delenv("KUBECONFIG", raising=False)

    def call(url, *words):
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}))
        return CliRunner().invoke(app, [*words, "--kubeconfig", str(path)])
    return call


def described(view):
    hints, parts = get_type_hints(view), []
    for field in fields(view):
        hint = hints[field.name]
        inner = [found for found in (hint, *get_args(hint)) if is_dataclass(found)]
        first, *rest = field.name.split("_")
        name = first + "".join(word.title() for word in rest) + ("[]" if "tuple" in str(hint) else "")
        parts.append(f"{name} {{{described(inner[0])}}}" if inner else name)
    return ", ".join(parts)


@pytest.mark.parametrize("told, view", [
    (_keys.CHECK_KEYS, CheckView), (_keys.DUMP_KEYS, DumpView),
    (_keys.STATUS_KEYS, StatusView), (_keys.POOLS_KEYS, PoolsView), (_keys.EXPLAIN_KEYS, Explanation)])
def test_the_keys_that_help_tells_are_those_of_the_views(told, view):
    assert told == f"JSON: {described(view)}."


def test_json_has_plain_values_in_camel_case():
    (pool,) = plain(build_pools(pools()))["servicePortPools"]
    assert pool["virtualAddresses"] == ["10.96.0.10"]
    assert pool["serversReady"] == 2
    assert json.loads(json.dumps(pool)) == pool


def test_an_empty_cluster_has_no_pools_and_no_problem(run, answering):
    result = run(answering(200, {"items": []}), "pools", "-o", "json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"problems": [], "servicePortPools": [], "redirectPortPools": []}


def test_problems_end_with_exit_code_1(run, answering):
    result = run(answering(200, {"items": []}), "status")
    assert result.exit_code == 1
    assert result.stdout.startswith("✗ operator: is not installed")


def test_a_connection_that_is_not_redirected_ends_with_exit_code_1(run, answering):
    result = run(answering(200, {"items": []}), "explain", "10.96.0.10:80", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["reason"]["name"] == "not_virtual"


@pytest.mark.parametrize("status, what, remedy", [
    (404, "custom resources are missing", "helm install"), (403, "may not list", "role"), (500, "answered 500", "log")])
def test_a_refusal_is_told_in_words(run, answering, status, what, remedy):
    result = run(answering(status, {"message": "no"}), "pools")
    assert result.exit_code == 3
    assert what in result.stderr
    assert remedy in result.stderr
    assert result.stdout == ""


def test_a_server_that_is_away_is_told_in_words(run):
    result = run("http://127.0.0.1:9", "pools")
    assert result.exit_code == 3
    assert "does not answer" in result.stderr
    assert "kubectl cluster-info" in result.stderr


def test_an_object_of_another_version_is_told_in_words(run, answering):
    item = {"apiVersion": "wharfinger.io/v1alpha1", "kind": "ServicePortPool", "metadata": {"name": "a", "namespace": "b"}, "spec": {}}
    result = run(answering(200, {"items": [item]}), "pools")
    assert result.exit_code == 3
    assert "ServicePortPool b/a" in result.stderr


def test_a_kubeconfig_that_is_missing_is_told_in_words():
    result = CliRunner().invoke(app, ["pools", "--kubeconfig", "none.yaml"])
    assert result.exit_code == 2
    assert "none.yaml" in result.stderr


def test_a_wrong_end_point_is_told_before_any_cluster_is_asked():
    result = CliRunner().invoke(app, ["explain", "shop:80", "--kubeconfig", "none.yaml"])
    assert result.exit_code == 2
    assert "shop is not an IP address" in result.stderr


def test_help_loads_neither_clients_nor_engine_and_is_quick():
    code = ("import sys; from typer.testing import CliRunner; from wharfinger_cli.main import app; "
            "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
            "sys.exit(', '.join({'kubernetes', 'pydantic', 'wharfinger_dataplane'} & sys.modules.keys()) or None)")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < HELP_WITHIN_S

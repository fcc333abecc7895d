"""Settings, logs, trace contexts, the login: what stands at the process's edges."""

import json
import logging

import kopf
import pytest
import structlog
from unit.operator.world import shop
from wharfinger_operator import client
from wharfinger_operator.client import OWN
from wharfinger_operator.handlers import register
from wharfinger_operator.settings import SettingsError, settings_from
from wharfinger_operator.telemetry import Telemetry, configure_logs, traceparent


def test_settings_have_defaults_and_say_their_units():
    made = settings_from({})
    assert (made.namespace, made.debounce_s, made.lease_duration_s, made.health_port) == ("wharfinger-system", 0.02, 15.0, 8081)


def test_settings_come_from_the_environment():
    made = settings_from({"POD_NAMESPACE": "system", "POD_NAME": "operator-1", "POD_UID": "u", "WHARFINGER_DEBOUNCE_MS": "50"})
    assert (made.namespace, made.identity, made.debounce_s) == ("system", "operator-1_u", 0.05)


@pytest.mark.parametrize("environment", [
    {"WHARFINGER_DEBOUNCE_MS": "soon"}, {"WHARFINGER_HEALTH_PORT": "0"}, {"WHARFINGER_LOG_LEVEL": "loud"}])
def test_wrong_setting_is_refused_by_name(environment):
    with pytest.raises(SettingsError, match=next(iter(environment))):
        settings_from(environment)


@pytest.fixture
def logs():
    """Logging as the process has it; as it was, afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logs("info")
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = before


def test_every_line_of_the_log_is_json_on_standard_error(logs, capsys):
    configure_logs("info")
    structlog.get_logger().info("ours", pool="shop/web")
    logging.getLogger("kopf.something").warning("kopf's %s", "line")
    captured = capsys.readouterr()
    assert captured.out == ""
    ours, kopfs = (json.loads(line) for line in captured.err.splitlines())
    assert (ours["event"], ours["pool"], ours["level"]) == ("ours", "shop/web", "info")
    assert (kopfs["event"], kopfs["logger"]) == ("kopf's line", "kopf.something")


def test_span_of_a_reconcile_begins_when_the_change_was_noticed(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    world = shop()
    telemetry = Telemetry()
    span = telemetry.reconcile(world.snapshot.pools["shop", "web"], 123_456_789)
    span.end()
    assert span.start_time == 123_456_789
    assert dict(span.attributes) == {"wharfinger.pool": "shop/web", "wharfinger.generation": 1}
    version, trace, parent, flags = traceparent(span).split("-")
    assert (version, len(trace), len(parent), int(flags, 16) & 1) == ("00", 32, 16, 1)
    telemetry.close()


def test_every_kind_of_ours_has_one_handler_that_touches_nothing():
    registry = kopf.OperatorRegistry()
    register(registry, shop().snapshot, lambda: None, lambda: None)
    watching = registry._watching.get_all_handlers()
    assert len(watching) == len(OWN)
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()


@pytest.mark.parametrize(("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")])
def test_login_in_a_pod_needs_no_dns(tmp_path, monkeypatch, host, server):
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.crt").write_text("")
    monkeypatch.setattr(client, "ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = client.login()
    assert (found.server, found.token) == (server, "secret")


def test_login_without_credentials_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "ACCOUNT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(kopf.LoginError, match="KUBECONFIG"):
        client.login()

"""The environment that the chart writes."""

import json

import pytest
from wharfinger_operator.injector._settings import SettingsError, settings_from

GOOD = {
    "WHARFINGER_VERSION": "0.1.0", "WHARFINGER_SIDECAR_IMAGE": "sidecar:dev", "WHARFINGER_SIDECAR_PULL_POLICY": "Never",
    "WHARFINGER_SIDECAR_RESOURCES": json.dumps({"requests": {"memory": "16Mi"}}), "WHARFINGER_START_GATE_TIMEOUT_S": "2.5",
    "POD_NAMESPACE": "wharfinger-system", "WHARFINGER_SERVICE": "wharfinger-injector", "WHARFINGER_WEBHOOK_CONFIGURATION": "w",
    "WHARFINGER_CERTIFICATE_SECRET": "c", "WHARFINGER_LISTEN_PORT": "8443", "WHARFINGER_LOG_LEVEL": "info",
}


def test_settings_are_read_from_the_environment():
    settings = settings_from(GOOD)
    assert settings.sidecar.start_gate_timeout_s == 2.5
    assert settings.sidecar.resources == {"requests": {"memory": "16Mi"}}
    assert settings.server_names[0] == "wharfinger-injector.wharfinger-system.svc"


@pytest.mark.parametrize("name", GOOD)
def test_missing_variable_is_named(name):
    with pytest.raises(SettingsError, match=name):
        settings_from({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(("name", "value", "message"), [
    ("WHARFINGER_LISTEN_PORT", "https", "must be a number"),
    ("WHARFINGER_LISTEN_PORT", "65536", "must be from 1 to 65535"),
    ("WHARFINGER_START_GATE_TIMEOUT_S", "nan", "must be from"),
    ("WHARFINGER_LOG_LEVEL", "loud", "must be one of debug, info, warning, error"),
    ("WHARFINGER_SIDECAR_RESOURCES", "{", "is no JSON"),
    ("WHARFINGER_SIDECAR_RESOURCES", '{"memory": "1Mi"}', "requests and limits only"),
])
def test_value_that_is_not_understood_is_named_with_what_it_must_be(name, value, message):
    with pytest.raises(SettingsError, match=message) as raised:
        settings_from(GOOD | {name: value})
    assert name in str(raised.value)

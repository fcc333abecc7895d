"""The environment, read once."""

from pathlib import Path

import pytest
from wharfinger_dataplane.agent.settings import SettingError, Settings, settings_from
from wharfinger_dataplane.attach import Mode

NEEDED = {"NODE_NAME": "node-1", "POD_NAMESPACE": "wharfinger-system"}


def test_node_and_namespace_are_all_that_is_needed():
    assert settings_from(NEEDED) == Settings("node-1", "wharfinger-system")


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_what_is_needed_and_missing_is_named(name):
    with pytest.raises(SettingError, match=name):
        settings_from({key: value for key, value in NEEDED.items() if key != name})


@pytest.mark.parametrize(("name", "text", "field", "value"), [
    ("HEALTH_PORT", "9000", "health_port", 9000),
    ("BPFFS", "/bpf", "bpffs", Path("/bpf")),
    ("NETNS_DIRECTORY", "/var/run/netns", "netns_directory", Path("/var/run/netns")),
    ("ATTACH_MODE", "clsact", "attach_mode", Mode.CLSACT),
    ("UPLINKS", "eth0, eth1", "uplinks", ("eth0", "eth1")),
    ("CAPACITIES", "flows=1024,pods=16", "capacities", (("flows", 1024), ("pods", 16))),
    ("LATE_S", "2.5", "late_s", 2.5),
    ("GC_PERIOD_S", "1", "gc_period_s", 1.0),
    ("FLOW_IDLE_S", "60", "flow_idle_s", 60.0),
    ("LOG_LEVEL", "DEBUG", "log_level", "debug"),
])
def test_a_variable_sets_its_field(name, text, field, value):
    assert getattr(settings_from({**NEEDED, f"WHARFINGER_{name}": text}), field) == value


@pytest.mark.parametrize(("name", "text"), [
    ("HEALTH_PORT", "70000"), ("HEALTH_PORT", "x"), ("ATTACH_MODE", "xdp"), ("GC_PERIOD_S", "0"), ("LATE_S", "nan"), ("CAPACITIES", "flows"),
    ("LOG_LEVEL", "loud")])
def test_a_variable_that_is_not_understood_is_named(name, text):
    with pytest.raises(SettingError, match=f"WHARFINGER_{name}"):
        settings_from({**NEEDED, f"WHARFINGER_{name}": text})

"""wharfinger_dataplane.dump: what is pinned on a node, without its agent."""

import json
from contextlib import closing

import pytest
from support.lab import OBJECT
from wharfinger_dataplane import _bpf
from wharfinger_dataplane._engine import TABLES
from wharfinger_dataplane._records import (
    FlowState,
    Role,
    pack_address,
    pack_flow,
    pack_flow_key,
    pack_pod,
    pack_wire,
)
from wharfinger_dataplane.dump import dump
from wharfinger_dataplane.kernel import CONNECTION_TABLES

CONNECTIONS = {
    "flows": [
        (FlowState.CLIENT_ESTABLISHED, 40_000),
        (FlowState.CLIENT_ESTABLISHED, 40_001),
        (FlowState.CLIENT_JOINING, 40_002),
    ],
    "opening_flows": [(FlowState.CLIENT_OPENING, 40_003), (FlowState.CLIENT_UNAWARE, 40_004)],
    "closed_flows": [(FlowState.CLIENT_CLOSED, 40_005), (FlowState.CLIENT_ESTABLISHED, 40_006)],
}
WIRES = {"wires": 40_000, "opening_wires": 40_003, "closed_wires": 40_005}


@pytest.fixture
def layout(pins):
    """The directory of a layout's maps."""
    directory = pins / "wharfinger" / "maps-0"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def maps(layout):
    with closing(_bpf.Object(OBJECT, layout)) as loaded:
        yield loaded.maps


def flow(state, port):
    return (
        pack_flow_key("10.9.0.1", port, "10.96.0.1", 80, 7),
        pack_flow(state=state, server="10.9.0.2", scope=7, isn=1, wire_port=20_001),
    )


def test_a_dump_tells_tables_pods_connections_and_counters(maps, pins):
    maps["pods"].put(pack_address("10.9.0.1"), pack_pod(7, Role.CLIENT))
    for table, flows in CONNECTIONS.items():
        for state, port in flows:
            maps[table].put(*flow(state, port))
    for table, port in WIRES.items():
        maps[table].put(
            pack_flow_key("10.9.0.1", port, "10.9.0.2", 20_001),
            pack_wire(
                state=FlowState.CLIENT_ESTABLISHED, ifindex=7, peer="10.96.0.1", local_port=port, peer_port=80
            ),
        )
    found = dump(pins)
    layout = found["layouts"]["maps-0"]
    counts = {table: layout["tables"][table] for table in CONNECTION_TABLES}
    assert counts == {
        "flows": {"entries": 3, "capacity": 262_144},
        "wires": {"entries": 1, "capacity": 262_144},
        "opening_flows": {"entries": 2, "capacity": 65_536},
        "opening_wires": {"entries": 1, "capacity": 65_536},
        "closed_flows": {"entries": 2, "capacity": 65_536},
        "closed_wires": {"entries": 1, "capacity": 65_536},
    }
    assert set(layout["tables"]) == set(TABLES)
    assert layout["pods"] == {"10.9.0.1": {"ifindex": 7, "roles": Role.CLIENT, "netns": -1}}
    assert layout["flows"] == {
        "CLIENT_ESTABLISHED": 3,
        "CLIENT_JOINING": 1,
        "CLIENT_OPENING": 1,
        "CLIENT_UNAWARE": 1,
        "CLIENT_CLOSED": 1,
    }
    assert (found["links"], layout["counters"]) == ([], {})


def test_a_dump_is_json(maps, pins):
    maps["flows"].put(*flow(FlowState.CLIENT_ESTABLISHED, 40_000))
    assert json.loads(json.dumps(dump(pins)))["layouts"]["maps-0"]["flows"] == {"CLIENT_ESTABLISHED": 1}


def test_a_dump_of_another_releases_maps_says_so_and_counts_what_it_can(maps, layout, pins):
    maps["pods"].put(pack_address("10.9.0.1"), pack_pod(7, Role.CLIENT))
    (layout / "opening_flows").unlink()
    found = dump(pins)["layouts"]["maps-0"]
    assert found["unreadable"] == "these maps are another release's: 'opening_flows'"
    assert found["tables"]["pods"] == {"entries": 1, "capacity": 4096}


def test_a_node_without_anything_of_ours_has_an_empty_dump(pins):
    assert dump(pins) == {"links": [], "layouts": {}}

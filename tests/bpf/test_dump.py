"""wharfinger_dataplane.dump: what is pinned on a node, without its agent."""

from support.lab import OBJECT
from wharfinger_dataplane import _bpf
from wharfinger_dataplane._records import Role, pack_address, pack_flow, pack_flow_key, pack_pod
from wharfinger_dataplane.dump import dump


def test_a_dump_tells_tables_pods_connections_and_counters(pins):
    directory = pins / "wharfinger" / "maps-0"
    directory.mkdir(parents=True)
    loaded = _bpf.Object(OBJECT, directory)
    try:
        loaded.maps["pods"].put(pack_address("10.9.0.1"), pack_pod(7, Role.CLIENT))
        loaded.maps["flows"].put(pack_flow_key(1, "10.9.0.1", 40_000, "10.96.0.1", 80),
                                 pack_flow(other="10.9.0.2", scope=7, isn=1, redirect_port=80, service_port=20_001, state=3, started_ns=1, seen_ns=1))
        found = dump(pins)
    finally:
        loaded.close()
    layout = found["layouts"]["maps-0"]
    assert layout["tables"]["flows"] == {"entries": 1, "capacity": 262_144}
    assert layout["pods"] == {"10.9.0.1": {"ifindex": 7, "roles": Role.CLIENT, "netns": -1}}
    assert layout["flows"] == {"CLIENT_STACK ESTABLISHED": 1}
    assert (found["links"], layout["counters"]) == ([], {})


def test_a_node_without_anything_of_ours_has_an_empty_dump(pins):
    assert dump(pins) == {"links": [], "layouts": {}}

"""What the data plane cannot hold, and what nobody could refuse beforehand: said at once, with the remedy, while all else goes on."""

from types import SimpleNamespace

import pytest
from unit.operator.world import World, shop
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane._records import SET_SLOTS
from wharfinger_operator import limits
from wharfinger_operator.advance import Draft


def test_the_limits_are_those_of_the_compiled_tables():
    assert (SET_SLOTS, Engine().capacity("server_ports")) == (limits.SET_SERVERS, limits.SERVER_PORTS)


@pytest.fixture
def small(monkeypatch):
    """Tables that a test can fill."""
    monkeypatch.setattr(limits, "SET_SERVERS", 3)
    monkeypatch.setattr(limits, "SERVER_PORTS", 20)


def members(world, redirect="web-80"):
    return {record["server"] for record in world.records() if redirect in record.get("redirects", ())}


def test_servers_beyond_what_a_set_holds_do_not_share_the_redirect_port_and_it_is_said(small):
    world = shop(servers=("d", "e", "f"))
    world.settle()
    world.pod("a")
    world.settle()
    assert members(world) == {"shop/d", "shop/e", "shop/f"}
    assert world.states() == dict.fromkeys(["shop/a", "shop/d", "shop/e", "shop/f"], "Ready")
    status, reason, message = world.condition("RedirectPortPool", "web-80", "Programmed")
    assert (status, reason) == ("False", "TooManyServers") and "3 servers" in message and "1 more" in message and "spec.servers" in message
    assert "TooManyServers" in [event.reason for event in world.events]
    assert world.condition("ServicePortPool", "web", "Programmed")[0] == "True"


def test_a_server_shares_the_redirect_port_as_soon_as_another_goes(small):
    world = shop(servers=("a", "b", "c", "d"))
    world.settle()
    (outside,) = set(world.states()) - members(world)
    world.delete("Pod", "shop", min(members(world)).partition("/")[2])
    world.settle()
    assert outside in members(world) and len(members(world)) == 3
    assert world.condition("RedirectPortPool", "web-80", "Programmed")[0] == "True"


def test_more_ports_times_servers_than_a_table_holds_are_too_many_ports(small):
    world = shop()
    world.put("RedirectPortPool", "shop", "wide", {"spec": {
        "servicePortPool": {"name": "web"}, "target": "http", "ports": [{"from": 8000, "to": 8009}]}})
    world.settle()
    assert (len(members(world, "wide")), len(members(world))) == (2, 3)
    status, reason, message = world.condition("RedirectPortPool", "wide", "Programmed")
    assert (status, reason) == ("False", "TooManyPorts") and "10 redirect ports" in message and "fewer ports" in message
    assert world.condition("RedirectPortPool", "web-80", "Programmed")[0] == "True"


def test_holding_back_4094_servers_leaves_4093(monkeypatch):
    record = SimpleNamespace(server="", pod_uid="", ports=(), redirects=("web",), state=limits.READY)
    record.model_copy = lambda update: SimpleNamespace(**{**vars(record), **update})
    draft = Draft("web-0", None, [record] * (SET_SLOTS + 1))
    redirect = SimpleNamespace(metadata=SimpleNamespace(name="web"), spec=SimpleNamespace(ports=(range(80, 81),)))
    assert limits.hold_back([redirect], [draft]) == {"web": 1}
    assert sum("web" in record.redirects for record in draft.records) == SET_SLOTS


def report(world, node, faults):
    status = world.raw["NodeReport", "", node]["status"]
    world.put("NodeReport", "", node, {"status": {**status, "faults": faults}})


def test_what_a_node_cannot_program_is_said_with_the_nodes_name_and_its_remedy_until_it_can():
    world = shop()
    world.settle()
    uid = world.raw["ServicePortPool", "shop", "web"]["metadata"]["uid"]
    report(world, "n2", [{"namespace": "shop", "name": "web", "uid": uid, "message": "table sets is full: raise its capacity"}])
    world.step()
    for kind, name in (("ServicePortPool", "web"), ("RedirectPortPool", "web-80")):
        status, reason, message = world.condition(kind, name, "Programmed")
        assert (status, reason) == ("False", "NodeFault") and "node n2" in message and "raise its capacity" in message
    assert "NodeFault" in [event.reason for event in world.events]
    report(world, "n2", [])
    world.step()
    assert world.condition("ServicePortPool", "web", "Programmed")[0] == "True"


def test_a_service_port_that_is_a_living_service_port_is_said_and_no_connection_is_cut():
    world = shop()
    world.settle()
    before = world.records()
    world.service(ports=(80, 20001))
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "web", "Accepted")
    assert (status, reason) == ("False", "ServicePortTaken")
    assert "20001 of 10.96.0.10" in message and "shop/b" in message and "Service shop/web" in message
    assert "ServicePortTaken" in [event.reason for event in world.events]
    assert world.records() == before
    world.pod("d")
    world.settle()
    assert world.ports()["shop/d"] == [20003]
    world.service(ports=(80,))
    world.settle()
    assert world.condition("ServicePortPool", "web", "Accepted")[0] == "True"


def test_the_ipv6_address_of_a_dual_stack_service_is_said_to_be_left_out():
    world = World()
    world.pod("a")
    world.service(addresses=("fd00::10", "10.96.0.10"))
    world.pool()
    world.settle()
    status, _, message = world.condition("ServicePortPool", "web", "ResolvedRefs")
    assert status == "True" and "fd00::10" in message and "only IPv4" in message
    assert "IPv6NotServed" in [event.reason for event in world.events]


@pytest.mark.parametrize(("first", "last", "said"), [(32000, 32767, False), (32700, 32800, True), (61000, 61100, False)])
def test_service_ports_among_the_kernels_own_are_worth_a_word_and_no_fault(first, last, said):
    world = shop(first=first, last=last)
    world.settle()
    events = [event for event in world.events if event.reason == "EphemeralPorts"]
    assert [event.type for event in events] == (["Normal"] if said else [])
    assert world.condition("ServicePortPool", "web", "Accepted")[0] == "True"


def test_a_static_server_that_no_agent_can_attach_is_said_by_condition_and_event_with_the_remedy():
    world = World()
    world.service()
    world.pool(servers={"static": [{"name": "a", "address": "10.9.0.1"}]}, targets=[{"name": "http", "targetPort": 8080}])
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "web", "Programmed")
    assert (status, reason) == ("False", "ServersWaiting") and "set spec.servers.static[].node" in message
    assert [(event.reason, event.message) for event in world.events] == [(reason, message)]

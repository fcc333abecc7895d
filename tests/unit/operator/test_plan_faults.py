"""What cannot be done is said with its remedy, and what ran goes on running."""

import pytest
from unit.operator.world import World, shop


@pytest.mark.parametrize(("pinned", "words"), [
    ({"server": "a", "target": "grpc", "ports": [20001]}, "no such target"),
    ({"server": "a", "target": "http", "ports": [30000]}, "not in spec.portRanges"),
    ({"server": "a", "target": "http", "ports": [20080]}, "Service's own port or a redirect port"),
])
def test_wrong_pin_is_refused_with_its_remedy(pinned, words):
    world = World()
    world.service(ports=(80, 20080))
    world.pod("a")
    world.pool(pinned=[pinned])
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "web", "Accepted")
    assert (status, reason) == ("False", "InvalidPinned")
    assert words in message


def test_new_pool_without_room_for_servers_and_reserve_is_not_begun():
    world = shop(servers="abcd", last=20003)
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "web", "Accepted")
    assert (status, reason) == ("False", "InsufficientPorts")
    assert "4 servers need 4 service ports and 1 in reserve" in message and "add at least 1 numbers" in message
    assert world.slices() == {}
    assert "InsufficientPorts" in [event.reason for event in world.events]


def test_pool_that_is_outgrown_goes_on_running_and_heals_when_room_returns():
    world = shop(servers="abc", last=20003)
    world.settle()
    before = world.ports()
    for name in "de":
        world.pod(name)
    world.settle()
    assert world.condition("ServicePortPool", "web", "Accepted")[:2] == ("False", "InsufficientPorts")
    assert {server: ports for server, ports in world.ports("Ready").items() if server in before} == before
    assert set(world.ports()) == {*before, "shop/d"}
    world.pool(last=20009)
    world.settle()
    assert world.condition("ServicePortPool", "web", "Accepted")[0] == "True"
    assert world.ports("Ready").keys() == {"shop/a", "shop/b", "shop/c", "shop/d", "shop/e"}


def test_roll_out_may_use_the_reserve():
    world = shop(servers="abcd", last=20004)
    world.settle()
    world.pod("e")
    world.settle()
    assert world.condition("ServicePortPool", "web", "Accepted")[0] == "True"
    assert "shop/e" in world.ports("Ready")
    assert "ReserveInUse" in [event.reason for event in world.events]


def test_overlapping_ranges_on_one_address_are_a_conflict_of_the_younger():
    world = shop()
    world.later(10)
    world.pool("younger", first=20050, last=20149)
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "younger", "Accepted")
    assert (status, reason) == ("False", "Conflicted")
    assert "shop/web" in message
    assert world.condition("ServicePortPool", "web", "Accepted")[0] == "True"


def test_two_redirect_pools_on_one_port_are_a_conflict_of_the_younger():
    world = shop()
    world.later(10)
    world.redirect("again")
    world.settle()
    assert world.condition("RedirectPortPool", "again", "Accepted")[:2] == ("False", "Conflicted")
    assert world.condition("RedirectPortPool", "web-80", "Accepted")[0] == "True"
    assert all(raw["spec"]["redirects"][0]["name"] == "web-80" and len(raw["spec"]["redirects"]) == 1 for raw in world.slices().values())


def test_redirect_port_that_is_a_living_service_port_is_a_conflict_with_the_server_named():
    world = shop()
    world.settle()
    world.redirect("late", port=20001)
    world.settle()
    _, reason, message = world.condition("RedirectPortPool", "late", "Accepted")
    assert reason == "Conflicted" and "shop/b" in message


def two_pools(first=20000, **other):
    """Two pools of the same servers at addresses of their own; the redirect port of one is in the other's range."""
    world = World()
    world.service()
    world.service("other", addresses=("10.96.0.20",), selector={"app": "web"})
    world.pod("a")
    world.pod("b", node="n2")
    world.pool(first=30000, last=30009)
    world.pool("other", first=first, last=20009, addresses={"service": {"name": "other"}}, surgePercent=0, **other)
    return world


def numbers(world, pool):
    return {record["server"]: port for (_, name), raw in world.slices().items() if name.startswith(pool)
            for record in raw["spec"].get("assignments", ()) for target in record["targets"] for port in target["servicePorts"]}


def sharing(world):
    return {record["server"] for record in world.records() if "web-20000" in record.get("redirects", ())}


def test_a_redirect_port_of_a_pool_with_the_same_servers_is_no_service_port_in_another():
    world = two_pools()
    world.redirect("web-20000", port=20000)
    world.settle()
    assert numbers(world, "other") == {"shop/a": 20001, "shop/b": 20002}
    assert sharing(world) == {"shop/a", "shop/b"}
    assert world.condition("RedirectPortPool", "web-20000", "Programmed")[0] == "True"


def test_a_redirect_port_of_a_pool_with_other_servers_may_be_a_service_port():
    world = two_pools(servers={"selector": {"matchLabels": {"app": "another"}}})
    world.pod("c", app="another")
    world.redirect("web-20000", port=20000)
    world.settle()
    assert numbers(world, "other") == {"shop/c": 20000}


def test_a_pool_whose_room_another_pools_redirect_port_takes_is_told_so():
    world = two_pools(first=20008)
    world.redirect("web-20008", port=20008)
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "other", "Accepted")
    assert (status, reason) == ("False", "InsufficientPorts") and "without 1" in message


def test_a_server_with_a_service_port_that_becomes_a_redirect_port_keeps_it_and_shares_none_of_these_until_it_is_restarted():
    world = two_pools()
    world.settle()
    assert numbers(world, "other") == {"shop/a": 20000, "shop/b": 20001}
    world.redirect("web-20000", port=20000)
    world.settle()
    assert numbers(world, "other") == {"shop/a": 20000, "shop/b": 20001}
    assert sharing(world) == {"shop/b"}
    status, reason, message = world.condition("RedirectPortPool", "web-20000", "Programmed")
    assert (status, reason) == ("False", "Conflicted") and "20000 is a service port of server shop/a in another" in message
    assert "Conflicted" in [event.reason for event in world.events]
    world.delete("Pod", "shop", "a")
    world.settle()
    world.pod("a", address="10.1.0.77")
    world.settle()
    assert numbers(world, "other")["shop/a"] == 20002
    assert sharing(world) == {"shop/a", "shop/b"}
    assert world.condition("RedirectPortPool", "web-20000", "Programmed")[0] == "True"


def test_a_server_that_joins_a_pool_with_a_redirect_port_that_is_its_service_port_disturbs_none_of_the_others():
    world = two_pools(servers={"selector": {"matchLabels": {"tier": "back"}}})
    world.pod("c", labels={"app": "another", "tier": "back"})
    world.redirect("web-20000", port=20000)
    world.settle()
    assert numbers(world, "other") == {"shop/c": 20000}
    world.pod("c", labels={"app": "web", "tier": "back"})
    world.settle()
    assert sharing(world) == {"shop/a", "shop/b"}
    assert world.states()["shop/c"] == "Ready"
    assert "shop/c" in world.condition("RedirectPortPool", "web-20000", "Programmed")[2]


def test_a_pin_on_a_redirect_port_of_a_pool_with_the_same_servers_is_refused():
    world = two_pools(pinned=[{"server": "a", "target": "http", "ports": [20000]}])
    world.redirect("web-20000", port=20000)
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "other", "Accepted")
    assert (status, reason) == ("False", "InvalidPinned") and "of another pool with the same servers" in message
    assert numbers(world, "other") == {}


@pytest.mark.parametrize(("spec", "aspect", "reason"), [
    ({"pool": "nothing"}, "ResolvedRefs", "PoolNotFound"),
    ({"target": "grpc"}, "ResolvedRefs", "TargetNotFound"),
    ({"protocol": "UDP"}, "Accepted", "ProtocolMismatch"),
])
def test_wrong_redirect_pool_says_what_and_programs_nothing(spec, aspect, reason):
    world = shop()
    world.redirect("wrong", port=81, **spec)
    world.settle()
    assert world.condition("RedirectPortPool", "wrong", aspect)[:2] == ("False", reason)
    assert world.condition("RedirectPortPool", "wrong", "Programmed")[:2] == ("False", "NotAccepted")


def test_redirect_pool_for_a_server_that_does_not_exist_says_so_until_it_comes_and_serves_the_others():
    world = shop()
    world.redirect("some", port=81, servers={"names": ["a", "late"]})
    world.settle()
    status, reason, message = world.condition("RedirectPortPool", "some", "ResolvedRefs")
    assert (status, reason) == ("False", "ServerNotFound")
    assert "spec.servers.names: ServicePortPool web has no server late; correct the name, or start the pod" in message
    assert "ServerNotFound" in [event.reason for event in world.events]
    assert world.condition("RedirectPortPool", "some", "Programmed")[0] == "True"
    world.pod("late")
    world.settle()
    assert world.condition("RedirectPortPool", "some", "ResolvedRefs")[0] == "True"


def test_pin_for_a_server_that_does_not_exist_says_so_and_not_while_a_pod_is_replaced():
    world = shop(pinned=[{"server": "a", "target": "http", "ports": [20050]}, {"server": "nobody", "target": "http", "ports": [20051]}])
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "web", "ResolvedRefs")
    assert (status, reason) == ("False", "ServerNotFound")
    assert "spec.pinned: ServicePortPool web has no server nobody;" in message
    assert world.ports()["shop/a"] == [20050]
    world.delete("Pod", "shop", "a")
    world.settle()
    assert world.condition("ServicePortPool", "web", "ResolvedRefs")[2] == message


def test_service_with_ipv6_cluster_ips_only_is_said_to_be_unsupported():
    world = World()
    world.pod("a")
    world.service(addresses=("fd00::10",))
    world.pool()
    world.settle()
    _, reason, message = world.condition("ServicePortPool", "web", "ResolvedRefs")
    assert reason == "Unsupported" and "ipFamilyPolicy" in message
    assert world.slices() == {}


def test_dual_stack_service_is_served_at_its_ipv4_address():
    world = World()
    world.pod("a")
    world.service(addresses=("fd00::10", "10.96.0.10"))
    world.pool()
    world.settle()
    assert {tuple(piece["spec"]["virtualAddresses"]) for piece in world.slices().values()} == {("10.96.0.10",)}


def test_missing_service_is_said_and_resolves_when_it_comes():
    world = World()
    world.pod("a")
    world.pool()
    world.settle()
    assert world.condition("ServicePortPool", "web", "ResolvedRefs")[:2] == ("False", "ServiceNotFound")
    assert world.slices() == {}
    world.service()
    world.settle()
    assert world.ports() == {"shop/a": [20000]}


def test_pool_whose_service_is_deleted_goes_on_running():
    world = shop()
    world.settle()
    before = world.records()
    world.delete("Service", "shop", "web")
    world.settle()
    assert world.condition("ServicePortPool", "web", "ResolvedRefs")[:2] == ("False", "ServiceNotFound")
    assert world.records() == before


def test_headless_service_has_no_virtual_address():
    world = World()
    world.service(addresses=("None",))
    world.pod("a")
    world.pool()
    world.settle()
    assert world.condition("ServicePortPool", "web", "ResolvedRefs")[:2] == ("False", "NoClusterIP")


def test_named_target_port_that_a_pod_lacks_is_said():
    world = shop(servers=("a",))
    world.pod("b", ports=(("grpc", 9000),))
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "web", "ResolvedRefs")
    assert (status, reason) == ("False", "TargetPortNotFound") and "shop/b" in message
    assert set(world.ports()) == {"shop/a"}


def test_host_network_pod_gets_no_service_port():
    world = shop(servers=("a",))
    world.pod("h", host_network=True)
    world.settle()
    assert set(world.ports()) == {"shop/a"}
    assert "HostNetwork" in [event.reason for event in world.events]


def test_conditions_move_their_transition_time_only_with_their_status():
    world = shop(servers=("a",))
    world.settle()
    (before,) = [item for item in world.status()["conditions"] if item["type"] == "Accepted"]
    world.later(100)
    world.pod("b")
    world.settle()
    (after,) = [item for item in world.status()["conditions"] if item["type"] == "Accepted"]
    assert after["message"] != before["message"]
    assert after["lastTransitionTime"] == before["lastTransitionTime"]


def test_conditions_bear_the_generation_they_are_about():
    world = shop()
    world.settle()
    world.pool(restTime="90s")
    world.settle()
    assert {item["observedGeneration"] for item in world.status()["conditions"]} == {2}
    assert world.status()["observedGeneration"] == 2


STATIC = {"servers": {"static": [{"name": "a", "address": "10.0.0.1", "node": "n1"}]}, "targets": [{"name": "p", "targetPort": 5000}]}


def test_a_literal_address_outside_the_permitted_networks_is_refused_with_the_remedy():
    world = World()
    world.pool("lab", addresses={"literal": ["198.51.100.1"]}, **STATIC)
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "lab", "ResolvedRefs")
    assert (status, reason) == ("False", "AddressNotPermitted") and "operator.literalAddresses" in message
    assert world.records() == []


def test_a_literal_address_that_is_another_services_cluster_ip_takes_none_of_its_traffic():
    world = World()
    world.service("bank", addresses=("192.0.2.7",), namespace="bank")
    world.pool("lab", addresses={"literal": ["192.0.2.7"]}, **STATIC)
    world.settle()
    status, reason, message = world.condition("ServicePortPool", "lab", "ResolvedRefs")
    assert (status, reason) == ("False", "AddressOfService") and "bank/bank" in message
    assert world.records() == []


def test_a_literal_address_that_becomes_a_services_cluster_ip_is_the_pools_no_more_and_its_connections_go_on():
    world = World()
    world.pool("lab", addresses={"literal": ["192.0.2.7"]}, **STATIC)
    world.settle()
    assert world.ports("Ready") == {"a": [20000]}
    world.service("bank", addresses=("192.0.2.7",), namespace="bank")
    world.settle()
    assert world.condition("ServicePortPool", "lab", "ResolvedRefs")[1] == "AddressOfService"
    assert world.condition("ServicePortPool", "lab", "Programmed")[:2] == ("False", "NoAddress")
    assert world.ports("Ready") == {"a": [20000]}
    assert virtual_addresses(world) == [()]


def test_a_running_pool_keeps_the_literal_addresses_that_are_right():
    world = World()
    world.pool("lab", addresses={"literal": ["192.0.2.7", "192.0.2.8"]}, **STATIC)
    world.settle()
    world.service("bank", addresses=("192.0.2.7",), namespace="bank")
    world.settle()
    assert virtual_addresses(world) == [("192.0.2.8",)]


def test_an_address_that_another_service_has_after_the_pools_was_deleted_is_the_pools_no_more():
    world = shop()
    world.settle()
    before = world.ports("Ready")
    world.delete("Service", "shop", "web")
    world.settle()
    assert virtual_addresses(world) == [("10.96.0.10",)]  # as long as nobody else has it
    world.service("bank", addresses=("10.96.0.10",), namespace="bank")
    world.step()
    assert [event for event in world.events if event.reason == "AddressOfService"
            and "10.96.0.10, which Service web had, is the cluster IP of Service bank/bank now" in event.message]
    world.settle()
    assert (world.ports("Ready"), virtual_addresses(world)) == (before, [()])
    world.delete("Pod", "shop", "a")
    world.pod("d")
    world.settle()
    assert world.ports("Resting") == {"shop/a": before["shop/a"]}
    assert "shop/d" not in world.ports()
    world.service(addresses=("10.96.0.77",))
    world.settle()
    assert virtual_addresses(world) == [("10.96.0.77",)]
    assert {"shop/b", "shop/c", "shop/d"} <= world.ports("Ready").keys()


def virtual_addresses(world):
    return sorted({tuple(raw["spec"]["virtualAddresses"]) for raw in world.slices().values()})


def test_a_static_server_that_is_another_namespaces_pod_gets_no_service_port():
    world = World()
    world.pod("vault", address="10.0.0.1", namespace="bank")
    world.pool("lab", addresses={"literal": ["192.0.2.7"]}, **STATIC)
    world.settle()
    assert world.records() == []
    assert ("ForeignPod", "bank/vault") in [(event.reason, "bank/vault" if "bank/vault" in event.message else "") for event in world.events]


def test_a_static_server_may_be_a_pod_of_the_pools_own_namespace():
    world = World()
    world.pod("a", address="10.0.0.1")
    world.pool("lab", addresses={"literal": ["192.0.2.7"]}, **STATIC)
    world.settle()
    assert list(world.ports()) == ["a"]

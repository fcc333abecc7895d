"""The life of service ports and their servers, seen through a cluster in memory."""

from unit.operator.world import World, shop


def test_K01_pools_become_service_ports_and_ready_servers():
    world = shop()
    world.settle()
    assert world.ports("Ready") == {"shop/a": [20000], "shop/b": [20001], "shop/c": [20002]}
    assert world.condition("ServicePortPool", "web", "Programmed")[:2] == ("True", "Programmed")
    assert world.condition("RedirectPortPool", "web-80", "Programmed")[:2] == ("True", "Programmed")
    assert world.status()["ports"] == {"total": 100, "used": 3, "resting": 0, "free": 97}
    assert world.status()["servers"] == {"assigned": 0, "ready": 3, "draining": 0}


def test_slice_holds_all_that_an_agent_needs():
    world = shop(servers=("a",))
    world.settle()
    ((key, raw),) = world.slices().items()
    assert key == ("shop", "web-0")
    spec = raw["spec"]
    assert spec["virtualAddresses"] == ["10.96.0.10"]
    assert spec["redirects"] == [{"name": "web-80", "generation": 1, "protocol": "TCP", "ports": [{"from": 80, "to": 80}],
                                  "target": "http", "policy": "Hash"}]
    (record,) = spec["assignments"]
    assert record["redirects"] == ["web-80"]
    assert record["targets"] == [{"name": "http", "protocol": "TCP", "targetPort": 8080, "servicePorts": [20000]}]
    assert raw["metadata"]["labels"] == {"wharfinger.io/pool": "web"}
    assert "ownerReferences" not in raw["metadata"]


def test_server_is_assigned_first_and_ready_only_after_its_own_node_has_acknowledged():
    world = shop(servers=("a", "b"))
    world.settle(acknowledge=False)
    assert world.states() == {"shop/a": "Assigned", "shop/b": "Assigned"}
    assert world.condition("ServicePortPool", "web", "Programmed")[0] == "False"
    world.acknowledge("n1")
    world.step()
    assert world.states() == {"shop/a": "Ready", "shop/b": "Assigned"}


def test_attached_server_waits_until_the_slice_with_its_ports_is_programmed():
    world = shop(servers=("a",))
    world.settle(acknowledge=False)
    pod = world.raw["Pod", "shop", "a"]["metadata"]["uid"]
    attached = [{"pod": "shop/a", "uid": pod, "address": "10.1.0.98"}]
    world.put("NodeReport", "", "n1", {"status": {"servers": attached}})
    world.step()
    assert world.states() == {"shop/a": "Assigned"}


def test_terminating_server_drains_then_rests_then_goes():
    world = shop(restTime="30s")
    world.settle()
    world.pod("a", terminating=True)
    world.settle()
    assert world.states()["shop/a"] == "Draining"
    world.delete("Pod", "shop", "a")
    world.settle()
    assert world.states()["shop/a"] == "Resting"
    world.later(29.9)
    world.settle()
    assert "shop/a" in world.states()
    world.later(0.2)
    world.settle()
    assert world.states() == {"shop/b": "Ready", "shop/c": "Ready"}


def test_only_a_server_that_leaves_is_said_to_leave_while_it_drains():
    world = shop()
    world.settle()

    def leaving():
        return {record["server"] for record in world.records() if record["leaving"]}

    world.pod("b", node="n2", ready=False)
    world.settle()
    assert (world.states()["shop/b"], leaving()) == ("Draining", set())
    world.pod("b", node="n2", ready=False, terminating=True)
    world.pod("a", terminating=True)
    world.settle()
    assert (world.states()["shop/b"], leaving()) == ("Draining", {"shop/a", "shop/b"})
    world.delete("Pod", "shop", "a")
    world.settle()
    assert (world.states()["shop/a"], leaving()) == ("Resting", {"shop/b"})


def test_a_pools_moves_stand_in_its_slices():
    world = shop(moves={"mode": "Close", "onDrain": True})
    world.settle()
    assert {str(raw["spec"]["moves"]) for raw in world.slices().values()} == {str({"mode": "Close", "onDrain": True})}


def test_server_that_is_not_ready_gets_no_new_connections_and_keeps_its_port():
    world = shop()
    world.settle()
    world.pod("b", node="n2", ready=False)
    world.settle()
    assert (world.states()["shop/b"], world.ports()["shop/b"]) == ("Draining", [20001])
    assert world.condition("ServicePortPool", "web", "Programmed")[0] == "True"
    world.pod("b", node="n2", ready=True)
    world.settle()
    assert (world.states()["shop/b"], world.ports()["shop/b"]) == ("Ready", [20001])


def test_server_that_was_never_ready_does_not_hold_up_the_pool():
    world = shop()
    world.pod("c", ready=False)
    world.settle()
    assert world.states()["shop/c"] == "Assigned"
    assert world.condition("ServicePortPool", "web", "Programmed")[0] == "True"


def test_pod_that_no_longer_belongs_to_the_service_drains_while_it_runs():
    world = shop()
    world.settle()
    world.pod("a", labels={"app": "quarantine"})
    world.settle()
    assert world.states()["shop/a"] == "Draining"


def test_freed_port_is_not_given_again_before_its_rest_is_over():
    world = shop(last=20003, surgePercent=0)
    world.settle()
    world.delete("Pod", "shop", "a")
    world.settle()
    world.pod("d")
    world.pod("e")
    world.settle()
    assert world.ports("Ready")["shop/d"] == [20003]
    assert "shop/e" not in world.ports()
    assert world.condition("ServicePortPool", "web", "Programmed")[1] == "NoFreePorts"
    assert "1 servers get no service port" in " ".join(event.message for event in world.events)
    world.later(61)
    world.settle()
    assert world.ports("Ready")["shop/e"] == [20000]


def test_freed_port_waits_for_every_live_agent():
    world = shop(last=20002, surgePercent=0)
    world.settle()
    world.delete("Pod", "shop", "a")
    world.step()
    world.acknowledge("n1")
    world.pod("d")
    world.later(3600)
    world.settle(acknowledge=False)
    assert "shop/d" not in world.ports()
    world.settle()
    assert world.ports()["shop/d"] == [20000]


def test_unreachable_node_holds_a_freed_port_until_it_is_removed_or_answers():
    world = shop(last=20002, surgePercent=0)
    world.settle()
    world.later(41, renew=False)
    world.renew("n1")
    world.delete("Pod", "shop", "a")
    world.pod("d")
    world.settle()
    world.later(3600)
    world.settle()
    assert "shop/d" not in world.ports()
    world.delete("Node", "", "n2")
    world.settle()
    assert world.ports()["shop/d"] == [20000]


def test_unreachable_node_holds_no_port_whose_rest_it_had_acknowledged_whatever_else_changed_since():
    world = shop(last=20004, surgePercent=0)
    world.settle()
    world.delete("Pod", "shop", "a")
    world.settle()
    world.later(41, renew=False)
    world.renew("n1")
    world.pod("d")
    world.step()
    world.acknowledge("n1")
    world.step()
    world.restart()
    world.later(60)
    world.step()
    assert world.records("Resting") == []


def test_a_slice_that_a_node_excepts_is_as_old_there_as_the_node_says():
    world = shop(servers=("a",), nodes=("n1",))
    world.settle()
    (raw,) = world.slices().values()
    world.delete("Pod", "shop", "a")
    world.step()
    lacking = [{"namespace": "shop", "name": "web-0", "uid": raw["metadata"]["uid"], "version": raw["metadata"]["resourceVersion"]}]
    world.put("NodeReport", "", "n1", {"status": {"slices": {"version": str(world.slices_at + 9), "except": lacking}}})
    world.later(3600)
    world.step()
    assert world.states() == {"shop/a": "Resting"}
    assert world.condition("ServicePortPool", "web", "Programmed")[:2] == ("False", "Pending")
    world.acknowledge("n1")
    world.step()
    assert world.states() == {}


def test_a_node_that_does_not_know_that_a_slice_is_gone_holds_its_numbers():
    world = shop(servers=("a",))
    world.settle()
    world.delete("ServicePortPool", "shop", "web")
    world.delete("ServicePortSlice", "shop", "web-0")
    world.later(61)
    world.acknowledge("n1")
    world.pool()
    world.settle(acknowledge=False)
    assert world.ports() == {"shop/a": [20001]}
    world.acknowledge("n2")
    world.pod("b")
    world.settle()
    assert world.ports()["shop/b"] == [20000]


def test_recreated_pod_of_the_same_name_is_another_server():
    world = shop(servers=("a",))
    world.settle()
    world.delete("Pod", "shop", "a")
    world.pod("a")
    world.settle()
    assert [(record["state"], record["targets"][0]["servicePorts"]) for record in world.records()] == [
        ("Resting", [20000]), ("Ready", [20001])]


def test_pod_that_came_back_with_another_address_is_another_server():
    world = shop(servers=("a",))
    world.settle()
    world.pod("a", address="10.1.7.7")
    world.settle()
    assert [(record["state"], record["address"]) for record in world.records()] == [("Resting", "10.1.0.98"), ("Ready", "10.1.7.7")]


def test_server_on_a_node_without_a_live_agent_gets_no_service_port():
    world = shop(servers=("a",))
    world.pod("z", node="n9")
    world.settle()
    assert "shop/z" not in world.ports()
    (event,) = [event for event in world.events if event.reason == "NoAgent"]
    assert "shop/z" in event.message and "n9" in event.message
    assert world.condition("ServicePortPool", "web", "Programmed")[0] == "True"


def test_silent_agent_takes_nothing_from_ready_servers():
    world = shop()
    world.settle()
    before = world.records()
    world.later(41, renew=False)
    world.settle()
    assert world.records() == before
    assert world.condition("ServicePortPool", "web", "Programmed")[:2] == ("False", "NoAgents")


def test_server_whose_translator_is_gone_gets_no_new_connections():
    world = shop()
    world.settle()
    status = world.raw["NodeReport", "", "n1"]["status"]
    world.put("NodeReport", "", "n1", {"status": {**status, "servers": []}})
    world.step()
    assert world.states() == {"shop/a": "Draining", "shop/b": "Ready", "shop/c": "Draining"}


def test_ports_of_services_and_redirects_are_never_service_ports():
    world = World()
    world.service(ports=(80, 20000, 20002))
    for name in "abc":
        world.pod(name)
    world.pool()
    world.redirect(port=20003)
    world.settle()
    assert world.ports() == {"shop/a": [20001], "shop/b": [20004], "shop/c": [20005]}
    assert world.status()["ports"]["total"] == 97


def test_service_port_is_never_one_that_the_server_listens_on():
    world = World()
    world.service()
    world.pod("a", ports=(("http", 20000), ("metrics", 20001)))
    world.pod("b")
    world.pool()
    world.settle()
    assert world.ports() == {"shop/a": [20002], "shop/b": [20000]}


def test_pools_that_share_a_server_never_share_its_numbers():
    world = World()
    world.service()
    world.service("other", addresses=("10.96.0.20",), selector={"app": "web"})
    world.pod("a")
    world.pool()
    world.pool("second", addresses={"service": {"name": "other"}})
    world.settle()
    assert sorted(port for record in world.records() for target in record["targets"] for port in target["servicePorts"]) == [20000, 20001]


def test_reused_pod_address_does_not_bring_back_a_resting_number():
    world = World()
    world.service()
    world.service("other", addresses=("10.96.0.20",), selector={"app": "other"})
    world.pod("a", address="10.1.0.5")
    world.pool()
    world.pool("second", addresses={"service": {"name": "other"}}, servers={"service": {"name": "other"}})
    world.settle()
    world.delete("Pod", "shop", "a")
    world.pod("b", app="other", address="10.1.0.5")
    world.settle()
    assert world.ports() == {"shop/a": [20000], "shop/b": [20001]}


def test_restarted_operator_adopts_what_stands_and_writes_nothing():
    world = shop()
    world.settle()
    world.restart()
    assert not world.step()


def test_pinned_server_has_its_numbers_and_nobody_else_gets_them():
    world = shop(pinned=[{"server": "b", "target": "http", "ports": [20000, 20005]}])
    world.settle()
    assert world.ports() == {"shop/a": [20001], "shop/b": [20000, 20005], "shop/c": [20002]}


def test_redirect_pool_may_be_shared_by_a_subset_of_the_servers():
    world = shop()
    world.redirect("canary", port=81, servers={"names": ["a", "c"]})
    world.pod("b", node="n2", labels={"app": "web", "tier": "gold"})
    world.redirect("gold", port=82, servers={"matchLabels": {"tier": "gold"}})
    world.settle()
    assert {record["server"]: record["redirects"] for record in world.records()} == {
        "shop/a": ["canary", "web-80"], "shop/b": ["gold", "web-80"], "shop/c": ["canary", "web-80"]}
    assert world.raw["RedirectPortPool", "shop", "canary"]["status"]["servers"] == {"ready": 2}


def test_server_that_gets_another_target_keeps_its_numbers_and_has_a_further_assignment():
    world = shop(servers=("a",))
    world.settle()
    world.pool(targets=[{"name": "http", "targetPort": "http"}, {"name": "admin", "targetPort": 9000, "portsPerServer": 2}])
    world.settle()
    assert [[(target["name"], target["servicePorts"]) for target in record["targets"]] for record in world.records("Ready")] == [
        [("http", [20000])], [("admin", [20001, 20002])]]


def test_a_target_that_comes_back_with_another_port_is_the_next_servers_and_living_service_ports_keep_theirs():
    world = shop(servers=("a",))
    world.settle()
    world.pool(targets=[{"name": "http", "targetPort": 9090}])
    world.settle()
    (record,) = world.records()
    assert (record["state"], record["targets"][0]["targetPort"], record["targets"][0]["servicePorts"]) == ("Ready", 8080, [20000])
    status, reason, message = world.condition("ServicePortPool", "web", "Programmed")
    assert (status, reason) == ("False", "TargetChanged") and "shop/a" in message and "restart" in message
    assert "TargetChanged" in [event.reason for event in world.events]
    world.pod("b")
    world.delete("Pod", "shop", "a")
    world.settle()
    assert {record["server"]: record["targets"][0]["targetPort"] for record in world.records("Ready")} == {"shop/b": 9090}
    assert world.condition("ServicePortPool", "web", "Programmed")[0] == "True"


def test_figure_2_network_of_static_servers_has_its_pinned_numbers():
    """P01: a: service 1,5,9 redirect 20,22; b: 2,6,10 / 20,21,22; c: 3,7,11 / 21,22; d: 4,8,12 / 21,22."""
    world = World()
    static = [{"name": name, "address": f"10.0.0.{index}", "node": "n1"} for index, name in enumerate("abcd", 1)]
    pinned = [{"server": name, "target": "p", "ports": [index, index + 4, index + 8]} for index, name in enumerate("abcd", 1)]
    world.pool("figure2", first=1, last=12, addresses={"literal": ["192.0.2.1"]}, servers={"static": static},
               targets=[{"name": "p", "targetPort": 5000}], pinned=pinned, surgePercent=0)
    for port, names in ((20, "ab"), (21, "bcd"), (22, "abcd")):
        world.redirect(f"r{port}", pool="figure2", port=port, target="p", servers={"names": list(names)})
    world.settle()
    assert world.ports("Ready") == {"a": [1, 5, 9], "b": [2, 6, 10], "c": [3, 7, 11], "d": [4, 8, 12]}
    assert {record["server"]: record["redirects"] for record in world.records()} == {
        "a": ["r20", "r22"], "b": ["r20", "r21", "r22"], "c": ["r21", "r22"], "d": ["r21", "r22"]}


def test_static_server_without_a_node_stays_assigned_and_the_condition_says_so():
    world = World()
    world.pool("lab", addresses={"literal": ["192.0.2.1"]}, servers={"static": [{"name": "a", "address": "10.0.0.1"}]},
               targets=[{"name": "p", "targetPort": 5000}])
    world.settle()
    assert world.states() == {"a": "Assigned"}
    status, reason, message = world.condition("ServicePortPool", "lab", "Programmed")
    assert (status, reason) == ("False", "ServersWaiting") and "spec.servers.static[].node" in message


def test_static_server_that_is_listed_again_has_its_numbers_back():
    world = World()
    servers = [{"name": name, "address": f"10.0.0.{index}", "node": "n1"} for index, name in enumerate("ab", 1)]
    pool = {"addresses": {"literal": ["192.0.2.1"]}, "targets": [{"name": "p", "targetPort": 5000}]}
    world.pool("lab", servers={"static": servers}, **pool)
    world.settle()
    world.pool("lab", servers={"static": servers[1:]}, **pool)
    world.settle()
    assert world.states() == {"a": "Resting", "b": "Ready"}
    world.pool("lab", servers={"static": servers}, **pool)
    world.settle()
    assert (world.states(), world.ports()) == ({"a": "Ready", "b": "Ready"}, {"a": [20000], "b": [20001]})


def test_slices_have_at_most_a_hundred_assignments_and_a_change_touches_one():
    world = shop(servers=[f"s{number}" for number in range(230)], last=20999)
    world.settle()
    assert [len(raw["spec"]["assignments"]) for _, raw in sorted(world.slices().items())] == [100, 100, 30]
    world.pod("s0", ready=False)
    change = world.step()
    assert sum(len(group.writes) for group in change.pools) == 1


def test_empty_slice_goes_after_the_rest_and_the_last_one_stays():
    names = [f"s{number}" for number in range(110)]
    world = shop(servers=names, last=20999, restTime="10s")
    world.settle()
    for name in names:
        world.delete("Pod", "shop", name)
    world.settle()
    assert len(world.slices()) == 2
    world.later(11)
    world.settle()
    assert list(world.slices()) == [("shop", "web-0")]
    assert world.records() == []


def test_slice_that_someone_deletes_is_written_again_as_it_was():
    world = shop()
    world.settle()
    before = world.ports()
    world.delete("ServicePortSlice", "shop", "web-0")
    world.settle()
    assert world.ports("Ready") == before


def test_numbers_of_a_deleted_pool_rest_before_its_successor_gets_them():
    world = shop(servers=("a",))
    world.settle()
    world.delete("ServicePortPool", "shop", "web")
    world.delete("ServicePortSlice", "shop", "web-0")
    world.pool()
    world.settle()
    assert world.ports() == {"shop/a": [20001]}
    world.later(61)
    world.pod("b")
    world.settle()
    assert world.ports()["shop/b"] == [20000]


def test_slice_of_a_former_pool_of_the_same_name_is_not_touched():
    world = shop(servers=("a",))
    world.settle()
    former = world.raw["ServicePortSlice", "shop", "web-0"]
    world.delete("ServicePortPool", "shop", "web")
    world.pool()
    world.settle()
    assert world.raw["ServicePortSlice", "shop", "web-0"] == former
    (record,) = world.raw["ServicePortSlice", "shop", "web-1"]["spec"]["assignments"]
    assert record["targets"][0]["servicePorts"] == [20001]


def test_scopes_are_unique_and_stay():
    world = World()
    world.service()
    for index in range(20):
        world.pool(f"p{index}", first=1000 + 100 * index, last=1099 + 100 * index)
    world.settle()
    scopes = [raw["status"]["scope"] for (kind, *_), raw in world.raw.items() if kind == "ServicePortPool"]
    assert len(set(scopes)) == 20 and all(0 < scope < 2**32 for scope in scopes)
    world.put("ServicePortPool", "shop", "p3", {"status": {}})
    world.settle()
    assert [raw["status"]["scope"] for (kind, *_), raw in world.raw.items() if kind == "ServicePortPool"] == scopes


def test_plan_looks_again_when_a_rest_or_a_lease_runs_out():
    world = shop(restTime="20s")
    world.settle()
    assert 39 < (world.made.look_again - world.now).total_seconds() < 41
    world.delete("Pod", "shop", "a")
    world.settle()
    assert 20 <= (world.made.look_again - world.now).total_seconds() < 20.1


def test_status_names_the_agents_that_are_awaited_once_few_are_left():
    nodes = [f"n{number}" for number in range(9)]
    world = shop(servers=(), nodes=nodes)
    world.step()
    said = []
    for node in nodes:
        world.step()
        said.append(world.condition("ServicePortPool", "web", "Programmed")[2])
        world.acknowledge(node)
    assert len(set(said[:4])) == 1
    assert "more than 5" in said[0]
    assert "n4, n5, n6, n7, n8" in said[4]

"""Servers that a NetworkPolicy selects are not chosen, keep their ports, and are told of."""

from unit.operator.world import shop


def policy(world, *types, name="deny", namespace="shop", **labels):
    world.put("NetworkPolicy", namespace, name, {"spec": {"podSelector": {"matchLabels": labels}, "policyTypes": list(types)}})


def agent_says(world, node, **policies):
    """The agent's report names the policy of each of its servers."""
    status = world.raw["NodeReport", "", node]["status"]
    servers = [{**entry, "policy": policies.get(entry["pod"].rpartition("/")[2], "")} for entry in status["servers"]]
    world.put("NodeReport", "", node, {"status": {**status, "servers": servers}})


def policed(world):
    return world.condition("ServicePortPool", "web", "Policed")


def test_a_server_that_a_policy_selects_drains_and_is_ready_again_when_the_policy_goes():
    world = shop()
    world.settle()
    before = world.ports()
    policy(world, "Ingress")
    world.settle()
    assert set(world.states().values()) == {"Draining"}
    assert world.condition("RedirectPortPool", "web-80", "Programmed")[0] == "True"
    world.delete("NetworkPolicy", "shop", "deny")
    world.settle()
    assert set(world.states().values()) == {"Ready"}
    assert world.ports() == before


def test_only_servers_that_a_policy_selects_for_ingress_drain():
    world = shop()
    world.pod("b", node="n2", labels={"app": "web", "tier": "till"})
    world.settle()
    policy(world, "Egress", name="out")
    policy(world, "Ingress", name="elsewhere", namespace="other")
    policy(world, "Ingress", tier="till")
    world.settle()
    assert world.states() == {"shop/a": "Ready", "shop/b": "Draining", "shop/c": "Ready"}


def test_which_policy_selects_which_servers_is_said_in_a_condition_and_an_event():
    world = shop()
    world.pod("b", node="n2", labels={"app": "web", "tier": "till"})
    world.settle()
    assert policed(world)[:2] == ("False", "NotSelected")
    policy(world, "Ingress", tier="till")
    world.settle()
    status, reason, message = policed(world)
    assert (status, reason) == ("True", "NetworkPolicy")
    assert "1 of 3 servers are unaware by rule, as NetworkPolicy shop/deny selects them for ingress: shop/b." in message
    assert message in [event.message for event in world.events if event.reason == "NetworkPolicy"]
    world.delete("NetworkPolicy", "shop", "deny")
    world.settle()
    assert policed(world)[:2] == ("False", "NotSelected")


def test_a_new_server_that_a_policy_selects_has_ports_and_nobody_waits_for_it():
    world = shop(servers=("a",))
    world.settle()
    policy(world, "Ingress", tier="till")
    world.pod("b", node="n2", labels={"app": "web", "tier": "till"})
    world.settle()
    assert world.states() == {"shop/a": "Ready", "shop/b": "Assigned"}
    assert world.condition("ServicePortPool", "web", "Programmed")[0] == "True"


def test_a_server_stays_unaware_until_its_agent_knows_that_the_policy_is_gone():
    world = shop(servers=("a",))
    world.settle()
    policy(world, "Ingress")
    world.settle()
    agent_says(world, "n1", a="shop/deny")
    world.delete("NetworkPolicy", "shop", "deny")
    world.settle(acknowledge=False)
    assert world.states() == {"shop/a": "Draining"}
    agent_says(world, "n1")
    world.settle()
    assert world.states() == {"shop/a": "Ready"}


def test_a_server_whose_agent_knows_of_the_policy_first_drains():
    world = shop(servers=("a",))
    world.settle()
    agent_says(world, "n1", a="shop/deny")
    world.settle(acknowledge=False)
    assert world.states() == {"shop/a": "Draining"}
    assert policed(world)[0] == "True"

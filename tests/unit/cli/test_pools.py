"""`wharfinger pools`."""

from rich.console import Console
from unit.cli.objects import NOW, pools, redirect_pool, service_pool
from wharfinger_api import Condition
from wharfinger_cli._seen import Pools
from wharfinger_cli.pools import build_pools, print_pools


def problems(**changes):
    return [(problem.where, problem.what) for problem in build_pools(pools(**changes)).problems]


def printed(view):
    out = Console(width=200, no_color=True)
    with out.capture() as captured:
        print_pools(view, out)
    return captured.get()


def test_a_pool_shows_its_ports_and_servers():
    (view,) = build_pools(pools()).service_port_pools
    assert (view.namespace, view.name, view.virtual_addresses, view.port_ranges) == ("shop", "shop", ("10.96.0.10",), ("20000-20999",))
    assert (view.total, view.used, view.resting, view.free) == (1000, 2, 1, 997)
    assert (view.servers_ready, view.scope, view.programmed, view.current) == (2, 7, True, True)
    assert [condition.type for condition in view.conditions] == ["Accepted", "ResolvedRefs", "Programmed"]


def test_a_redirect_pool_shows_its_ports_target_and_policy():
    (view,) = build_pools(pools()).redirect_port_pools
    assert (view.name, view.pool, view.target, view.ports, view.policy, view.servers_ready) == ("web", "shop", "http", ("80",), "Hash", 2)


def test_the_first_condition_that_fails_is_the_problem():
    fault = {"Accepted": ("Conflicted", "port 80 is of shop/older; choose another"), "Programmed": ("NotAccepted", "nothing is programmed")}
    assert problems(redirects=(redirect_pool(**fault),)) == [("RedirectPortPool shop/web", "not Accepted (Conflicted)")]


def test_a_pool_that_the_operator_has_not_seen_is_a_problem():
    assert problems(services=(service_pool(observed=0),), redirects=()) == [
        ("ServicePortPool shop/shop", "the operator has not looked at its latest version")]


def test_a_redirect_pool_without_a_ready_server_is_a_problem():
    assert problems(redirects=(redirect_pool(ready=0),)) == [
        ("RedirectPortPool shop/web", "no server is ready, so its connections are unaware")]


def test_the_text_is_two_tables():
    lines = printed(build_pools(pools(services=(service_pool(servers={"ready": 2, "draining": 1}),)))).splitlines()
    assert lines[1].split("  ")[0] == "shop/shop"
    assert "2 ready, 1 draining" in lines[1]
    assert lines[4].startswith("shop/web")
    assert "shop/http" in lines[4]


def test_without_pools_the_text_says_how_to_declare_one():
    assert "kubectl apply" in printed(build_pools(Pools()))


def test_a_pool_whose_servers_a_policy_keeps_unaware_is_a_problem_with_the_policys_name():
    pool = service_pool(servers={"ready": 0, "draining": 2})
    policed = Condition(type="Policed", status="True", reason="NetworkPolicy", message="NetworkPolicy shop/deny", last_transition_time=NOW)
    status = pool.status.model_copy(update={"conditions": (*pool.status.conditions, policed)})
    found = build_pools(pools(services=(pool.model_copy(update={"status": status}),))).problems
    assert (found[0].what, found[0].remedy) == ("a NetworkPolicy keeps connections to its servers unaware (NetworkPolicy)", policed.message)

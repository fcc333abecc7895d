"""Planning again only what changed wants what planning everything anew wants; and it does plan only what changed.

`World.plan` compares the two at every step of every test here; the machine below takes objects through whatever may happen to them.
"""

from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from unit.operator.world import World, shop, stamp
from wharfinger_api import dump
from wharfinger_operator import planner

SPACE = "shop"
NODES = st.sampled_from(["n1", "n2"])
PODS = st.sampled_from([f"p{number}" for number in range(5)])
SERVICES = st.sampled_from(["web", "other", "bare"])
POOLS = st.sampled_from(["one", "two", "three"])
REDIRECTS = st.sampled_from(["r1", "r2"])
ADDRESSES = {"web": ("10.96.0.10",), "other": ("10.96.0.20",), "bare": ()}


class Changes(RuleBasedStateMachine):
    """Pools that come to share an address and part again, with all that they refer to."""

    def __init__(self):
        super().__init__()
        self.world = World()

    @initialize()
    def begin(self):
        self.world.service("web")
        self.world.service("other", addresses=ADDRESSES["other"], selector={"app": "web"})
        for number in range(3):
            self.world.pod(f"p{number}", node=f"n{1 + number % 2}", address=f"10.1.0.{number + 1}")
        self.world.pool("one", first=20000, last=20005, surgePercent=0)
        self.world.pool("two", addresses={"service": {"name": "other"}}, servers={"selector": {"matchLabels": {"app": "web"}}})
        self.world.redirect("r1", pool="one")
        self.world.settle()

    def gone(self, kind, name, namespace=SPACE):
        if (kind, namespace, name) in self.world.raw:
            self.world.delete(kind, namespace, name)

    @rule(name=PODS, node=NODES, last=st.integers(1, 4), ready=st.booleans(), app=st.sampled_from(["web", "tea"]), leaving=st.booleans())
    def pod(self, name, node, last, ready, app, leaving):
        self.world.pod(name, node=node, address=f"10.1.0.{last}", ready=ready, app=app, terminating=leaving)

    @rule(name=PODS)
    def pod_goes(self, name):
        self.gone("Pod", name)

    @rule(types=st.sampled_from([("Ingress",), ("Egress",), ("Ingress", "Egress")]), app=st.sampled_from(["web", "tea"]))
    def policy(self, types, app):
        self.world.put("NetworkPolicy", SPACE, "deny", {"spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": list(types)}})

    @rule()
    def policy_goes(self):
        self.gone("NetworkPolicy", "deny")

    @rule(node=NODES, policy=st.sampled_from(["", "shop/deny"]))
    def agent_says_what_a_policy_selects(self, node, policy):
        if ("NodeReport", "", node) not in self.world.raw:
            return
        status = self.world.raw["NodeReport", "", node]["status"]
        servers = [{**entry, "policy": policy} for entry in status.get("servers", ())]
        self.world.put("NodeReport", "", node, {"status": {**status, "servers": servers}})

    @rule(node=NODES, behind=st.integers(0, 6), older=st.sampled_from([None, 0, 2]), data=st.data())
    def agent_lags(self, node, behind, older, data):
        """It knows of slices as of some events ago, and of one it has an older version, or none."""
        if ("NodeReport", "", node) not in self.world.raw:
            return
        slices = {"version": str(max(self.world.slices_at - behind, 0))}
        pieces = sorted(raw["metadata"]["uid"] for raw in self.world.slices().values())
        if older is not None and pieces:
            version = str(self.world.slices_at - older) if older else ""
            slices["except"] = [{"namespace": SPACE, "name": "x", "uid": data.draw(st.sampled_from(pieces)), "version": version}]
        status = self.world.raw["NodeReport", "", node]["status"]
        self.world.put("NodeReport", "", node, {"status": {**status, "slices": slices}})

    @rule(name=SERVICES, ports=st.sampled_from([(80,), (80, 20001)]), selects=st.sampled_from([{"app": "web"}, {"app": "tea"}, {}]),
          swapped=st.booleans())
    def service(self, name, ports, selects, swapped):
        addresses = ADDRESSES["web" if swapped and name == "other" else name]
        self.world.service(name, addresses=addresses or ("None",), ports=ports, selector=selects)

    @rule(name=SERVICES)
    def service_goes(self, name):
        self.gone("Service", name)

    @rule(service=SERVICES, pods=st.sets(PODS, max_size=2))
    def endpoints(self, service, pods):
        endpoints = [{"addresses": ["10.1.0.9"], "targetRef": {"kind": "Pod", "namespace": SPACE, "name": name}} for name in sorted(pods)]
        self.world.put("EndpointSlice", SPACE, f"{service}-1", {
            "metadata": {"labels": {"kubernetes.io/service-name": service}}, "endpoints": endpoints})

    @rule(name=POOLS, address=st.sampled_from(["web", "other", "bare", "literal"]), servers=SERVICES, first=st.sampled_from([20000, 20003]),
          each=st.integers(1, 2))
    def pool(self, name, address, servers, first, each):
        where = {"literal": ["10.96.0.10", "10.96.0.30"]} if address == "literal" else {"service": {"name": address}}
        self.world.pool(name, first=first, last=first + 6, addresses=where, servers={"service": {"name": servers}}, surgePercent=0,
                        targets=[{"name": "http", "targetPort": "http", "portsPerServer": each}])

    @rule(name=POOLS)
    def pool_is_being_deleted(self, name):
        if ("ServicePortPool", SPACE, name) in self.world.raw:
            self.world.put("ServicePortPool", SPACE, name, {"metadata": {"deletionTimestamp": stamp(self.world.now)}})

    @rule(name=POOLS)
    def pool_goes(self, name):
        self.gone("ServicePortPool", name)

    @rule(name=REDIRECTS, pool=POOLS, port=st.sampled_from([80, 81, 20002]))
    def redirect(self, name, pool, port):
        self.world.redirect(name, pool=pool, port=port)

    @rule(name=REDIRECTS)
    def redirect_goes(self, name):
        self.gone("RedirectPortPool", name)

    @rule(number=st.integers(0, 3))
    def slice_goes(self, number):
        names = sorted(name for _, name in self.world.slices())
        if names:
            self.gone("ServicePortSlice", names[number % len(names)])

    @rule(number=st.integers(0, 3), scope=st.integers(1, 2))
    def slice_is_meddled_with(self, number, scope):
        raw = sorted(self.world.slices().items())
        if raw:
            (_, name), body = raw[number % len(raw)]
            self.world.put("ServicePortSlice", SPACE, name, {"spec": {**body["spec"], "scope": scope}})

    @rule(seconds=st.sampled_from([1, 29, 61]), silent=st.sampled_from([None, "n1"]))
    def time_passes(self, seconds, silent):
        self.world.now += timedelta(seconds=seconds)
        for node in {"n1", "n2"} - {silent}:
            self.world.renew(node)

    @rule(node=NODES)
    def agent_acknowledges(self, node):
        self.world.acknowledge(node)

    @rule(node=NODES)
    def node_and_its_report_go(self, node):
        self.gone("NodeReport", node, "")
        self.gone("Node", node, "")

    @rule(node=NODES)
    def node_comes(self, node):
        self.world.put("Node", "", node, {})
        self.world.renew(node)

    @rule()
    def operator_writes(self):
        self.world.step()

    @invariant()
    def what_is_planned_is_what_a_new_planner_plans(self):
        self.world.plan()


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True)


@pytest.fixture
def counted(monkeypatch):
    """The names that were planned, a list for each group that was."""
    seen = []
    real = planner.plan_group

    def counting(keys, resolved, view):
        seen.append(sorted(name for _, name in keys))
        return real(keys, resolved, view)

    monkeypatch.setattr(planner, "plan_group", counting)
    return seen


def far(world, name, last):
    """A pool with a Service and a pod of its own."""
    world.service(name, addresses=(f"10.96.1.{last}",))
    world.pod(f"{name}-1", address=f"10.1.1.{last}", app=name)
    world.pool(name, addresses={"service": {"name": name}}, servers={"service": {"name": name}})


def planned_after(world, counted, change):
    """The groups planned again because of `change`."""
    world.planner.plan(world.now)
    counted.clear()
    change()
    world.planner.plan(world.now)
    return counted[:]


def test_pods_change_plans_its_own_pool_only(counted):
    world = shop()
    far(world, "tea", 1)
    world.settle()
    assert planned_after(world, counted, lambda: world.pod("tea-1", address="10.1.1.1", app="tea", ready=False)) == [["tea"]]


def test_acknowledgement_plans_the_pools_whose_slices_it_is_of(counted):
    world = shop()
    far(world, "tea", 1)
    world.settle()
    world.pod("tea-2", address="10.1.1.2", app="tea")
    world.step()
    assert planned_after(world, counted, world.acknowledge) == [["tea"]]


def test_nothing_is_planned_again_when_nothing_changed(counted):
    world = shop()
    world.settle()
    assert planned_after(world, counted, lambda: world.later(5)) == []


def test_pools_that_come_to_share_a_server_are_planned_together_and_part_when_it_goes(counted):
    world = shop()
    far(world, "tea", 1)
    world.settle()
    both = planned_after(world, counted, lambda: world.pod("tea-2", address="10.1.1.2", labels={"app": "tea", "also": "web"}))
    assert both == [["tea"]]
    shared = {"selector": {"matchLabels": {"also": "web"}}}
    assert planned_after(world, counted, lambda: world.pool("more", first=30000, last=30009, servers=shared)) == [["more", "tea", "web"]]
    assert sorted(planned_after(world, counted, lambda: world.delete("ServicePortPool", "shop", "more"))) == [["tea"], ["web"]]


def own_port_of_a_service_that_no_pool_names(world):
    world.pool("lone", addresses={"literal": ["10.96.0.77"]}, servers={"selector": {"matchLabels": {"app": "web"}}}, first=30000, last=30009)
    world.settle()
    return lambda: world.service("new", addresses=("10.96.0.77",), ports=(30005,), selector={"app": "none"})


def endpoints_of_a_service_without_selector(world):
    world.service("bare", addresses=("10.96.0.77",), selector={})
    world.pool("lone", addresses={"service": {"name": "bare"}}, servers={"service": {"name": "bare"}}, first=30000, last=30009)
    world.settle()
    named = {"addresses": ["10.1.0.9"], "targetRef": {"kind": "Pod", "namespace": SPACE, "name": "a"}}
    return lambda: world.put("EndpointSlice", SPACE, "bare-1", {
        "metadata": {"labels": {"kubernetes.io/service-name": "bare"}}, "endpoints": [named]})


def orphan(world, name, **spec):
    """A slice whose pool nobody knows."""
    whole = {"pool": {"name": "unknown", "uid": "gone", "generation": 1}, "scope": 7, "virtualAddresses": ["10.96.9.9"], **spec}
    return lambda: world.put("ServicePortSlice", SPACE, name, {"spec": whole})


def unwritten(world):
    """The scope of a pool `tea` without servers, whose status is written and whose slice is not: its plan does not ask for the time."""
    world.service("tea", addresses=("10.96.1.1",))
    world.pool("tea", addresses={"service": {"name": "tea"}}, servers={"service": {"name": "tea"}})
    (status,) = (item.status for item in world.plan().statuses if item.resource.metadata.name == "tea")
    world.put("ServicePortPool", SPACE, "tea", {"status": dump(status.model_copy(update={"scope": None}))})
    return status.scope


def slice_under_the_name_that_a_new_pool_means_to_use(world):
    unwritten(world)
    return orphan(world, "tea-0")


def slice_with_the_scope_that_a_new_pool_means_to_use(world):
    return orphan(world, "any-0", scope=unwritten(world))


def numbers_on_a_pools_address_that_no_pool_has(world):
    record = {"server": "x", "address": "10.1.0.99", "state": "Ready", "since": stamp(world.now),
              "targets": [{"name": "http", "targetPort": 1, "servicePorts": [20050]}]}
    return orphan(world, "any-0", virtualAddresses=["10.96.0.10"], assignments=[record])


@pytest.mark.parametrize("prepare", [
    own_port_of_a_service_that_no_pool_names, endpoints_of_a_service_without_selector, slice_under_the_name_that_a_new_pool_means_to_use,
    slice_with_the_scope_that_a_new_pool_means_to_use, numbers_on_a_pools_address_that_no_pool_has])
def test_what_a_plan_merely_looked_up_makes_it_plan_again(prepare):
    world = shop()
    world.settle()
    change = prepare(world)
    before = world.plan()
    change()
    assert world.plan() != before


def test_what_could_not_be_written_is_told_again(counted):
    world = shop()
    first = world.planner.plan(world.now)
    assert world.planner.plan(world.now) == first
    world.settle()
    assert world.planner.plan(world.now).slices == ()

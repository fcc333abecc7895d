"""What no sequence of events may break: uniqueness, stability, rest. Every version of every slice ever written is checked."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from unit.operator.world import World

NAMES = st.sampled_from([f"p{number}" for number in range(8)])
NODES = st.sampled_from(["n1", "n2"])
ADDRESSES = st.sampled_from([f"10.1.0.{number}" for number in range(1, 6)])
REST_S = 30
RESERVED = {80, 20002}
THEN = st.sampled_from(["nothing", "plan", "plan", "plan twice", "one agent", "settle"])
"""What the operator and the agents do after an event: nothing yet, a plan or two, or all that there is to do."""


@dataclass(frozen=True)
class Holding:
    """Who was last seen to have a number; since when it rests, if it does, and in which version of its slice that was written."""

    who: tuple
    since: datetime | None
    version: int


class Cluster(RuleBasedStateMachine):
    """Two pools on one address and one on another, all of the same pods; pods, agents and the operator come and go."""

    def __init__(self):
        super().__init__()
        self.world = World()
        self.checked = 0
        self.owners = {}

    def follow(self, what):
        if what == "settle":
            self.world.settle()
        elif what != "nothing":
            self.world.step()
        if what == "plan twice":
            self.world.step()
        if what == "one agent":
            self.world.acknowledge("n1")
            self.world.step()

    @initialize()
    def pools(self):
        world = self.world
        world.service(ports=tuple(RESERVED))
        world.service("other", addresses=("10.96.0.20",), selector={"app": "web"})
        common = {"restTime": f"{REST_S}s", "surgePercent": 0}
        world.pool("one", first=20000, last=20006, **common)
        world.pool("two", first=20010, last=20018, **common, targets=[{"name": "http", "targetPort": 8080, "portsPerServer": 2}])
        world.pool("three", first=20000, last=20012, addresses={"service": {"name": "other"}}, **common)
        world.redirect(pool="one")
        for number, name in enumerate(("p0", "p1", "p2"), 1):
            world.pod(name, node="n1" if number % 2 else "n2", address=f"10.1.0.{number}")
        world.settle()

    @rule(name=NAMES, node=NODES, address=ADDRESSES, ready=st.booleans(), then=THEN)
    def pod_comes_or_changes(self, name, node, address, ready, then):
        if ("Pod", "shop", name) in self.world.raw:
            old = self.world.raw["Pod", "shop", name]
            node, address = old["spec"]["nodeName"], old["status"]["podIPs"][0]["ip"]
        elif any(raw["status"]["podIPs"][0]["ip"] == address for (kind, *_), raw in self.world.raw.items() if kind == "Pod"):
            return
        self.world.pod(name, node=node, address=address, ready=ready)
        self.follow(then)

    @rule(name=NAMES, then=THEN)
    def pod_goes(self, name, then):
        if ("Pod", "shop", name) in self.world.raw:
            self.world.delete("Pod", "shop", name)
            self.follow(then)

    @rule(name=NAMES)
    def pod_terminates(self, name):
        if ("Pod", "shop", name) in self.world.raw:
            old = self.world.raw["Pod", "shop", name]
            self.world.pod(name, node=old["spec"]["nodeName"], address=old["status"]["podIPs"][0]["ip"], terminating=True)

    @rule(last=st.sampled_from([20003, 20006, 20008]))
    def pool_changes(self, last):
        spec = self.world.raw["ServicePortPool", "shop", "one"]["spec"]
        self.world.put("ServicePortPool", "shop", "one", {"spec": {**spec, "portRanges": [{"from": 20000, "to": last}]}})

    @rule(port=st.sampled_from([20004, 20009, 20011]), then=THEN)
    def redirect_port_changes(self, port, then):
        self.world.redirect("of-two", pool="two", port=port)
        self.follow(then)

    @rule(seconds=st.sampled_from([1, 10, 29, 31, 45]), silent=st.sampled_from([None, None, "n1", "n2"]), then=THEN)
    def time_passes(self, seconds, silent, then):
        self.world.now += timedelta(seconds=seconds)
        for node in {"n1", "n2"} - {silent}:
            self.world.renew(node)
        self.follow(then)

    @rule(node=NODES)
    def agent_acknowledges(self, node):
        self.world.acknowledge(node)

    @rule()
    def operator_restarts(self):
        world, fresh = self.world, World(nodes=())
        for (kind, namespace, name), raw in sorted(world.raw.items()):
            fresh.raw[kind, namespace, name] = raw
            fresh.snapshot.put(kind, raw, world.now)
        world.see(fresh.snapshot)

    @precondition(lambda self: self.world.slices())
    @rule()
    def planning_again_after_the_writes_wants_nothing(self):
        for _ in range(8):
            if not self.world.step():
                return
        raise AssertionError("the plan does not come to rest")

    @invariant()
    def no_number_has_two_owners(self):
        taken = {}
        for raw in self.world.slices().values():
            spec = raw["spec"]
            for record in spec.get("assignments", ()):
                owner = (spec["pool"]["name"], record["server"], record.get("podUID"), record["address"])
                for port in (port for target in record["targets"] for port in target["servicePorts"]):
                    assert port not in RESERVED or spec["virtualAddresses"] != ["10.96.0.10"]
                    for place in (*spec["virtualAddresses"], f"server {record['address']}"):
                        assert taken.setdefault((place, port), owner) == owner, (place, port, owner)

    @invariant()
    def no_redirect_port_that_a_server_shares_is_a_service_port_of_its_own(self):
        shared, owned = set(), set()
        for raw in self.world.slices().values():
            ports = {redirect["name"]: redirect["ports"] for redirect in raw["spec"].get("redirects", ())}
            for record in raw["spec"].get("assignments", ()):
                shared |= {(record["address"], span["from"]) for name in record.get("redirects", ()) for span in ports.get(name, ())}
                owned |= {(record["address"], port) for target in record["targets"] for port in target["servicePorts"]}
        assert not shared & owned

    @invariant()
    def no_number_changes_its_owner_without_rest_and_acknowledgement(self):
        """Walks the written slices: who had a number was seen Resting, for long enough and by all agents, before another has it."""
        for now, raw in self.world.history[self.checked:]:
            for record in raw["spec"].get("assignments", ()):
                who = (record["server"], record.get("podUID"), record["address"])
                rests = record["state"] == "Resting"
                for port in (port for target in record["targets"] for port in target["servicePorts"]):
                    number = (raw["spec"]["virtualAddresses"][0], port)
                    former = self.owners.get(number)
                    if former is not None and former.who != who:
                        assert former.since is not None, (number, former, who)
                        assert now >= former.since + timedelta(seconds=REST_S), (number, former, who)
                        assert self.all_agents_know(former), (number, former, who)
                    if former is None or former.who != who or rests != (former.since is not None):
                        since = datetime.fromisoformat(record["since"]) if rests else None
                        self.owners[number] = Holding(who, since, int(raw["metadata"]["resourceVersion"]))
        self.checked = len(self.world.history)

    def all_agents_know(self, former):
        """A report has the slice as of the rest's beginning, or later; one that has not is of a slice that is gone."""
        return all(int(self.world.raw["NodeReport", "", node]["status"]["slices"]["version"]) >= former.version for node in ("n1", "n2"))

    @invariant()
    def ready_servers_run_and_are_attached(self):
        for raw in self.world.slices().values():
            for record in raw["spec"].get("assignments", ()):
                assert int(record.get("sinceVersion") or 0) < int(raw["metadata"]["resourceVersion"])
                if record["state"] == "Ready":
                    assert record["node"] in {"n1", "n2"}


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, derandomize=True)

"""The operator and its schemas on a real cluster: a real API server validates, real pods are the servers, real agents acknowledge."""

import json
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from agents import counters
from held import Held
from space import Space, changed, eventually, server_pod, servers

NAMESPACE, OTHER, SYSTEM = "operator-tests", "operator-tests-other", "wharfinger-system"
COUNT = 20
GRACE_S, TOLD_S, LEARNED_S = 60, 10.0, 5.0
"""operator.poolGracePeriodSeconds; within what time after it the last client is told; within what time everybody knows of a Service."""
POOL = {
    "apiVersion": "wharfinger.io/v1alpha1", "kind": "ServicePortPool", "metadata": {"name": "web", "namespace": NAMESPACE},
    "spec": {"virtualAddresses": {"service": {"name": "web"}}, "portRanges": [{"from": 21000, "to": 21015}],
             "servers": {"service": {"name": "web"}}, "targets": [{"name": "http", "targetPort": "http"}], "restTime": "6s"}}
REDIRECT = {
    "apiVersion": "wharfinger.io/v1alpha1", "kind": "RedirectPortPool", "metadata": {"name": "web", "namespace": NAMESPACE},
    "spec": {"servicePortPool": {"name": "web"}, "target": "http", "ports": [{"from": 80, "to": 80}]}}


@pytest.fixture(scope="module")
def space(wharfinger):
    """The namespace with two servers, a pool and a redirect pool, Programmed; gone afterwards."""
    space = Space(wharfinger.cluster, NAMESPACE)
    space.create()
    space.apply(*servers(NAMESPACE), POOL, REDIRECT)
    space.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    eventually(lambda: len(space.ports()) == 2, within_s=60)
    yield space
    space.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true")


REFUSED = {
    "inverted range": (POOL, {"portRanges": [{"from": 9, "to": 8}]}, "must not be greater than"),
    "port 0": (POOL, {"portRanges": [{"from": 0, "to": 8}]}, "greater than or equal to 1"),
    "port 65536": (POOL, {"portRanges": [{"from": 9, "to": 65536}]}, "less than or equal to 65535"),
    "overlapping ranges": (POOL, {"portRanges": [{"from": 1, "to": 8}, {"from": 8, "to": 9}]}, "overlap"),
    "no range": (POOL, {"portRanges": []}, "should have at least 1 items"),
    "no server source": (POOL, {"servers": {}}, "exactly one of service, selector and static"),
    "two server sources": (POOL, {"servers": {"service": {"name": "web"}, "selector": {"matchLabels": {"app": "web"}}}}, "exactly one of"),
    "two address sources": (POOL, {"virtualAddresses": {"service": {"name": "web"}, "literal": ["192.0.2.1"]}}, "exactly one of"),
    "no address": (POOL, {"virtualAddresses": {"literal": ["192.0.2.256"]}}, "unicast IPv4 address"),
    "IPv6 address": (POOL, {"virtualAddresses": {"literal": ["fd00::1"]}}, "IPv6 is not supported yet"),
    "IPv6 server": (POOL, {"servers": {"static": [{"name": "a", "address": "fd00::7"}]}}, "IPv6 is not supported yet"),
    "address not in canonical form": (POOL, {"virtualAddresses": {"literal": ["FD00::1"]}}, "canonical form"),
    "target port 0": (POOL, {"targets": [{"name": "http", "targetPort": 0}]}, "must be a number from 1 to 65535"),
    "target port name": (POOL, {"targets": [{"name": "http", "targetPort": "Http!"}]}, "name of a container port"),
    "named port of a static server": (POOL, {"servers": {"static": [{"name": "a", "address": "192.0.2.7"}]}}, "only pods have named ports"),
    "another target port later": (POOL, {"targets": [{"name": "http", "targetPort": 9090}]}, "would cut live connections"),
    "UDP target": (POOL, {"targets": [{"name": "http", "targetPort": 80, "protocol": "UDP"}]}, "supported values: \"TCP\""),
    "UDP redirect": (REDIRECT, {"protocol": "UDP"}, "supported values: \"TCP\""),
    "17 ports per server": (POOL, {"targets": [{"name": "http", "targetPort": 80, "portsPerServer": 17}]}, "less than or equal to 16"),
    "unknown mode": (POOL, {"forwardingMode": "Magic"}, "supported values: \"Network\""),
    "unknown mode of moves": (POOL, {"moves": {"mode": "Soon"}}, "supported values: \"Never\", \"Close\""),
    "a drain without a mode": (POOL, {"moves": {"onDrain": True}}, "set moves.mode to Close"),
    "rest time": (POOL, {"restTime": "soon"}, "spec.restTime"),
    "two days of rest": (POOL, {"restTime": "48h"}, "at most 24h"),
    "another address later": (POOL, {"virtualAddresses": {"literal": ["192.0.2.1"]}}, "cannot be changed"),
    "unknown policy": (REDIRECT, {"policy": "Astrology"}, "supported values"),
    "unknown protocol": (REDIRECT, {"protocol": "SCTP"}, "supported values"),
    "redirect port 0": (REDIRECT, {"ports": [{"from": 0, "to": 0}]}, "greater than or equal to 1"),
    "inverted redirect range": (REDIRECT, {"ports": [{"from": 81, "to": 80}]}, "must not be greater than"),
    "overlapping redirect ranges": (REDIRECT, {"ports": [{"from": 80, "to": 82}, {"from": 82, "to": 83}]}, "overlap"),
    "redirect port 65536": (REDIRECT, {"ports": [{"from": 80, "to": 65536}]}, "less than or equal to 65535"),
    "another pool later": (REDIRECT, {"servicePortPool": {"name": "other"}}, "cannot be changed"),
    "two subsets": (REDIRECT, {"servers": {"names": ["a"], "matchLabels": {"a": "b"}}}, "exactly one of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_api_server_refuses_a_wrong_manifest_and_says_why(space, case):
    document, spec, words = REFUSED[case]
    # A name of its own for what is not about a change, so that no rule on changes answers first.
    document = changed(document, None if "later" in case else "candidate", **spec)
    with pytest.raises(Exception, match=r"(?i)invalid") as refused:
        space.kubectl("apply", "--dry-run=server", "--filename=-", input=yaml.safe_dump(document))
    assert words.lower() in str(refused.value).lower()
    assert "spec" in str(refused.value), "the message does not say where"


def test_K01_pool_is_programmed_and_the_columns_tell(space):
    eventually(lambda: space.condition("spp", "web", "Programmed")[:2] == ("True", "Programmed"))
    eventually(lambda: space.condition("rpp", "web", "Programmed")[:2] == ("True", "Programmed"))
    address = space.get("service", "web")["spec"]["clusterIP"]
    header, line = space.kubectl("get", "spp").splitlines()
    assert header.split() == ["NAME", "ADDRESS", "USED", "FREE", "READY", "PROGRAMMED", "AGE"]
    assert line.split()[:6] == ["web", address, "2", "14", "2", "True"]


def test_slices_outlive_their_pool_and_carry_the_trace_that_wrote_them(space):
    (piece,) = space.get("serviceportslices")
    assert "ownerReferences" not in piece["metadata"]
    assert piece["spec"]["pool"]["uid"] == space.get("spp", "web")["metadata"]["uid"]
    version, trace, span, _ = piece["metadata"]["annotations"]["wharfinger.io/traceparent"].split("-")
    assert (version, len(trace), len(span)) == ("00", 32, 16)


def test_nothing_of_other_peoples_objects_is_touched(space):
    for kind in ("pods", "services", "endpointslices", "nodes"):
        for found in space.get(kind):
            metadata = found["metadata"]
            assert not [name for name in metadata.get("annotations", {}) if "kopf" in name]
            assert not [name for name in metadata.get("finalizers", ()) if "kopf" in name or "wharfinger" in name]
    for kind in ("spp", "rpp"):
        assert all("finalizers" not in found["metadata"] for found in space.get(kind))


def test_an_assignment_says_from_which_version_of_its_slice_on_it_is_in_its_state(space):
    def versions():
        return {piece["metadata"]["name"]: int(piece["metadata"]["resourceVersion"]) for piece in space.get("serviceportslices")}

    before = versions()
    space.apply(changed(POOL, restTime="7s"))
    eventually(lambda: versions() != before)
    for piece in space.get("serviceportslices"):
        stood = [int(record["sinceVersion"]) for record in piece["spec"]["assignments"]]
        assert stood and max(stood) <= before[piece["metadata"]["name"]]
    space.apply(POOL)


def test_port_of_a_deleted_server_rests_before_another_gets_it(space):
    before = eventually(lambda: ports if len(ports := space.ports()) == 2 else None)
    victim = min(before, key=before.get)
    space.kubectl("delete", "pod", victim.partition("/")[2], "--wait=false")
    eventually(lambda: space.ports("Resting").get(victim) == before[victim])
    eventually(lambda: len(space.ports()) == 2)
    assert before[victim] not in space.ports().values()
    eventually(lambda: victim not in space.ports("Resting"))
    assert space.get("spp", "web")["status"]["ports"]["total"] == 16


def test_restarted_operator_writes_no_slice(space):
    eventually(lambda: not space.ports("Resting"))
    before = [piece["metadata"]["resourceVersion"] for piece in space.get("serviceportslices")]
    lease = json.loads(space.cluster.kubectl("--namespace", SYSTEM, "get", "lease", "wharfinger-operator", "--output=json"))
    space.cluster.kubectl("--namespace", SYSTEM, "delete", "pod", "--selector=app.kubernetes.io/component=operator", "--wait=true")
    space.cluster.kubectl("--namespace", SYSTEM, "rollout", "status", "deployment/wharfinger-operator", "--timeout=60s")

    def taken_over():
        now = json.loads(space.cluster.kubectl("--namespace", SYSTEM, "get", "lease", "wharfinger-operator", "--output=json"))
        return now["spec"]["holderIdentity"] not in ("", lease["spec"]["holderIdentity"])

    eventually(taken_over)
    # It plans now: a change of a status shows that it does.
    space.apply(changed(REDIRECT, name="after-restart", ports=[{"from": 81, "to": 81}], target="nothing"))
    eventually(lambda: space.condition("rpp", "after-restart", "ResolvedRefs")[0] == "False")
    space.kubectl("delete", "rpp", "after-restart")
    assert [piece["metadata"]["resourceVersion"] for piece in space.get("serviceportslices")] == before


def test_second_pool_on_a_port_is_in_conflict_by_condition_and_event(space):
    time.sleep(1.1)  # Ages are whole seconds.
    space.apply(changed(REDIRECT, name="again"))
    eventually(lambda: space.condition("rpp", "again", "Accepted")[:2] == ("False", "Conflicted"))
    eventually(lambda: "Conflicted" in space.reasons("again"))
    assert space.condition("rpp", "web", "Accepted")[0] == "True"
    space.kubectl("delete", "rpp", "again")


def test_outgrown_pool_goes_on_running_and_heals_when_room_returns(space):
    tight, small = [{"from": 21000, "to": 21001}], [{"from": 22000, "to": 22000}]
    space.apply(changed(POOL, portRanges=tight), changed(POOL, name="small", portRanges=small))
    eventually(lambda: space.condition("spp", "small", "Accepted")[:2] == ("False", "InsufficientPorts"))
    eventually(lambda: "InsufficientPorts" in space.reasons("small"))
    before = space.ports()
    space.scale(3)
    eventually(lambda: space.condition("spp", "web", "Accepted")[:2] == ("False", "InsufficientPorts"))
    assert before.items() <= space.ports().items()
    space.apply(POOL)
    space.kubectl("delete", "spp", "small")
    eventually(lambda: len(space.ports()) == 3)
    assert space.condition("spp", "web", "Accepted")[0] == "True"
    space.scale(2)


@pytest.fixture(scope="module")
def client(space):
    """An aware client's pod, and the number of connections that it opens."""
    pod = server_pod(**{"wharfinger.io/inject": "true"})
    pod["spec"]["containers"][0] |= {"name": "client", "args": ["/shop/client.py", "idle"], "ports": [], "readinessProbe": None}
    space.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": NAMESPACE, **pod["metadata"]}, "spec": pod["spec"]})
    space.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=90s")
    return "pod/client"


@contextmanager
def connections(space, client, address):
    """COUNT connections to port 80 of the pool's address, each of them aware: the programs counted that."""
    before = redirected(space)
    with Held(space.cluster, [(address, 80)], COUNT, NAMESPACE, client) as held:
        others = held.opened()["new"]
        assert redirected(space) - before >= COUNT + others
        yield held


def redirected(space):
    return counters(space.cluster)["to_pod", "client_redirected"]


def address_of(space):
    return space.get("service", "web")["spec"]["clusterIP"]


def two(space):
    """The ports of the two servers, once no third is there."""
    return eventually(lambda: ports if len(ports := space.ports()) == 2 and not space.ports("Draining") else None)


def service(namespace, name, address, **spec):
    """A Service at this address."""
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80, "targetPort": "http"}], **spec}}


def test_when_a_pools_service_is_deleted_its_connections_and_new_ones_go_on_and_it_is_said(space, client):
    address, before = address_of(space), two(space)
    with connections(space, client, address) as held:
        space.kubectl("delete", "service", "web")
        eventually(lambda: space.condition("spp", "web", "ResolvedRefs")[:2] == ("False", "ServiceNotFound"))
        eventually(lambda: "ServiceNotFound" in space.reasons("web"))
        held.unbroken()
        assert space.ports() == before
        space.apply(service(NAMESPACE, "web", address, selector={"app": "web"}))
        eventually(lambda: space.condition("spp", "web", "ResolvedRefs")[0] == "True")
        held.unbroken()
        assert space.ports() == before


def test_an_address_that_another_namespaces_service_has_by_now_is_not_the_pools_any_more(space, client):
    """docs/architecture.md, "Whose traffic": never another Service's cluster IP."""
    address = address_of(space)
    other = Space(space.cluster, OTHER)
    other.create()
    _, deployment = servers(OTHER, replicas=1)
    other.apply(deployment)
    other.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    space.kubectl("delete", "service", "web")
    try:
        other.apply(service(OTHER, "theirs", address, selector={"app": "web"}))
        eventually(lambda: any(piece["endpoints"] for piece in other.get("endpointslices")))
        time.sleep(LEARNED_S)
        assert reached(space, address) == {pod["metadata"]["name"] for pod in other.get("pods")}
    finally:
        other.cluster.kubectl("delete", "namespace", OTHER, "--wait=true")
        space.apply(service(NAMESPACE, "web", address, selector={"app": "web"}))
        eventually(lambda: len(space.ports()) == 2 and space.condition("spp", "web", "ResolvedRefs")[0] == "True", within_s=60)


def reached(space, address):
    """The names of the pods that the client reaches."""
    words = ("exec", "client", "-c", "client", "--", "python3", "/shop/client.py", "burst", f"http://{address}/", "10")
    return set(json.loads(space.kubectl(*words, check=False))["servers"])


def test_pool_in_use_is_deleted_at_once_and_its_connections_have_a_grace_beside_a_new_pool(space, client):
    before, address = two(space), address_of(space)
    former = space.get("spp", "web")["metadata"]["uid"]

    def left():
        return [piece for piece in space.get("serviceportslices") if piece["spec"]["pool"]["uid"] == former]

    with connections(space, client, address) as held:
        space.kubectl("delete", "spp", "web", "--timeout=10s")
        eventually(lambda: space.ports("Draining") == before)
        assert left() and all("deletedAt" in piece["spec"]["pool"] for piece in left())
        eventually(lambda: space.condition("rpp", "web", "ResolvedRefs")[:2] == ("False", "PoolNotFound"))
        aware = redirected(space)
        held.unbroken()
        assert redirected(space) - aware <= 1, "new connections are unaware; one may have begun before"
        space.apply(POOL)
        eventually(lambda: len(space.ports()) == 2)
        assert space.ports("Draining") == before
        assert not {port for ports in before.values() for port in ports} & {port for ports in space.ports().values() for port in ports}
        eventually(lambda: redirected(space) > aware + 1)
        held.unbroken()
        # The grace's beginning is in the slice; moved back, it is over. Everything else goes its way.
        began = datetime.now(UTC) - timedelta(seconds=GRACE_S)
        for piece in left():
            space.kubectl("patch", "serviceportslice", piece["metadata"]["name"], "--type=merge",
                          "--patch", json.dumps({"spec": {"pool": {"deletedAt": began.strftime("%Y-%m-%dT%H:%M:%SZ")}}}))
        over = time.time()
        seen = eventually(lambda: not (now := held.look())["held"] and now)
        assert len(seen["ended"]) == COUNT
        assert max(moment for moment, _ in seen["ended"]) - over < TOLD_S
        assert [how for _, how in seen["ended"] if "TimeoutError" in how] == []
        assert seen["failed"] == []
        assert space.ports("Resting") == before

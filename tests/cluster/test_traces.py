"""Traces as a user finds them: in Jaeger, by its query API, from connections between pods and from a change of a pool."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

import pytest

QUERY = "/api/v1/namespaces/observability/services/jaeger:query/proxy/api/traces"
CONNECTIONS = 5
WITHIN_S = 30
T = TypeVar("T")
CLOCKS_NS = 5_000_000  # nodes of one machine share a clock; conversions to it differ by less


@dataclass(frozen=True)
class Span:
    """A span as Jaeger's API has it; times in nanoseconds."""

    trace: str
    id: str
    parent: str | None
    name: str
    service: str
    node: str
    start_ns: int
    end_ns: int
    tags: dict
    logs: list


@pytest.fixture(scope="module")
def traces(wharfinger):
    """Asks Jaeger for traces of a service since a time (seconds): trace id -> spans."""
    def ask(service: str, since_s: float, **tags: str) -> dict[str, list[Span]]:
        query = {"service": service, "start": int(since_s * 1e6), "end": int(time.time() * 1e6), "limit": 1000, "tags": json.dumps(tags)}
        found = json.loads(wharfinger.cluster.kubectl("get", "--raw", f"{QUERY}?{urlencode(query)}"))
        return {trace["traceID"]: [span_of(span, trace["processes"]) for span in trace["spans"]] for trace in found["data"]}
    return ask


@pytest.fixture(scope="module")
def connections(wharfinger, traces):
    """The traces of some connections of the injected client to the Service's own address, whole, and what the client saw."""
    cluster, since_s = wharfinger.cluster, time.time() - 1
    client = pod(cluster, "client")
    url = f"http://{cluster.kubectl('-n', 'shop', 'get', 'service', 'shop', '-o', 'jsonpath={.spec.clusterIP}')}:80/"
    seen = json.loads(cluster.kubectl("-n", "shop", "exec", client["metadata"]["name"], "-c", "client", "--",
                                      "python3", "/shop/client.py", "burst", url, str(CONNECTIONS)))
    assert seen["errors"] == 0
    found = eventually(lambda: whole(traces("wharfinger-agent", since_s, **{"client.address": client["status"]["podIP"]})))
    return client, seen, found


def test_k05_every_connection_is_one_trace_of_client_balancer_and_server(connections):
    _, _, found = connections
    assert len(found) == CONNECTIONS
    for spans in found.values():
        assert sorted(span.name.split()[0] for span in spans) == ["balancer", "client", "server"]


def test_the_spans_are_a_chain_from_client_over_balancer_to_server(connections):
    for spans in connections[2].values():
        client, balancer, server = in_order(spans)
        assert (client.parent, balancer.parent, server.parent) == (None, client.id, balancer.id)


def test_the_spans_come_from_the_agents_of_both_ends(connections):
    client_pod, seen, found = connections
    for spans in found.values():
        client, balancer, server = in_order(spans)
        assert client.node == balancer.node == client_pod["spec"]["nodeName"]
        assert server.node == server.tags["wharfinger.server.node"]
    assert {in_order(spans)[2].node for spans in found.values()} == set(seen["nodes"])


def test_the_spans_name_the_pods_that_the_application_reached(connections):
    client_pod, seen, found = connections
    reached = {}
    for spans in found.values():
        client, _, server = in_order(spans)
        assert client.tags["wharfinger.client"] == f"shop/{client_pod['metadata']['name']}"
        assert client.tags["wharfinger.server"] == server.tags["wharfinger.server"]
        name = server.tags["wharfinger.server"].removeprefix("shop/")
        reached[name] = reached.get(name, 0) + 1
    assert reached == seen["servers"]


def test_the_spans_tell_the_ports_that_the_connection_used(connections):
    for spans in connections[2].values():
        client, balancer, server = in_order(spans)
        assert {span.tags["wharfinger.redirect_port"] for span in (client, balancer, server)} == {80}
        assert client.tags["wharfinger.service_port"] == server.tags["wharfinger.service_port"] >= 20000
        assert server.tags["wharfinger.target_port"] == 8080
        assert balancer.tags["wharfinger.reason"] == "client_syn"
        assert client.tags["wharfinger.ended_by"] == server.tags["wharfinger.ended_by"] == "fin"


def test_times_are_in_the_order_of_the_packets(connections):
    for spans in connections[2].values():
        client, balancer, server = in_order(spans)
        assert client.start_ns <= balancer.start_ns + CLOCKS_NS
        assert balancer.start_ns <= server.start_ns + CLOCKS_NS
        assert server.start_ns <= client.end_ns + CLOCKS_NS
        for span in (client, server):
            assert [log["fields"][0]["value"] for log in span.logs] == ["established"]
            assert span.start_ns <= span.logs[0]["timestamp"] * 1000 <= span.end_ns


def test_a_reconcile_is_one_trace_from_the_operator_to_each_nodes_table_write(wharfinger, traces):
    cluster, since_s = wharfinger.cluster, time.time() - 1
    nodes = {node.name for node in cluster.nodes}
    cluster.kubectl("-n", "shop", "scale", "deployment/shop", "--replicas=5")
    try:
        written = eventually(lambda: [spans for spans in traces("wharfinger-operator", since_s).values()
                                      if {span.node for span in spans if span.name == "table write"} == nodes])
    finally:
        cluster.kubectl("-n", "shop", "scale", "deployment/shop", "--replicas=4")
        cluster.kubectl("-n", "shop", "rollout", "status", "deployment/shop", "--timeout=60s")
    for spans in written:
        operators = {span.id for span in spans if span.service == "wharfinger-operator"}
        assert all(span.parent in operators for span in spans if span.name == "table write")


def whole(found: dict[str, list[Span]]) -> dict[str, list[Span]]:
    """The traces once all are there with all their spans; nothing before."""
    return found if len(found) >= CONNECTIONS and all(len(spans) == 3 for spans in found.values()) else {}


def in_order(spans: list[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: ("client", "balancer", "server").index(span.name.split()[0]))


def span_of(raw: dict, processes: dict) -> Span:
    process = processes[raw["processID"]]
    node = next((tag["value"] for tag in process["tags"] if tag["key"] == "k8s.node.name"), "")
    parent = next((reference["spanID"] for reference in raw["references"] if reference["refType"] == "CHILD_OF"), None)
    return Span(raw["traceID"], raw["spanID"], parent, raw["operationName"], process["serviceName"], node, raw["startTime"] * 1000,
                (raw["startTime"] + raw["duration"] + 1) * 1000, {tag["key"]: tag["value"] for tag in raw["tags"]}, raw["logs"])


def pod(cluster, name: str) -> dict:
    """The running pod of an example's Deployment."""
    return json.loads(cluster.kubectl("-n", "shop", "get", "pods", "-l", f"app.kubernetes.io/name={name}",
                                      "--field-selector=status.phase=Running", "-o", "json"))["items"][0]


def eventually(condition: Callable[[], T]) -> T:
    until = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < until, f"in vain for {WITHIN_S} s"
        time.sleep(0.5)
    return found

"""Traces of real connections between two nodes: each node's programs, ring and telemetry decide alone, and one collector has what they keep."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.lab import Lab, Node, Pod, Role
from support.otlp import Collector, attributes_of, role_of, running_collector
from support.slices import VIRTUAL, pool_slice
from support.traffic import server
from wharfinger_dataplane import _bpf, telemetry
from wharfinger_dataplane._records import TRACES_ALL

KEY = "5a" * 32
ROLES = {"client", "balancer", "server"}
WITHIN_S = 60


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as found:
        yield found


@pytest.fixture
def client(lab: Lab) -> Pod:
    return lab.add_pod(lab.nodes[0], "client", Role.CLIENT)


@pytest.fixture
def servers(lab: Lab) -> Iterator[list[Pod]]:
    """One across the network, one on the client's own node."""
    pods = [lab.add_pod(lab.nodes[1], "a", Role.SERVER), lab.add_pod(lab.nodes[0], "b", Role.SERVER)]
    for node in lab.nodes:
        node.tables.apply([pool_slice({pod.short: pod.address for pod in pods})])
    with server(pods[0]), server(pods[1]):
        yield pods


@pytest.fixture
def tracing(lab: Lab, collector: Collector) -> Iterator[Callable[..., list[telemetry.Telemetry]]]:
    """Starts each node's telemetry as its agent does, and ends it."""
    found: list[telemetry.Telemetry] = []

    def begin(ratio: float, **variables: str) -> list[telemetry.Telemetry]:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "WHARFINGER_TRACE_KEY": KEY, "OTEL_BSP_SCHEDULE_DELAY": "100",
                       "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": str(ratio), **variables}
        for node in lab.nodes:
            found.append(telemetry.start(telemetry.settings_from(environment), node.name, "0"))
            node.trace(found[-1].key, found[-1].sampling.traced)
            found[-1].follow(ring_of(node))
        return found

    yield begin
    for each in found:
        each.close(0.1)


def ring_of(node: Node) -> _bpf.Ring:
    return _bpf.Ring(node.bpf.maps["events"])


def lost(node: Node) -> int:
    """Events that found the node's ring full."""
    return sum(int.from_bytes(cell, "little") for cell in node.bpf.maps["events_lost"].get_per_cpu(bytes(4)))


def connect(pod: Pod, count: int) -> set[int]:
    """Connections of one question each, one after the other: their client ports."""
    ports: set[int] = set()

    def work() -> None:
        for _ in range(count):
            with socket.create_connection((VIRTUAL, 80), timeout=10) as connection:
                ports.add(connection.getsockname()[1])
                connection.sendall(b"hello\n")
                assert connection.recv(4096)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
    pod.run(work)
    return ports


def connect_at_once(pod: Pod, count: int, threads: int) -> None:
    """As many connections, from as many threads."""
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(connect, pod, count // threads) for _ in range(threads)]:
            done.result()


def total(found: list[telemetry.Telemetry], name: str) -> int:
    return sum(count for each in found for (counter, _), count in each.counters().items() if counter == name)


def read_all(found: list[telemetry.Telemetry], events: int) -> None:
    """Waits until `events` records were read: three a connection when all are traced."""
    until = time.monotonic() + WITHIN_S
    while total(found, "records") < events:
        assert time.monotonic() < until, f"{total(found, 'records')} of {events} records came within {WITHIN_S} s"
        time.sleep(0.05)


def all_spans(client: Pod, servers: list[Pod], collector: Collector) -> list[Span]:
    """What the collector gets of all connections so far, known by a whole trace of a later one to each server: rings and queues keep the order."""
    later, until = set(), time.monotonic() + WITHIN_S
    while True:
        spans, told = [(span, attributes_of(span)) for span in collector.spans()], {}
        for span, of in spans:
            if of["client.port"] in later:
                told.setdefault((of["client.port"], of["wharfinger.server.address"]), set()).add(role_of(span))
        if {server for (_, server), roles in told.items() if roles == ROLES} == {pod.address for pod in servers}:
            return [span for span, of in spans if of["client.port"] not in later]
        assert time.monotonic() < until, f"of {len(later)} connections after the others only {told} came within {WITHIN_S} s"
        later |= connect(client, 2)
        time.sleep(0.05)


@pytest.mark.parametrize(("ratio", "connections", "threads"), [(0.1, 1200, 8), (0.5, 300, 1), (1.0, 60, 1)])
def test_client_balancer_and_server_keep_the_same_traces_and_about_the_ratio(lab, client, servers, tracing, collector, ratio, connections, threads):
    found = tracing(ratio)
    connect_at_once(client, connections, threads)
    spans = all_spans(client, servers, collector)
    for each in found:
        each.close(30)
    roles: dict[bytes, Counter] = {}
    for span in spans:
        roles.setdefault(span.trace_id, Counter())[role_of(span)] += 1
    assert all(of == Counter(ROLES) for of in roles.values())
    assert abs(len(roles) - ratio * connections) <= 5 * (connections * ratio * (1 - ratio)) ** 0.5
    assert all(int.from_bytes(trace) % TRACES_ALL >= TRACES_ALL - found[0].sampling.traced for trace in roles)
    assert {span.parent_span_id == b"" for span in spans if role_of(span) != "client"} == {False}
    assert {attributes_of(span)["network.peer.address"] for span in spans if role_of(span) == "client"} == {pod.address for pod in servers}
    assert total(found, "records") == total(found, "spans_exported") == len(collector.spans())
    assert [lost(node) for node in lab.nodes] == [0, 0]


def test_a_collector_that_hangs_costs_connections_nothing_and_each_event_is_counted(lab, client, servers, tracing, collector):
    collector.hold()
    found = tracing(1.0, OTEL_BSP_MAX_QUEUE_SIZE="32", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8")
    connect(client, 100)
    read_all(found, 300)
    assert collector.spans() == []  # all connections were served, and all events read, while it held
    for each in found:
        each.close(0.1)
    fates = {reason: count for each in found for (name, reason), count in each.counters().items() if name == "spans_dropped" and count}
    assert set(fates) == {"queue_full", "ended"}
    assert total(found, "spans_exported") + total(found, "spans_dropped") == 300
    assert [lost(node) for node in lab.nodes] == [0, 0]


def test_events_that_find_the_ring_full_are_lost_and_counted(pins: Path):
    lab = Lab(pins)
    try:
        near, far = (lab.add_node(capacity={"events": 4096}) for _ in range(2))
        client, backend = lab.add_pod(near, "client", Role.CLIENT), lab.add_pod(far, "a", Role.SERVER)
        for node in lab.nodes:
            node.tables.apply([pool_slice({"a": backend.address})])
        with server(backend):
            connect(client, 60)
        until, told = time.monotonic() + WITHIN_S, [0, 0]
        while [told[0] + lost(near), told[1] + lost(far)] != [120, 60]:
            assert time.monotonic() < until, f"{told} events were told, {lost(near)} and {lost(far)} lost"
            told = [before + len(ring_of(node).drain()) for before, node in zip(told, (near, far), strict=True)]
            time.sleep(0.1)
        assert lost(near) > 0
        assert lost(far) > 0
    finally:
        lab.close()

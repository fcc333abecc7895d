"""Records, made by packets through the engine, to spans."""

import pytest
from opentelemetry.trace import SpanKind
from unit.telemetry.packets import CLIENT, KEY, MILLISECOND, SCOPE, SERVER, TARGET, VIRTUAL, Connection, X, Y
from wharfinger_dataplane._engine import REASONS
from wharfinger_dataplane.telemetry import Names
from wharfinger_dataplane.telemetry._identity import trace_id_of_record
from wharfinger_dataplane.telemetry._spans import connection_span, endpoint

OFFSET_NS = 1_700_000_000_000_000_000


@pytest.fixture
def spans(connection, names, emitter):
    trace = trace_id_of_record(KEY, connection.records[0])
    return {key: connection_span(event, trace, OFFSET_NS, names, emitter) for key, event in connection.events().items()}


def test_the_roles_are_client_internal_and_server(spans):
    assert [(span.name, span.kind) for span in (spans["CLIENT", "CLOSED"], spans["BALANCER", "BALANCED"], spans["SERVER", "CLOSED"])] == [
        ("client 10.96.0.10:80", SpanKind.CLIENT), ("balancer 10.96.0.10:80", SpanKind.INTERNAL), ("server 10.96.0.10:80", SpanKind.SERVER)]


def test_the_three_spans_are_one_chain_in_one_trace(spans):
    client, balancer, server = spans["CLIENT", "CLOSED"], spans["BALANCER", "BALANCED"], spans["SERVER", "CLOSED"]
    assert client.parent is None
    assert balancer.parent.span_id == client.context.span_id
    assert server.parent.span_id == balancer.context.span_id
    assert len({span.context.trace_id for span in (client, balancer, server)}) == 1
    assert all(span.context.trace_flags.sampled for span in (client, balancer, server))


def test_times_are_the_kernels(connection, spans):
    event, span = connection.events()["CLIENT", "CLOSED"], spans["CLIENT", "CLOSED"]
    assert span.start_time == event.started_ns + OFFSET_NS == 5_001 * MILLISECOND + OFFSET_NS
    assert span.end_time == event.time_ns + OFFSET_NS
    assert [(mark.name, mark.timestamp) for mark in span.events] == [("established", event.established_ns + OFFSET_NS)]
    assert span.start_time < span.events[0].timestamp < span.end_time


def test_the_balancers_span_is_as_long_as_its_decision(spans):
    span = spans["BALANCER", "BALANCED"]
    assert span.start_time == span.end_time
    assert span.events == ()
    assert "wharfinger.ended_by" not in span.attributes


def test_the_clients_attributes_say_what_it_dialled_and_whom_it_reached(connection, spans):
    reason = REASONS[connection.events()["CLIENT", "CLOSED"].reason]
    assert dict(spans["CLIENT", "CLOSED"].attributes) == {
        "network.transport": "tcp", "network.type": "ipv4", "client.address": CLIENT, "client.port": 40000,
        "server.address": VIRTUAL, "server.port": X, "network.peer.address": SERVER, "network.peer.port": Y,
        "wharfinger.role": "client", "wharfinger.reason": reason.name, "wharfinger.reason.words": reason.words,
        "wharfinger.scope": SCOPE, "wharfinger.pool": "demo/shop", "wharfinger.virtual_address": VIRTUAL, "wharfinger.redirect_port": X,
        "wharfinger.service_port": Y, "wharfinger.client": "demo/client-0", "wharfinger.client.node": "node-1",
        "wharfinger.server": "demo/shop-0", "wharfinger.server.address": SERVER, "wharfinger.server.node": "node-2",
        "wharfinger.ended_by": "fin",
    }


def test_the_servers_attributes_say_where_it_listens_and_by_which_port_it_is_reached(spans):
    attributes = spans["SERVER", "CLOSED"].attributes
    assert (attributes["server.address"], attributes["server.port"]) == (SERVER, TARGET)
    assert (attributes["network.local.address"], attributes["network.local.port"]) == (SERVER, Y)
    assert (attributes["network.peer.address"], attributes["network.peer.port"]) == (CLIENT, 40000)
    assert attributes["wharfinger.redirect_port"] == X


def test_the_balancers_reason_is_its_choice(spans):
    assert spans["BALANCER", "BALANCED"].attributes["wharfinger.reason"] == "client_syn"


def test_a_reset_connection_says_so(names, emitter):
    connection = Connection().open()
    connection.from_server("RA", 1)
    events = connection.events()
    for role in ("CLIENT", "SERVER"):
        span = connection_span(events[role, "CLOSED"], 1, OFFSET_NS, names, emitter)
        assert span.attributes["wharfinger.ended_by"] == "reset"


def test_a_connection_to_a_service_port_joins_in_one_trace_too(names, emitter):
    connection = Connection(port=Y).open().close()
    (trace,) = {trace_id_of_record(KEY, record) for record in connection.records}
    spans = {key: connection_span(event, trace, OFFSET_NS, names, emitter) for key, event in connection.events().items()}
    assert spans["BALANCER", "BALANCED"].attributes["wharfinger.reason"] == "client_syn_service"
    assert spans["SERVER", "CLOSED"].parent.span_id == spans["BALANCER", "BALANCED"].context.span_id
    assert spans["BALANCER", "BALANCED"].parent.span_id == spans["CLIENT", "CLOSED"].context.span_id


def test_what_has_no_name_is_left_out(connection, emitter):
    span = connection_span(connection.events()["SERVER", "CLOSED"], 1, OFFSET_NS, Names(), emitter)
    assert span.name == "server :80"
    assert not {"wharfinger.pool", "wharfinger.server", "wharfinger.client", "wharfinger.virtual_address"} & span.attributes.keys()


def test_an_address_that_is_gone_keeps_its_name_until_another_pod_has_it(names):
    names.update([], [])
    assert names.pod(CLIENT).name == "demo/client-0"
    names.update([], [type(names.pod(CLIENT))(CLIENT, "demo/other-0", "node-1")])
    assert names.pod(CLIENT).name == "demo/other-0"


def test_an_ipv6_end_point_has_brackets():
    assert endpoint("fd00::1", 80) == "[fd00::1]:80"

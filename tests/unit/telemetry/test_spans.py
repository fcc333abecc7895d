"""Records, made by packets through the engine, to spans: as a collector reads them."""

import ipaddress
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.otlp import attributes_of, spans_of
from unit.telemetry.conftest import Collected
from unit.telemetry.packets import CLIENT, KEY, MILLISECOND, SCOPE, SERVER, TARGET, VIRTUAL, Connection, X, Y, make_slice
from wharfinger_dataplane._engine import REASONS
from wharfinger_dataplane._records import TRACES_ALL, pack_address
from wharfinger_dataplane.telemetry import Names, PodName
from wharfinger_dataplane.telemetry._sieve import Sieve
from wharfinger_dataplane.telemetry._spans import SpanWriter

OFFSET_NS = 1_700_000_000_000_000_000
SAMPLED, HAS_IS_REMOTE, IS_REMOTE = 0x1, 0x100, 0x200


@pytest.fixture
def spans(connection, spans_from):
    return spans_from(connection.records, offset_ns=lambda: OFFSET_NS)


def test_the_roles_are_client_internal_and_server(spans):
    assert [(spans[role].name, spans[role].kind) for role in ("client", "balancer", "server")] == [
        ("client 10.96.0.10:80", Span.SPAN_KIND_CLIENT), ("balancer 10.96.0.10:80", Span.SPAN_KIND_INTERNAL),
        ("server 10.96.0.10:80", Span.SPAN_KIND_SERVER)]


def test_the_three_spans_are_one_chain_in_one_trace(spans):
    client, balancer, server = spans["client"], spans["balancer"], spans["server"]
    assert client.parent_span_id == b""
    assert balancer.parent_span_id == client.span_id
    assert server.parent_span_id == balancer.span_id
    assert len({span.trace_id for span in (client, balancer, server)}) == 1


def test_flags_say_sampled_and_whose_parent_is_elsewhere(spans):
    assert spans["client"].flags == SAMPLED | HAS_IS_REMOTE
    assert {spans[role].flags for role in ("balancer", "server")} == {SAMPLED | HAS_IS_REMOTE | IS_REMOTE}


def test_times_are_the_kernels(connection, spans):
    event, span = connection.events()["CLIENT", "CLOSED"], spans["client"]
    assert span.start_time_unix_nano == event.started_ns + OFFSET_NS == 5_001 * MILLISECOND + OFFSET_NS
    assert span.end_time_unix_nano == event.time_ns + OFFSET_NS
    assert [(mark.name, mark.time_unix_nano) for mark in span.events] == [("established", event.established_ns + OFFSET_NS)]
    assert span.start_time_unix_nano < span.events[0].time_unix_nano < span.end_time_unix_nano


def test_the_balancers_span_is_as_long_as_its_decision(spans):
    span = spans["balancer"]
    assert span.start_time_unix_nano == span.end_time_unix_nano
    assert len(span.events) == 0
    assert "wharfinger.ended_by" not in attributes_of(span)


def test_the_clients_attributes_say_what_it_dialled_and_whom_it_reached(connection, spans):
    reason = REASONS[connection.events()["CLIENT", "CLOSED"].reason]
    assert attributes_of(spans["client"]) == {
        "network.transport": "tcp", "network.type": "ipv4", "client.address": CLIENT, "client.port": 40000,
        "server.address": VIRTUAL, "server.port": X, "network.peer.address": SERVER, "network.peer.port": Y,
        "wharfinger.role": "client", "wharfinger.reason": reason.name, "wharfinger.reason.words": reason.words,
        "wharfinger.scope": SCOPE, "wharfinger.pool": "demo/shop", "wharfinger.virtual_address": VIRTUAL, "wharfinger.redirect_port": X,
        "wharfinger.service_port": Y, "wharfinger.client": "demo/client-0", "wharfinger.client.node": "node-1",
        "wharfinger.server": "demo/shop-0", "wharfinger.server.address": SERVER, "wharfinger.server.node": "node-2",
        "wharfinger.ended_by": "fin",
    }


def test_the_servers_attributes_say_where_it_listens_and_by_which_port_it_is_reached(spans):
    attributes = attributes_of(spans["server"])
    assert (attributes["server.address"], attributes["server.port"]) == (SERVER, TARGET)
    assert (attributes["network.local.address"], attributes["network.local.port"]) == (SERVER, Y)
    assert (attributes["network.peer.address"], attributes["network.peer.port"]) == (CLIENT, 40000)
    assert attributes["wharfinger.redirect_port"] == X


def test_the_balancers_reason_is_its_choice(spans):
    assert attributes_of(spans["balancer"])["wharfinger.reason"] == "client_syn"


def test_a_reset_connection_says_so(spans_from):
    connection = Connection().open()
    connection.client_expects(1)
    connection.from_server("RA", 1)
    spans = spans_from(connection.records)
    assert {attributes_of(spans[role])["wharfinger.ended_by"] for role in ("client", "server")} == {"reset"}


@pytest.mark.parametrize("expected", [None, 2])
def test_a_reset_that_the_clients_stack_did_not_take_ends_no_span_of_the_clients(spans_from, expected):
    connection = Connection().open()
    if expected:
        connection.client_expects(expected)
    connection.from_server("RA", 1)
    assert set(spans_from(connection.records)) == {"balancer", "server"}


def test_a_connection_to_a_service_port_joins_in_one_trace_too(spans_from):
    spans = spans_from(Connection(port=Y).open().close().records)
    assert attributes_of(spans["balancer"])["wharfinger.reason"] == "client_syn_service"
    assert len({span.trace_id for span in spans.values()}) == 1
    assert spans["server"].parent_span_id == spans["balancer"].span_id
    assert spans["balancer"].parent_span_id == spans["client"].span_id


def test_what_has_no_name_is_left_out(connection, spans_from):
    span = spans_from(connection.records, names=Names())["server"]
    assert span.name == "server :80"
    assert not {"wharfinger.pool", "wharfinger.server", "wharfinger.client", "wharfinger.virtual_address"} & attributes_of(span).keys()


def test_an_address_that_is_gone_keeps_its_name_until_another_pod_has_it(names):
    names.update([], [])
    assert names.pod(CLIENT).name == "demo/client-0"
    names.update([], [PodName(CLIENT, "demo/other-0", "node-1")])
    assert names.pod(CLIENT).name == "demo/other-0"


def test_a_span_has_the_names_of_when_its_record_was_read(connection, consumer, collected, names):
    consume = consumer(collected).consume
    consume(connection.records)
    names.update([make_slice()], [PodName(CLIENT, "demo/other-0", "node-1")])
    consume(connection.records)
    names_seen = [attributes_of(span)["wharfinger.client"] for span in collected.spans]
    assert names_seen == ["demo/client-0"] * 3 + ["demo/other-0"] * 3


def test_an_ipv6_end_point_has_brackets(connection, spans_from):
    virtual = ipaddress.IPv6Address("fd00::1").packed
    client = next(record for record in connection.records if record[93] == 1)
    span = spans_from([client[:40] + virtual + client[56:]])["client"]
    assert span.name == "client [fd00::1]:80"
    assert attributes_of(span)["wharfinger.virtual_address"] == "fd00::1"


def test_what_finds_no_room_in_a_span_is_left_out_and_counted(connection):
    names, sieve = Names(), Sieve(KEY, TRACES_ALL)
    names.update([make_slice()], [PodName(CLIENT, "n" * 9000, "node-1")])
    writer = SpanWriter(sieve, names, [(reason.name, reason.words) for reason in REASONS])
    sieve.fill(connection.records)
    for span in spans_of(writer.take(0)):
        assert span.dropped_attributes_count == 1
        assert "wharfinger.client" not in attributes_of(span)
        assert attributes_of(span)["wharfinger.client.node"] == "node-1"


addresses = st.one_of(st.just(bytes(16)), st.ip_addresses(v=4).map(lambda address: pack_address(str(address))),
                      st.binary(min_size=16, max_size=16))
times = st.integers(0, 2**62)
words = st.integers(0, 2**32 - 1)
ports = st.integers(0, 2**16 - 1)


def text_of(packed):
    """An address as people write it; nothing when it is none."""
    address = ipaddress.IPv6Address(packed)
    return "" if packed == bytes(16) else str(address.ipv4_mapped or address)


def model(record):
    """The span of a record whose addresses nobody knows, by OpenTelemetry's own classes."""
    now, started, established, client, virtual, server, scope, _isn, _ = struct.unpack("<QQQ16s16s16sIII", record[:84])
    client_port, x, y, target, kind, role, reason, ends, _, aware = struct.unpack(">HHHHBBBBBB", record[84:98])
    client, virtual, server = map(text_of, (client, virtual, server))
    name = ("", "client", "balancer", "server")[role]
    near = {"server.address": server, "server.port": target, "network.local.address": server, "network.local.port": y,
            "network.peer.address": client}
    far = {"server.address": virtual, "server.port": x, "network.peer.address": server, "network.peer.port": y or x}
    attributes = {
        "client.port": client_port, **({"network.peer.port": client_port} if role == 3 else {}),
        "network.transport": "tcp", "network.type": "ipv6" if ":" in client else "ipv4", "client.address": client,
        **(near if role == 3 else far), "wharfinger.role": name, "wharfinger.reason": REASONS[reason].name,
        "wharfinger.reason.words": REASONS[reason].words, "wharfinger.scope": scope, "wharfinger.virtual_address": virtual,
        "wharfinger.redirect_port": x, "wharfinger.service_port": y, "wharfinger.target_port": target, "wharfinger.server.address": server,
        "wharfinger.ended_by": ("reset" if ends & 4 else "fin") if kind == 2 else "",
    }
    span = Span(name=f"{name} [{virtual}]:{x}" if ":" in virtual else f"{name} {virtual}:{x}",
                kind=(0, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_SERVER)[role],
                start_time_unix_nano=(started or now) + OFFSET_NS, end_time_unix_nano=now + OFFSET_NS,
                flags=SAMPLED | HAS_IS_REMOTE | (IS_REMOTE if role == 2 or (role == 3 and aware) else 0))
    for key, value in attributes.items():
        if value:
            span.attributes.add(key=key, value={"string_value" if isinstance(value, str) else "int_value": value})
    if established:
        span.events.add(time_unix_nano=established + OFFSET_NS, name="established")
    return span


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(times, times, times, addresses, addresses, addresses, words, st.integers(1, 2**32 - 1), words),
       st.tuples(ports, ports, ports, ports, st.integers(1, 2), st.integers(1, 3), st.integers(0, len(REASONS) - 1), st.integers(0, 7),
                 st.just(6), st.integers(0, 1)))
def test_whatever_a_record_says_its_span_is_what_opentelemetrys_classes_would_have_written(consumer, first, second):
    record = struct.pack("<QQQ16s16s16sIII", *first) + struct.pack(">HHHHBBBBBB6x", *second)
    queue = Collected()
    consumer(queue, names=Names(), offset_ns=lambda: OFFSET_NS).consume([record])
    (span,) = queue.spans
    written = span.SerializeToString()
    expected = model(record)
    for field in ("trace_id", "span_id", "parent_span_id"):
        assert len(getattr(span, field)) in ((16,) if field == "trace_id" else (0, 8))
        setattr(expected, field, getattr(span, field))
    assert queue.fields[0].endswith(written)
    assert written == expected.SerializeToString()

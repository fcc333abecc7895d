"""docs/protocol.md, "Trace identity", against a model of it."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.otlp import role_of
from unit.telemetry.conftest import Collected
from unit.telemetry.packets import CLIENT, KEY, SCOPE, SERVER, Connection, X, Y
from unit.telemetry.siphash import PUBLISHED, siphash
from wharfinger_dataplane._records import TRACES_ALL, EventRole, pack_address, unpack_event
from wharfinger_dataplane.telemetry import Sampling
from wharfinger_dataplane.telemetry._identity import SECRET_BYTES, is_told, key_of, span_id, trace_of_connection, trace_of_record

TCP = 6
ports = st.integers(1, 65535)
words = st.integers(0, 2**32 - 1)
addresses = st.ip_addresses(v=4).map(lambda address: pack_address(str(address)))
packed = st.binary(min_size=16, max_size=16)
keys = packed
RECORD_BYTES = 104


def model_of_trace_id(key, protocol, client, client_port, scope, redirect_port, isn):
    return int.from_bytes(siphash(key, struct.pack("<16sIIHHB", client, scope, isn, client_port, redirect_port, protocol)), "little")


def model_of_span_id(trace, role, server, port):
    return int.from_bytes(siphash(trace.to_bytes(16, "little"), struct.pack("<16sHB", server, port, role))[:8], "little")


def test_the_model_is_siphash():
    assert {size: siphash(bytes(range(16)), bytes(range(size))).hex() for size in PUBLISHED} == PUBLISHED


@given(st.tuples(keys, st.integers(0, 255), packed, ports, words, ports, words))
def test_trace_ids_are_those_of_the_documented_hash(connection):
    assert trace_of_connection(*connection) == model_of_trace_id(*connection)


@given(st.tuples(st.integers(0, 2**128 - 1), st.integers(1, 3), packed, ports))
def test_span_ids_are_those_of_the_documented_hash(span):
    assert span_id(*span) == model_of_span_id(*span)


@pytest.mark.parametrize("size", [SECRET_BYTES.start, 32, SECRET_BYTES.stop - 1])
def test_the_key_is_hashed_from_a_secret_of_any_length_that_blake2b_takes(size):
    keys = {key_of(bytes(range(size))), key_of(bytes(range(1, size + 1)))}
    assert [len(key) for key in keys] == [16, 16]


def test_ids_are_what_they_were():
    key = key_of(bytes(range(32)))
    trace = trace_of_connection(key, TCP, pack_address(CLIENT), 40000, SCOPE, X, 1_000_000)
    assert (key.hex(), f"{trace:032x}", f"{span_id(trace, EventRole.SERVER, pack_address(SERVER), Y):016x}") == (
        "a7c038401118158394f98822a416cb7b", "9ea29985d3fb206e87c3aeae8695eeb4", "a55ba11bd319b677")


def test_what_has_not_the_length_that_is_hashed_is_refused():
    with pytest.raises(ValueError, match="17 bytes"):
        trace_of_connection(bytes(17), TCP, bytes(16), 1, 2, 3, 4)
    with pytest.raises(ValueError, match="4 bytes"):
        trace_of_connection(KEY, TCP, bytes(4), 1, 2, 3, 4)
    with pytest.raises(ValueError, match="17 bytes"):
        span_id(1, 1, bytes(17), 1)


def test_client_balancer_and_server_name_the_same_trace_from_what_each_sees(connection):
    expected = trace_of_connection(KEY, TCP, pack_address(CLIENT), connection.client_port, SCOPE, X, connection.isn)
    assert len(connection.records) == 3
    assert {trace_of_record(KEY, record) for record in connection.records} == {expected}


def ids(span):
    return tuple(int.from_bytes(each, "big") for each in (span.trace_id, span.span_id, span.parent_span_id))


def test_each_side_computes_the_ids_that_its_neighbour_gave_itself(connection, spans_from):
    spans = spans_from(connection.records)
    client, balancer, server = (ids(spans[role])[1:] for role in ("client", "balancer", "server"))
    assert (client[1], balancer[1], server[1]) == (0, client[0], balancer[0])
    assert len({client[0], balancer[0], server[0]}) == 3


def test_span_ids_are_those_of_the_documented_encoding(connection, spans_from):
    trace, server = trace_of_record(KEY, connection.records[0]), pack_address(SERVER)
    assert ids(spans_from(connection.records)["server"]) == (
        trace, span_id(trace, EventRole.SERVER, server, Y), span_id(trace, EventRole.BALANCER, server, X))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(addresses, ports, words, ports, words)
def test_whatever_a_connection_is_all_sides_agree(consumer, client, client_port, scope, redirect_port, isn):
    records = [struct.pack("<QQQ16s16s16sIII", 3, 1, 2, client, bytes(16), pack_address(SERVER), scope, isn, n)
               + struct.pack(">HHHHBBBBBB6x", client_port, redirect_port, Y if n else 0, 0, 2, n + 1, 0, 3, TCP, 1) for n in range(3)]
    queue = Collected()
    consumer(queue).consume(records)
    found = {role_of(span): ids(span) for span in queue.spans}
    assert {trace for trace, _, _ in found.values()} == {trace_of_connection(KEY, TCP, client, client_port, scope, redirect_port, isn)}
    assert (found["client"][2], found["balancer"][2], found["server"][2]) == (0, found["client"][1], found["balancer"][1])


@given(st.binary(min_size=RECORD_BYTES - 12, max_size=RECORD_BYTES - 12), st.sampled_from([1, 2]), st.sampled_from([1, 2, 3]))
def test_what_identity_reads_of_a_record_is_what_the_engine_reads(body, kind, role):
    record = body + bytes([kind, role, 0, 0, TCP]) + bytes(7)
    event = unpack_event(record)
    client = ip_address(event.client) if event.client else None
    packed = bytes(16) if client is None else pack_address(str(client))
    assert trace_of_record(KEY, record) == trace_of_connection(KEY, TCP, packed, event.client_port, event.scope, event.redirect_port, event.isn)


def test_a_record_of_another_size_is_refused_as_the_engine_refuses_it():
    for size in (RECORD_BYTES - 1, RECORD_BYTES + 1):
        with pytest.raises(ValueError, match="104"):
            trace_of_record(KEY, bytes(size))
        with pytest.raises(ValueError, match="104"):
            unpack_event(bytes(size))


def test_another_key_gives_another_trace(connection):
    record = connection.records[0]
    assert trace_of_record(KEY, record) != trace_of_record(bytes(16), record)


def test_a_connection_that_follows_on_the_same_ports_is_another_trace():
    first, second = Connection(isn=1), Connection(isn=2)
    first.open()
    second.open()
    assert trace_of_record(KEY, first.records[0]) != trace_of_record(KEY, second.records[0])


shares = st.floats(0, 1).map(lambda ratio: Sampling.of_ratio(ratio).traced)


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES), shares)
def test_sampling_looks_at_the_low_56_bits_alone_as_opentelemetry_does(record, kept):
    assert is_told(KEY, record, kept) == (trace_of_record(KEY, record) % TRACES_ALL >= TRACES_ALL - kept)


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES), shares, shares)
def test_a_trace_kept_at_one_ratio_is_kept_at_any_greater(record, one, other):
    low, high = sorted((one, other))
    assert not is_told(KEY, record, low) or is_told(KEY, record, high)
    assert is_told(KEY, record, TRACES_ALL)
    assert not is_told(KEY, record, 0)


def test_sides_that_decide_alone_keep_or_leave_each_trace_whole():
    half, kept = Sampling.of_ratio(0.5).traced, 0
    for port in range(40000, 40040):
        decided = {is_told(KEY, record, half) for record in Connection(client_port=port).open().close().records}
        assert len(decided) == 1
        kept += decided == {True}
    assert 5 < kept < 35


def test_a_tenth_of_connections_is_about_a_tenth_of_traces():
    tenth = Sampling.of_ratio(0.1).traced
    kept = sum(trace_of_connection(KEY, TCP, pack_address(CLIENT), port, SCOPE, X, 1) % TRACES_ALL >= TRACES_ALL - tenth for port in range(1, 20001))
    assert 1800 < kept < 2200


def test_low_bits_of_trace_ids_are_uniform():
    ids = [trace_of_connection(KEY, TCP, pack_address(CLIENT), port, SCOPE, X, 1) for port in range(1, 8001)]
    for bit in range(56):
        assert 3700 < sum(trace >> bit & 1 for trace in ids) < 4300

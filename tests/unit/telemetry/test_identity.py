"""docs/protocol.md, "Trace identity"."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.telemetry.packets import CLIENT, KEY, SCOPE, SERVER, Connection, X, Y
from wharfinger_dataplane._records import EventRole, pack_address, unpack_event
from wharfinger_dataplane.telemetry import Sampling, span_id, trace_id
from wharfinger_dataplane.telemetry._identity import RECORD_BYTES, trace_id_of_record
from wharfinger_dataplane.telemetry._spans import span_ids

TCP = 6
ports = st.integers(1, 65535)
words = st.integers(0, 2**32 - 1)
addresses = st.ip_addresses(v=4).map(lambda address: pack_address(str(address)))


def test_client_balancer_and_server_name_the_same_trace_from_what_each_sees(connection):
    expected = trace_id(KEY, TCP, pack_address(CLIENT), connection.client_port, SCOPE, X, connection.isn)
    assert len(connection.records) == 3
    assert {trace_id_of_record(KEY, record) for record in connection.records} == {expected}


def test_each_side_computes_the_ids_that_its_neighbour_gave_itself(connection):
    trace = trace_id_of_record(KEY, connection.records[0])
    events = connection.events()
    client, root = span_ids(events["CLIENT", "CLOSED"], trace)
    balancer, balancers_parent = span_ids(events["BALANCER", "BALANCED"], trace)
    server, servers_parent = span_ids(events["SERVER", "CLOSED"], trace)
    assert (root, balancers_parent, servers_parent) == (0, client, balancer)
    assert len({client, balancer, server}) == 3


def test_span_ids_are_those_of_the_documented_encoding(connection):
    trace, server = trace_id_of_record(KEY, connection.records[0]), pack_address(SERVER)
    assert span_ids(connection.events()["SERVER", "CLOSED"], trace) == (
        span_id(trace, EventRole.SERVER, server, Y), span_id(trace, EventRole.BALANCER, server, X))


@given(addresses, ports, words, ports, words)
def test_whatever_a_connection_is_all_sides_agree(client, client_port, scope, redirect_port, isn):
    records = [struct.pack("<QQQ16s16s16sIII", 3, 1, 2, client, bytes(16), pack_address(SERVER), scope, isn, n)
               + struct.pack(">HHHHBBBBBB6x", client_port, redirect_port, Y if n else 0, 0, 2, n + 1, 0, 3, TCP, 1) for n in range(3)]
    traces = {trace_id_of_record(KEY, record) for record in records}
    assert traces == {trace_id(KEY, TCP, client, client_port, scope, redirect_port, isn)}
    (trace,) = traces
    client_ids, balancer_ids, server_ids = (span_ids(unpack_event(record), trace) for record in records)
    assert client_ids[1] == 0
    assert (balancer_ids[1], server_ids[1]) == (client_ids[0], balancer_ids[0])


@given(st.binary(min_size=RECORD_BYTES - 12, max_size=RECORD_BYTES - 12), st.sampled_from([1, 2]), st.sampled_from([1, 2, 3]))
def test_what_identity_reads_of_a_record_is_what_the_engine_reads(body, kind, role):
    record = body + bytes([kind, role, 0, 0, TCP]) + bytes(7)
    event = unpack_event(record)
    client = ip_address(event.client) if event.client else None
    packed = bytes(16) if client is None else pack_address(str(client))
    assert trace_id_of_record(KEY, record) == trace_id(KEY, TCP, packed, event.client_port, event.scope, event.redirect_port, event.isn)


def test_a_record_of_another_size_is_refused_as_the_engine_refuses_it():
    for size in (RECORD_BYTES - 1, RECORD_BYTES + 1):
        with pytest.raises(struct.error):
            trace_id_of_record(KEY, bytes(size))
        with pytest.raises(ValueError, match="104"):
            unpack_event(bytes(size))


def test_another_key_gives_another_trace(connection):
    record = connection.records[0]
    assert trace_id_of_record(KEY, record) != trace_id_of_record(bytes(32), record)


def test_a_connection_that_follows_on_the_same_ports_is_another_trace():
    first, second = Connection(isn=1), Connection(isn=2)
    first.open()
    second.open()
    assert trace_id_of_record(KEY, first.records[0]) != trace_id_of_record(KEY, second.records[0])


@given(st.integers(0, 2**128 - 1), st.floats(0, 1))
def test_sampling_looks_at_the_low_56_bits_alone(trace, ratio):
    sampling = Sampling.of_ratio(ratio)
    assert sampling.keeps(trace) == sampling.keeps(trace & (1 << 56) - 1)
    assert Sampling.of_ratio(1).keeps(trace)
    assert not Sampling.of_ratio(0).keeps(trace)


@given(st.integers(0, 2**56 - 1), st.floats(0, 1), st.floats(0, 1))
def test_a_trace_kept_at_one_ratio_is_kept_at_any_greater(trace, one, other):
    low, high = sorted((one, other))
    assert not Sampling.of_ratio(low).keeps(trace) or Sampling.of_ratio(high).keeps(trace)


def test_a_tenth_of_connections_is_about_a_tenth_of_traces():
    sampling = Sampling.of_ratio(0.1)
    kept = sum(sampling.keeps(trace_id(KEY, TCP, pack_address(CLIENT), port, SCOPE, X, 1)) for port in range(1, 20001))
    assert 1800 < kept < 2200


def test_low_bits_of_trace_ids_are_uniform():
    ids = [trace_id(KEY, TCP, pack_address(CLIENT), port, SCOPE, X, 1) for port in range(1, 8001)]
    for bit in range(56):
        assert 3700 < sum(trace >> bit & 1 for trace in ids) < 4300

"""Keys and values of the tables survive the way into C structures and back."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import batch_of
from wharfinger_dataplane import _engine
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._records import FlowState, Mark

BOUNDED = settings(max_examples=60, derandomize=True, deadline=None, database=None)
addresses = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None)
).map(str)
ports, words, octets = st.integers(0, 65_535), st.integers(0, 0xFFFFFFFF), st.integers(0, 255)
ipv4, times = st.ip_addresses(v=4).map(str), st.integers(0, 2**64 - 1)
marks = st.integers(0, sum(Mark)).map(Mark)
CLIENT_STATES = [state for state in FlowState if state.is_client]
SERVER_STATES = [state for state in FlowState if not state.is_client]


@BOUNDED
@given(address=addresses)
def test_an_address_reads_back_as_written(address):
    assert records.unpack_address(records.pack_address(address)) == address


@BOUNDED
@given(
    ifindex=words,
    roles=st.sampled_from(
        [records.Role(0), records.Role.CLIENT, records.Role.SERVER, records.Role.CLIENT | records.Role.SERVER]
    ),
    netns=st.integers(-1, 2**31 - 1),
)
def test_a_pod_reads_back_as_written(ifindex, roles, netns):
    assert records.unpack_pod(records.pack_pod(ifindex, roles, netns)) == (ifindex, roles, netns)


@BOUNDED
@given(address=addresses, scope=words, state=words)
def test_a_server_reads_back_as_written(address, scope, state):
    assert records.unpack_server(records.pack_server(address, scope, state)) == (address, scope, state)


@BOUNDED
@given(address=addresses, port=ports, scope=words)
def test_a_server_port_key_reads_back_as_written(address, port, scope):
    assert records.unpack_server_port_key(records.pack_server_port_key(address, port, scope)) == (
        address,
        scope,
        port,
    )


@BOUNDED
@given(
    scope=words,
    target=ports,
    services=st.lists(ports, max_size=records.SERVICE_PORTS_MAX).map(tuple),
    moves=st.sampled_from(records.MoveMode),
)
def test_a_server_port_reads_back_as_written(scope, target, services, moves):
    assert records.unpack_server_port(records.pack_server_port(scope, target, services, moves)) == (
        scope,
        target,
        services,
        moves,
    )


@BOUNDED
@given(local=ipv4, local_port=ports, peer=ipv4, peer_port=ports, ifindex=words)
def test_a_flow_key_reads_back_as_written(local, local_port, peer, peer_port, ifindex):
    key = records.pack_flow_key(local, local_port, peer, peer_port, ifindex)
    assert len(key) == 16
    assert records.unpack_flow_key(key) == (local, local_port, peer, peer_port, ifindex)


@BOUNDED
@given(address=ipv4)
def test_an_ipv4_address_is_the_number_that_keys_of_flows_have(address):
    key = records.pack_flow_key(address, 1, "10.0.0.1", 2)
    assert records.pack_v4(address) == int.from_bytes(key[4:8], sys.byteorder)


@BOUNDED
@given(
    state=st.sampled_from(CLIENT_STATES),
    marks=marks,
    reason=octets,
    isn=words,
    scope=words,
    server=ipv4,
    wire_port=ports,
    seen=words,
    started_ns=times,
)
def test_a_clients_flow_reads_back_as_written(
    state, marks, reason, isn, scope, server, wire_port, seen, started_ns
):
    flow = records.pack_flow(
        state=state,
        marks=marks,
        reason=reason,
        isn=isn,
        scope=scope,
        server=server,
        wire_port=wire_port,
        seen=seen,
        started_ns=started_ns,
    )
    assert records.unpack_flow(flow) == (
        state,
        marks,
        0,
        reason,
        isn,
        scope,
        server,
        0,
        0,
        wire_port,
        seen,
        0,
        started_ns,
    )


@BOUNDED
@given(
    state=st.sampled_from(SERVER_STATES),
    marks=marks,
    isn=words,
    client_port=ports,
    redirect_port=ports,
    wire_port=ports,
    started_ns=times,
)
def test_a_servers_flow_reads_back_as_written(
    state, marks, isn, client_port, redirect_port, wire_port, started_ns
):
    flow = records.pack_flow(
        state=state,
        marks=marks,
        isn=isn,
        client_port=client_port,
        redirect_port=redirect_port,
        wire_port=wire_port,
        started_ns=started_ns,
    )
    assert records.unpack_flow(flow) == (
        state,
        marks,
        0,
        0,
        isn,
        0,
        None,
        client_port,
        redirect_port,
        wire_port,
        0,
        0,
        started_ns,
    )


@BOUNDED
@given(
    state=st.sampled_from(FlowState),
    isn=words,
    ifindex=words,
    peer=ipv4,
    local_port=ports,
    peer_port=ports,
    started_ns=times,
)
def test_a_wire_reads_back_as_written(state, isn, ifindex, peer, local_port, peer_port, started_ns):
    wire = records.pack_wire(
        state=state,
        isn=isn,
        ifindex=ifindex,
        peer=peer,
        local_port=local_port,
        peer_port=peer_port,
        started_ns=started_ns,
    )
    assert records.unpack_wire(wire) == (state, isn, ifindex, peer, local_port, peer_port, started_ns)


@BOUNDED
@given(state=st.sampled_from(FlowState), isn=words, started_ns=times)
def test_a_flow_and_its_wire_are_of_one_connection(state, isn, started_ns):
    flow = records.pack_flow(state=state, wire_port=1, isn=isn, started_ns=started_ns)
    wire = records.pack_wire(
        state=state, ifindex=1, peer="10.0.0.1", local_port=1, peer_port=2, isn=isn, started_ns=started_ns
    )
    assert records.connection_of(flow) == records.connection_of(wire) == (started_ns, isn)


def test_every_state_is_a_clients_or_a_servers():
    assert {state.name.split("_")[0] for state in CLIENT_STATES} == {"CLIENT"}
    assert {state.name.split("_")[0] for state in SERVER_STATES} == {"SERVER"}


KEY = records.pack_flow_key("10.1.0.5", 40_000, "10.96.0.1", 80, 5)
CLIENTS = records.pack_flow(state=FlowState.CLIENT_ESTABLISHED, server="10.2.0.9", wire_port=20_001)
SERVERS_KEY = records.pack_flow_key("10.2.0.9", 8080, "10.1.0.5", 50_000, 6)
SERVERS = records.pack_flow(
    state=FlowState.SERVER_ESTABLISHED, client_port=40_000, redirect_port=80, wire_port=20_001
)


@pytest.mark.parametrize(
    ("key", "flow", "wire"),
    [
        (KEY, CLIENTS, ("10.1.0.5", 40_000, "10.2.0.9", 20_001, 0)),
        (SERVERS_KEY, SERVERS, ("10.2.0.9", 20_001, "10.1.0.5", 40_000, 0)),
    ],
    ids=["client", "server under a substitute"],
)
def test_a_flow_leads_to_its_wire_and_the_wire_back(key, flow, wire):
    wire_key = records.wire_key_of(key, flow)
    assert records.unpack_flow_key(wire_key) == wire
    at_stack = records.unpack_flow_key(key)
    back = records.pack_wire(
        state=records.unpack_flow(flow).state,
        ifindex=at_stack.ifindex,
        peer=at_stack.peer,
        local_port=at_stack.local_port,
        peer_port=at_stack.peer_port,
    )
    assert records.flow_key_of(wire_key, back) == key


TICK = 1 << 27
WRAPS = TICK << 24
"""How long stamps last until they come again."""


def test_a_stamp_counts_eighths_of_a_second_and_comes_again_after_26_days():
    assert records.stamp(TICK - 1) == 0
    assert records.stamp(TICK) == 1
    assert 26 <= WRAPS / (24 * 3600 * 10**9) < 27
    assert records.stamp(WRAPS - 1) == 0xFFFFFF
    assert records.stamp(WRAPS) == 0


@BOUNDED
@given(now_ns=times, generation=words)
def test_a_stamp_has_the_generation_above_its_time(now_ns, generation):
    assert records.stamp(now_ns, generation) == (generation & 0xFF) << 24 | (now_ns // TICK & 0xFFFFFF)


@BOUNDED
@given(now_ns=st.integers(0, 2**62), generation=st.integers(0, 255))
def test_another_generation_is_another_stamp_at_the_same_moment(now_ns, generation):
    assert records.stamp(now_ns, generation) != records.stamp(now_ns, generation + 1)
    assert records.stamp(now_ns, generation) == records.stamp(now_ns, generation + 256)


@BOUNDED
@given(used=st.integers(0, 2**62), after=st.integers(0, WRAPS - 3 * 3600 * 10**9), generation=words)
def test_a_stamp_says_how_long_ago_it_was_to_an_eighth_of_a_second_whatever_its_generation(
    used, after, generation
):
    assert abs(records.stamp_age_ns(records.stamp(used, generation), used + after) - after) < TICK


@BOUNDED
@given(now_ns=st.integers(0, 2**62), ahead=st.integers(0, 2 * 3600 * 10**9))
def test_what_is_used_while_somebody_looks_is_fresh(now_ns, ahead):
    assert records.stamp_age_ns(records.stamp(now_ns + ahead), now_ns) == 0


def test_after_26_days_a_stamp_reads_as_fresh_for_two_hours_and_then_as_old_again():
    day, hour = 24 * 3600 * 10**9, 3600 * 10**9
    ages = {
        days: records.stamp_age_ns(records.stamp(day), day + days)
        for days in (WRAPS - hour, WRAPS + hour, WRAPS + day)
    }
    assert ages[WRAPS - hour] == 0
    assert abs(ages[WRAPS + hour] - hour) < TICK
    assert abs(ages[WRAPS + day] - day) < TICK


SCANS = [
    lambda batch: records.quiet_flows(batch, 1 << 50, 1, {}),
    lambda batch: records.old_wires(batch, 1 << 50, 1),
    records.open_flows,
    lambda batch: records.flows_to(batch, {records.pack_v4("10.2.0.9"): ({20_001}, set())}),
]
NAMES = ["quiet_flows", "old_wires", "open_flows", "flows_to"]


@pytest.mark.parametrize("scan", SCANS, ids=NAMES)
@pytest.mark.parametrize(
    ("count", "keys", "values"),
    [(1, 15, 48), (1, 16, 47), (3, 47, 144), (3, 48, 143), (2**32 - 1, 16, 48), (1, 0, 0)],
)
def test_a_batch_that_says_more_records_than_it_has_is_refused(scan, count, keys, values):
    with pytest.raises(ValueError, match=f"{count} records in {keys} and {values} bytes"):
        scan(records.Batch(count, bytes(keys), bytes(values)))


@pytest.mark.parametrize("scan", SCANS, ids=NAMES)
def test_of_a_batch_only_the_counted_records_are_looked_at(scan):
    if scan is SCANS[1]:
        old = records.pack_wire(
            state=FlowState.CLIENT_ESTABLISHED, ifindex=5, peer="10.96.0.1", local_port=3, peer_port=80
        )
    else:
        old = records.pack_flow(
            state=FlowState.CLIENT_ESTABLISHED, server="10.2.0.9", wire_port=20_001, scope=7
        )
    assert scan(records.Batch(0, b"", b"")) == []
    assert scan(records.Batch(0, KEY, old)) == []
    for buffer in (bytes, bytearray):
        batch = records.Batch(2, buffer(KEY * 4096), buffer(old * 4096))
        assert (batch.count, scan(batch)) == (2, [(KEY, old)] * 2)


@pytest.mark.parametrize("count", [-1, 2**32])
def test_a_count_that_is_none_is_refused(count):
    with pytest.raises(OverflowError):
        records.Batch(count, b"", b"")


@BOUNDED
@given(wanted=st.lists(st.booleans(), max_size=40))
def test_a_batch_gives_the_records_that_are_wanted_in_their_order(wanted):
    found = [
        (
            records.pack_flow_key("10.1.0.5", n, "10.96.0.1", 80, 5),
            records.pack_flow(state=FlowState.CLIENT_ESTABLISHED, wire_port=n, scope=int(open_)),
        )
        for n, open_ in enumerate(wanted)
    ]
    assert records.open_flows(batch_of(found)) == [
        record for record, open_ in zip(found, wanted, strict=True) if open_
    ]


@BOUNDED
@given(scope=words, policy=st.sampled_from(records.Policy), slots=st.lists(words, max_size=20))
def test_a_set_reads_back_as_written(scope, policy, slots):
    assert records.unpack_set(records.pack_set(scope, policy, slots)) == (scope, policy, slots)


@BOUNDED
@given(pages=st.dictionaries(st.integers(0, records.PAGES - 1), st.integers(1, 0xFFFFFFFF), max_size=20))
def test_a_directory_of_pages_reads_back_as_written(pages):
    assert records.unpack_pages(records.pack_pages(pages)) == pages


@pytest.mark.parametrize(
    "write",
    [
        lambda: records.pack_set(1, 0, range(records.SET_SLOTS + 1)),
        lambda: records.pack_server_port(1, 80, range(records.SERVICE_PORTS_MAX + 1)),
        lambda: records.pack_page({256: (1, 1)}),
        lambda: records.pack_page({0: (1, 1 << 28)}),
        lambda: records.pack_pages({256: 1}),
        lambda: records.unpack_server(bytes(3)),
        lambda: records.unpack_flow(bytes(47)),
        lambda: records.unpack_wire(bytes(49)),
        lambda: records.unpack_flow_key(bytes(17)),
        lambda: records.wire_key_of(bytes(16), bytes(47)),
        lambda: records.wire_key_of(bytes(15), bytes(48)),
        lambda: records.flow_key_of(bytes(16), bytes(47)),
        lambda: records.connection_of(bytes(47)),
        lambda: records.pack_flow_key("fd00::1", 1, "10.0.0.1", 1),
        lambda: records.pack_address("10.0.0"),
    ],
    ids=[
        "slots",
        "services",
        "page-port",
        "page-index",
        "pages",
        "short-server",
        "short-flow",
        "long-wire",
        "long-key",
        "flow-of-wire",
        "key-of-wire",
        "wire-of-flow",
        "short-connection",
        "ipv6-key",
        "address",
    ],
)
def test_what_does_not_fit_a_structure_is_refused(write):
    with pytest.raises(ValueError):
        write()


def test_a_port_number_beyond_sixteen_bits_is_refused():
    with pytest.raises(OverflowError):
        records.pack_server_port_key("10.0.0.1", 65_536)


def test_every_reason_has_words_and_a_name_of_its_own():
    assert all(reason.words for reason in _engine.REASONS)
    assert len({reason.name for reason in _engine.REASONS}) == len(_engine.REASONS)


def test_an_engine_refuses_what_is_no_key_value_or_table_of_its():
    engine = _engine.Engine()
    for call, error in [
        (lambda: engine.put("pods", b"short", bytes(12)), ValueError),
        (lambda: engine.put("pods", bytes(16), b""), ValueError),
        (lambda: engine.get("no such", b""), KeyError),
        (lambda: engine.run("from_pod", bytes(65_537)), ValueError),
        (lambda: _engine.Engine(capacity={"no such": 1}), KeyError),
    ]:
        with pytest.raises(error):
            call()


def test_a_full_table_of_the_engine_refuses_new_keys_and_takes_old_ones():
    engine = _engine.Engine(capacity={"pods": 2})
    for number in (1, 2):
        engine.put("pods", bytes(15) + bytes([number]), bytes(12))
    with pytest.raises(OSError, match=r"pods is full \(2 entries\)"):
        engine.put("pods", bytes(16), bytes(12))
    engine.put("pods", bytes(15) + b"\x01", bytes(11) + b"\x09")
    assert sorted(value for _, value in engine.items("pods")) == [bytes(12), bytes(11) + b"\x09"]


def test_a_bounded_table_of_the_engine_forgets_one_for_another():
    for table in ("opening_flows", "opening_wires", "closed_flows", "closed_wires"):
        engine = _engine.Engine(capacity={table: 4})
        value = bytes(56 if table.endswith("flows") else 48)
        for number in range(20):
            engine.put(table, bytes(15) + bytes([number]), value)
            assert engine.get(table, bytes(15) + bytes([number])) == value
        assert len(engine.items(table)) == 4


@BOUNDED
@given(
    operations=st.lists(
        st.tuples(st.booleans(), st.binary(min_size=1, max_size=1), st.binary(min_size=1, max_size=1)),
        max_size=400,
    )
)
def test_a_table_of_the_engine_is_a_dictionary(operations):
    engine, model = _engine.Engine(), {}
    for put, key, value in operations:
        key, value = bytes(15) + key, bytes(11) + value
        if put:
            engine.put("pods", key, value)
            model[key] = value
        else:
            assert engine.delete("pods", key) == (model.pop(key, None) is not None)
        assert engine.get("pods", key) == model.get(key)
    assert dict(engine.items("pods")) == model

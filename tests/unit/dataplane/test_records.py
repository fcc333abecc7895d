"""Keys and values of the tables survive the way into C structures and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wharfinger_dataplane import _engine
from wharfinger_dataplane import _records as records

BOUNDED = settings(max_examples=60, derandomize=True, deadline=None, database=None)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None)).map(str)
ports, words = st.integers(0, 65_535), st.integers(0, 0xFFFFFFFF)


@BOUNDED
@given(address=addresses)
def test_an_address_reads_back_as_written(address):
    assert records.unpack_address(records.pack_address(address)) == address


@BOUNDED
@given(
    ifindex=words,
    roles=st.sampled_from([records.Role(0), records.Role.CLIENT, records.Role.SERVER, records.Role.CLIENT | records.Role.SERVER]),
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
    assert records.unpack_server_port_key(records.pack_server_port_key(address, port, scope)) == (address, scope, port)


@BOUNDED
@given(scope=words, target=ports, services=st.lists(ports, max_size=records.SERVICE_PORTS_MAX).map(tuple))
def test_a_server_port_reads_back_as_written(scope, target, services):
    assert records.unpack_server_port(records.pack_server_port(scope, target, services)) == (scope, target, services)


@BOUNDED
@given(side=st.sampled_from(records.Side), local=addresses, local_port=ports, peer=addresses, peer_port=ports)
def test_a_flow_key_reads_back_as_written(side, local, local_port, peer, peer_port):
    assert records.unpack_flow_key(records.pack_flow_key(side, local, local_port, peer, peer_port)) == (
        side,
        local,
        local_port,
        peer,
        peer_port,
    )


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
        lambda: records.unpack_flow(bytes(63)),
        lambda: records.pack_address("10.0.0"),
    ],
    ids=["slots", "services", "page-port", "page-index", "pages", "short-server", "short-flow", "address"],
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
    with pytest.raises(OSError, match="pods is full"):
        engine.put("pods", bytes(16), bytes(12))
    engine.put("pods", bytes(15) + b"\x01", bytes(11) + b"\x09")
    assert sorted(value for _, value in engine.items("pods")) == [bytes(12), bytes(11) + b"\x09"]


def test_a_bounded_table_of_the_engine_forgets_one_for_another():
    engine = _engine.Engine(capacity={"half_open": 4})
    for number in range(20):
        engine.put("half_open", bytes(39) + bytes([number]), bytes(64))
    assert len(engine.items("half_open")) == 4


@BOUNDED
@given(operations=st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=1), st.binary(min_size=1, max_size=1)), max_size=400))
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

"""The programs in the kernel: they verify, their maps are the engine's tables, what is pinned is adopted."""

from __future__ import annotations

import errno

import pytest
from support.lab import OBJECT, PROGRAMS
from wharfinger_dataplane import _bpf
from wharfinger_dataplane._engine import HOOKS, REASONS, TABLES, Engine
from wharfinger_dataplane.attach import HOLDING
from wharfinger_dataplane.kernel import CONNECTION_TABLES

HASH, ARRAY, PERCPU_ARRAY, LRU_HASH, RINGBUF = 1, 2, 6, 9, 27
LAYOUT = {name: (kind, key, value, entries) for name, kind, key, value, entries in _bpf.layout(OBJECT)}


def test_the_verifier_takes_every_program(load):
    assert set(load().programs) == {*PROGRAMS, *HOLDING.values(), "wharf_ask"}


@pytest.mark.parametrize("table", TABLES)
def test_a_map_has_keys_and_values_of_the_engines_sizes(table):
    _, key, value, _ = LAYOUT[table]
    Engine().put(table, bytes(key), bytes(value))


def test_the_engine_has_no_table_that_is_not_a_map_and_the_maps_no_surprise():
    assert set(TABLES) <= set(LAYOUT)
    assert set(LAYOUT) - set(TABLES) == {"counters", "turns", "settings", "events", "events_lost", "works"}


def test_established_connections_live_in_plain_tables_and_those_that_open_or_are_closed_in_bounded_ones():
    kinds = {"flows": HASH, "wires": HASH, "opening_flows": LRU_HASH, "opening_wires": LRU_HASH,
             "closed_flows": LRU_HASH, "closed_wires": LRU_HASH}
    assert {table: LAYOUT[table][0] for table in CONNECTION_TABLES} == kinds


def test_a_flow_and_its_wire_find_room_alike():
    for phase in ("", "opening_", "closed_"):
        (_, key, _, entries), wires = LAYOUT[f"{phase}flows"], LAYOUT[f"{phase}wires"]
        assert (key, entries) == (wires[1], wires[3])


def test_what_is_no_connections_has_the_kind_that_its_use_asks_for():
    assert (LAYOUT["turns"][0], LAYOUT["counters"][0], LAYOUT["events"][0]) == (ARRAY, PERCPU_ARRAY, RINGBUF)


def test_the_counters_have_a_place_for_every_reason_of_every_hook():
    assert LAYOUT["counters"][3] >= len(HOOKS) * len(REASONS)


def test_p09_a_loader_adopts_the_maps_that_its_predecessor_pinned(load, pins):
    first = load()
    first.maps["pods"].put(bytes(16), b"123456789012")
    for table in CONNECTION_TABLES:
        first.maps[table].put(bytes(range(16)), bytes(range(LAYOUT[table][2])))
    first.close()
    second = load()
    assert second.maps["pods"].get(bytes(16)) == b"123456789012"
    for table in CONNECTION_TABLES:
        assert second.maps[table].items() == [(bytes(range(16)), bytes(range(LAYOUT[table][2])))]
    not_pinned = {"works"}  # which lasts no longer than a packet
    assert {path.name for path in pins.iterdir()} == set(LAYOUT) - not_pinned


def test_two_loaders_share_what_is_pinned(load):
    first, second = load(), load()
    first.maps["pods"].put(bytes(16), b"123456789012")
    assert second.maps["pods"].get(bytes(16)) == b"123456789012"


def test_a_pinned_map_of_another_shape_is_refused_in_words(load):
    load(flows=1024).close()
    with pytest.raises(OSError, match=r"(?s)flows.*maps pinned at") as refused:
        load(flows=2048)
    assert refused.value.errno == errno.EINVAL


def test_a_pinned_map_opens_by_its_path(load, pins):
    load().maps["pods"].put(bytes(16), b"123456789012")
    opened = _bpf.Map.open(pins / "pods")
    assert (opened.name, opened.key_size, opened.value_size) == ("pods", 16, 12)
    assert opened.items() == [(bytes(16), b"123456789012")]
    opened.close()
    assert _bpf.Map.open(pins / "none") is None


def test_a_file_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "text.o").write_text("no programs")
    with pytest.raises(OSError, match="cannot be opened as a BPF object"):
        _bpf.Object(tmp_path / "text.o", tmp_path)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_a_map_is_a_dictionary_of_bytes(load):
    pods = load().maps["pods"]
    assert pods.get(key(1)) is None
    pods.put(key(1), bytes(12))
    pods.put(key(1), b"replaced-it!")
    assert pods.get(key(1)) == b"replaced-it!"
    assert not pods.put_new(key(1), bytes(12))
    assert pods.put_new(key(2), bytes(12))
    assert pods.take(key(1)) == b"replaced-it!"
    assert pods.take(key(1)) is None
    assert pods.delete(key(2))
    assert not pods.delete(key(2))


def test_a_map_that_takes_several_batches_lists_every_entry_once(load):
    pods = load().maps["pods"]
    keys = {key(number) for number in range(pods.max_entries)}
    for each in keys:
        pods.put(each, bytes(12))
    listed = [each for each, _ in pods.items()]
    assert len(listed) == len(keys)
    assert set(listed) == keys
    with pytest.raises(OSError, match=r"pods: write \(capacity 4096\)"):
        pods.put(key(1 << 40), bytes(12))


def test_keys_and_values_of_another_size_are_refused(load):
    pods = load().maps["pods"]
    for wrong in (
        lambda: pods.put(b"short", bytes(12)),
        lambda: pods.put(key(1), b"short"),
        lambda: pods.get(b"short"),
        lambda: pods.delete(b"short"),
    ):
        with pytest.raises(ValueError, match=r"map pods: a (key|value) has"):
            wrong()


def test_a_counter_has_a_value_on_each_processor(load):
    counters = load().maps["counters"]
    assert {len(value) for value in counters.get_per_cpu(bytes(4))} == {16}

"""A table without room: the pool that does not fit keeps what it had, leaves nothing behind, and no other pool feels it."""

from __future__ import annotations

import errno
import itertools

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.slices import VIRTUAL, pool_slice
from unit.dataplane.test_tables import SHOP, A, B, Watched, filled, fresh, pools
from wharfinger_dataplane.tables import WRITE_ORDER, Tables

SMALL = {"server_ports": 12, "servers": 6, "sets": 4, "pages": 8, "addresses": 4}
OTHER = pool_slice({"x": "10.0.0.9"}, name="other", scope=8, virtual=["10.96.0.11"], ports={"x": [30_000]})
WIDE = range(8000, 8010)


def test_a_pool_that_does_not_fit_leaves_no_record_and_the_others_are_written():
    store, tables = filled(pool_slice(SHOP, redirect=WIDE), OTHER, capacity=SMALL)
    assert store.meaning() == fresh(OTHER)
    assert tables.faults == {"pool-shop": "table server_ports is full: 22 more entries are needed and 10 of its 12 are free; use fewer redirect "
                                          "ports or servers, or raise the table's capacity (chart value agent.capacities)"}


@pytest.mark.parametrize("table", WRITE_ORDER)
def test_a_pool_that_grows_beyond_a_table_keeps_all_that_it_had(table):
    before = fresh(pool_slice(SHOP, redirect=[80]))
    needed = {"server_ports": 4, "servers": 2, "sets": 1, "pages": 2, "addresses": 1}
    store, tables = filled(pool_slice(SHOP, redirect=[80]), capacity={table: needed[table]})
    assert store.meaning() == before
    grown = pool_slice({**SHOP, "c": "10.0.0.3"}, redirect=[80, 9000], generation=2, virtual=[VIRTUAL, "10.96.0.11"])
    second = pool_slice({"x": "10.0.0.9"}, scope=7, name="second", redirect=[81], generation=1)
    tables.apply([grown.model_copy(update={"spec": grown.spec.model_copy(update={"redirects": (*grown.spec.redirects, *second.spec.redirects)})})])
    assert f"table {table} is full" in tables.faults["pool-shop"] or "indexes" in tables.faults["pool-shop"]
    assert store.meaning() == before


def test_a_pool_that_did_not_fit_is_written_when_another_makes_room():
    wide = pool_slice(SHOP, redirect=range(8000, 8005))
    other = pool_slice({"x": "10.0.0.9"}, name="other", scope=8, virtual=["10.96.0.11"], ports={"x": [30_000]}, redirect=[80, 81])
    store, tables = filled(wide, other, capacity={"server_ports": 12})
    assert list(tables.faults) == ["pool-shop"]
    store.writes.clear()
    tables.apply([wide, other])
    assert store.writes == []
    tables.apply([wide])
    assert tables.faults == {}
    assert store.meaning() == fresh(wide)


def test_a_pool_that_grows_finds_the_room_that_another_gives_back_in_the_same_round():
    store, tables = filled(pool_slice(SHOP, redirect=WIDE), capacity={"server_ports": 24})
    grown = pool_slice({"x": "10.0.0.9"}, name="grown", scope=8, virtual=["10.96.0.11"], ports={"x": [30_000]}, redirect=range(9000, 9019))
    tables.apply([pool_slice(SHOP, generation=2), grown])
    assert tables.faults == {}
    assert store.meaning() == fresh(pool_slice(SHOP), grown)


def test_a_change_that_is_withdrawn_is_no_fault_any_more():
    store, tables = filled(pool_slice(SHOP), capacity=SMALL)
    tables.apply([pool_slice(SHOP, redirect=WIDE, generation=2)])
    assert tables.faults
    tables.apply([pool_slice(SHOP, generation=1)])
    assert tables.faults == {}
    assert store.meaning() == fresh(pool_slice(SHOP))


def test_whichever_write_fails_the_tables_are_as_before_and_the_next_round_heals():
    changed = pool_slice({"a": A, "d": "10.0.0.4"}, redirect=[81, 9000], policy="Random", generation=2, virtual=[VIRTUAL, "10.96.0.11"])
    for failing in itertools.count():
        store, tables = filled(pool_slice(SHOP), OTHER)
        before = store.contents()
        store.puts_until_failure = failing
        tables.apply([changed, OTHER])
        if store.puts_until_failure >= 0:
            break
        assert tables.faults == {"pool-shop": "no memory"}
        assert store.contents() == before
        tables.apply([changed, OTHER])
        assert tables.faults == {}
        assert store.meaning() == fresh(changed, OTHER)
    assert failing > 10


def test_a_way_back_that_fails_is_gone_to_its_end_in_the_next_round():
    changed = pool_slice({"a": A, "d": "10.0.0.4"}, redirect=[81, 9000], policy="Random", generation=2)
    store, tables = filled(pool_slice(SHOP))
    before, put, failures = store.contents(), store.put, iter([False] * 10 + [True] * 2)

    def failing(table, key, value):
        if next(failures, False):
            raise OSError(errno.ENOMEM, "no memory")
        put(table, key, value)

    store.put = failing
    with pytest.raises(OSError, match="no memory"):
        tables.apply([changed])
    assert store.contents() != before
    tables.apply([changed])
    assert store.meaning() == fresh(changed)
    tables.apply([])
    assert not any(store.contents().values())


def test_a_new_process_serves_every_pool_of_a_shared_address_at_every_moment():
    pieces = [pool_slice({"a": A}, name="one", scope=1), pool_slice({"b": B}, name="two", scope=2, redirect=[81], ports={"b": [20_002]})]
    store, _ = filled(*pieces)
    expected = store.meaning()["ports"]
    successor = Tables(store)
    successor.adopt()
    wrote = store._wrote
    seen = []
    store._wrote = lambda what, table: (wrote(what, table), seen.append(store.meaning()["ports"] == expected))
    successor.apply(pieces)
    assert seen and all(seen)
    assert store.meaning() == fresh(*pieces)


def test_a_new_process_finds_room_though_its_tables_are_more_than_half_full():
    pieces = [pool_slice({"a": f"10.0.{n}.1"}, name=f"p{n}", scope=n, virtual=[f"10.96.0.{n}"], ports={"a": [20_000]}) for n in range(1, 9)]
    store, _ = filled(*pieces, capacity={"servers": 9, "sets": 9, "pages": 18})
    for _ in range(2):
        successor = Tables(store)
        successor.adopt()
        successor.apply(pieces)
        assert successor.faults == {}
        assert store.meaning() == fresh(*pieces)


def test_entries_are_counted_as_the_store_has_them():
    store, _ = filled(pool_slice(SHOP), OTHER)
    successor = Tables(store)
    successor.adopt()
    for slices in ([pool_slice({"a": A}, generation=2), OTHER], [OTHER], []):
        assert successor.counts() == {table: len(store.items(table)) for table in ("pods", *WRITE_ORDER)}
        successor.apply(slices)
    assert not any(successor.counts().values())


@settings(max_examples=60, derandomize=True, deadline=None, database=None, phases=[Phase.generate])  # shrinking would take minutes
@given(data=st.data())
def test_after_any_changes_in_tables_too_small_nothing_dangles_or_leaks(data):
    store = Watched(SMALL)
    tables = Tables(store)
    for generation in range(1, 5):
        slices = [data.draw(pools(number, generation)) for number in data.draw(st.lists(st.sampled_from([1, 2, 3]), unique=True))]
        if data.draw(st.booleans()):
            tables = Tables(store)
            tables.adopt()
        tables.apply(slices)
        assert {piece.spec.pool.uid for piece in slices} >= tables.faults.keys()
        assert tables.counts() == {table: len(store.items(table)) for table in ("pods", *WRITE_ORDER)}
        if not tables.faults:
            assert store.meaning() == fresh(*slices)
    tables.apply([])
    assert not any(store.contents().values())

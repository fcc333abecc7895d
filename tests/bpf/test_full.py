"""Full maps of the real kernel: the pool that finds no room is contained, whatever the agent believed."""

from contextlib import closing

import pytest
from support.lab import bpffs
from support.slices import pool_slice
from wharfinger_dataplane import _records as records
from wharfinger_dataplane.kernel import CONNECTION_TABLES, Kernel
from wharfinger_dataplane.tables import WRITE_ORDER, Tables

SMALL = dict.fromkeys(CONNECTION_TABLES, 1024)
SHOP = pool_slice({"a": "10.0.0.1", "b": "10.0.0.2"})
OTHER = pool_slice({"x": "10.0.0.9"}, name="other", scope=8, virtual=["10.96.0.11"], ports={"x": [30_000]})


@pytest.fixture
def fs(tmp_path):
    with bpffs(tmp_path / "bpf") as path:
        yield path


def contents(kernel):
    return {table: dict(kernel.items(table)) for table in WRITE_ORDER}


@pytest.mark.parametrize("table", WRITE_ORDER)
def test_a_map_that_is_full_against_all_counting_contains_the_pool_and_heals(fs, table):
    with closing(Kernel.open(fs, {**SMALL, table: 64})) as kernel:
        tables = Tables(kernel)
        tables.apply([OTHER])
        before = contents(kernel)
        size = len(next(iter(before[table])))
        strangers = [bytes([255 - n]) + bytes([255]) * (size - 1) for n in range(64 - len(before[table]))]
        for key in strangers:
            kernel.put(table, key, next(iter(before[table].values())))
        full = contents(kernel)
        tables.apply([OTHER, SHOP])
        assert list(tables.faults) == ["pool-shop"] and f"map {table}: write" in tables.faults["pool-shop"]
        assert contents(kernel) == full
        for key in strangers:
            kernel.delete(table, key)
        tables.apply([OTHER])
        tables.apply(
            [OTHER, SHOP.model_copy(update={"metadata": SHOP.metadata.model_copy(update={"generation": 2})})]
        )
        assert tables.faults == {}
        assert tables.counts() == {
            "pods": 0,
            **{name: len(found) for name, found in contents(kernel).items()},
        }


def test_capacities_are_those_of_the_maps_and_not_a_copy(fs):
    with closing(Kernel.open(fs, {**SMALL, "servers": 2})) as kernel:
        tables = Tables(kernel)
        tables.apply([pool_slice({"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"})])
        assert "2 indexes" in tables.faults["pool-shop"] or "free" in tables.faults["pool-shop"]
        assert not any(contents(kernel).values())
        tables.apply(
            [SHOP.model_copy(update={"metadata": SHOP.metadata.model_copy(update={"generation": 2})})]
        )
        assert {records.unpack_index(key) for key, _ in kernel.items("servers")} == {1, 2}

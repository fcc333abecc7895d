"""From slices to tables: the least that is written, and never a moment in which something refers to what is not there."""

from __future__ import annotations

import errno
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.slices import VIRTUAL, pool_slice
from wharfinger_dataplane import _records as records
from wharfinger_dataplane._engine import Engine
from wharfinger_dataplane.fragments import compile_pool
from wharfinger_dataplane.tables import WRITE_ORDER, Indexes, Tables

A, B, D = "10.0.0.1", "10.0.0.2", "10.0.0.3"
SHOP = {"a": A, "b": B}


class Watched:
    """An engine's tables; after every single write, nothing may refer to something absent."""

    def __init__(self, capacity: dict[str, int] | None = None) -> None:
        self.engine = Engine(capacity)
        self.writes: list[tuple[str, str]] = []
        self.puts_until_failure = -1

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.puts_until_failure -= 1
        if self.puts_until_failure == -1:
            raise OSError(errno.ENOMEM, "no memory")
        self.engine.put(table, key, value)
        self._wrote("put", table)

    def delete(self, table: str, key: bytes) -> bool:
        found = self.engine.delete(table, key)
        self._wrote("delete", table)
        return found

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.engine.get(table, key)

    def items(self, table: str) -> list[tuple[bytes, bytes]]:
        return self.engine.items(table)

    def capacity(self, table: str) -> int:
        return self.engine.capacity(table)

    def outdate(self) -> None:
        self.engine.outdate()

    def _wrote(self, what: str, table: str) -> None:
        self.writes.append((what, table))
        self.check()

    def contents(self) -> dict[str, dict[bytes, bytes]]:
        return {table: dict(self.items(table)) for table in WRITE_ORDER}

    def numbers(self, table: str) -> dict[int, bytes]:
        return {records.unpack_index(key): value for key, value in self.items(table)}

    def check(self) -> None:
        pages, sets, servers = self.numbers("pages"), self.numbers("sets"), self.numbers("servers")
        owned = {(key.address, server_port.scope) for key, server_port in self.server_ports().items()}
        for _, directory in self.items("addresses"):
            assert set(records.unpack_pages(directory).values()) <= set(pages)
        for page in pages.values():
            for kind, index in records.unpack_page(page).values():
                assert index in (sets if kind is records.PortKind.SET else servers)
        for value in sets.values():
            assert set(records.unpack_set(value).slots) <= set(servers)
        for value in servers.values():
            server = records.unpack_server(value)
            assert (server.address, server.scope) in owned

    def server_ports(self) -> dict:
        return {records.unpack_server_port_key(key): records.unpack_server_port(value) for key, value in self.items("server_ports")}

    def meaning(self) -> dict:
        """What the tables say, with names in place of indexes."""
        pages, sets = self.numbers("pages"), self.numbers("sets")
        servers = {index: records.unpack_server(value) for index, value in self.numbers("servers").items()}
        ports = {}
        for key, directory in self.items("addresses"):
            for number, index in records.unpack_pages(directory).items():
                for port, (kind, target) in records.unpack_page(pages[index]).items():
                    if kind is records.PortKind.SET:
                        found = records.unpack_set(sets[target])
                        meant = ("set", found.scope, found.policy, tuple(servers[slot] for slot in found.slots))
                    else:
                        meant = servers[target]
                    ports[records.unpack_address(key[:16]), number * records.PAGE_PORTS + port] = meant
        return {
            "ports": ports,
            "server_ports": self.server_ports(),
            "servers": sorted(servers.values()),
            "sets": len(sets),
            "pages": len(pages),
        }


def filled(*slices, capacity: dict[str, int] | None = None) -> tuple[Watched, Tables]:
    store = Watched(capacity)
    tables = Tables(store)
    tables.apply(slices)
    return store, tables


def fresh(*slices) -> dict:
    return filled(*slices)[0].meaning()


@pytest.mark.parametrize("mode", ["Never", "Close"])
def test_p03_a_redirect_port_means_its_ready_servers_and_a_service_port_its_one(mode):
    meaning, moves = fresh(pool_slice(SHOP, policy="Random", moves={"mode": mode})), records.MoveMode[mode.upper()]
    ready = records.ServerState.READY
    assert meaning["ports"] == {
        (VIRTUAL, 80): ("set", 7, records.Policy.RANDOM, ((A, 7, ready), (B, 7, ready))),
        (VIRTUAL, 20_001): (A, 7, ready),
        (VIRTUAL, 20_002): (B, 7, ready),
    }
    assert meaning["server_ports"] == {
        (A, 0, 20_001): (7, 8080, (), moves),
        (B, 0, 20_002): (7, 8080, (), moves),
        (A, 7, 80): (7, 8080, (20_001,), moves),
        (B, 7, 80): (7, 8080, (20_002,), moves),
    }


def test_the_same_slices_again_write_nothing():
    _, tables = filled(pool_slice(SHOP))
    assert tables.apply([pool_slice(SHOP)]) == 0
    assert tables.apply([pool_slice(SHOP, generation=2)]) == 0


def test_a_server_that_drains_is_written_by_itself_and_the_sets_that_lose_it():
    store, tables = filled(pool_slice(SHOP))
    store.writes.clear()
    tables.apply([pool_slice(SHOP, states={"a": "Draining"}, generation=2)])
    assert store.writes == [("put", "servers"), ("put", "sets")]


def test_a_change_of_one_pool_writes_nothing_of_another():
    other = pool_slice({"x": D}, name="other", scope=8, virtual=["10.96.0.11"], ports={"x": [30_000]})
    store, tables = filled(pool_slice(SHOP), other)
    store.writes.clear()
    tables.apply([pool_slice(SHOP, policy="Random", generation=2), other])
    assert store.writes == [("put", "sets")]


def test_what_is_referred_to_is_written_first_and_removed_last():
    store, tables = filled(pool_slice(SHOP))
    order = {table: n for n, table in enumerate(WRITE_ORDER)}
    assert [order[table] for _, table in store.writes] == sorted(order[table] for _, table in store.writes)
    store.writes.clear()
    tables.apply([])
    assert {what for what, _ in store.writes} == {"delete"}
    assert [order[table] for _, table in store.writes] == sorted((order[table] for _, table in store.writes), reverse=True)


def test_no_slices_leave_no_tables():
    store, tables = filled(pool_slice(SHOP), pool_slice({"x": D}, name="other", scope=8, redirect=[90], ports={"x": [30_000]}))
    tables.apply([])
    assert [item for table in WRITE_ORDER for item in store.items(table)] == []


@pytest.mark.parametrize("state, declared, listens", [("Ready", True, True), ("Draining", True, True), ("Resting", False, False)])
def test_a_servers_state_says_whether_its_port_is_declared(state, declared, listens):
    meaning = fresh(pool_slice({"a": A}, states={"a": state}))
    assert ((VIRTUAL, 20_001) in meaning["ports"]) is declared
    assert ((A, 0, 20_001) in meaning["server_ports"]) is listens


def test_pools_that_share_an_address_share_its_pages():
    one, two = pool_slice({"a": A}), pool_slice({"b": B}, name="two", scope=8, redirect=[81], ports={"b": [20_002]})
    meaning = fresh(one, two)
    assert {port for _, port in meaning["ports"]} == {80, 81, 20_001, 20_002}
    assert meaning["pages"] == 2
    store, tables = filled(one, two)
    tables.apply([two])
    assert store.meaning() == fresh(two)


def test_a_new_process_serves_what_it_found_until_its_own_is_in_place_and_leaves_nothing_stale():
    store, _ = filled(pool_slice(SHOP))
    was = {table: dict(store.items(table)) for table in WRITE_ORDER}
    second = Tables(store)
    second.adopt()
    assert {table: dict(store.items(table)) for table in WRITE_ORDER} == was
    second.apply([pool_slice({"b": B, "d": D}, generation=5)])
    assert store.meaning() == fresh(pool_slice({"b": B, "d": D}))
    for table in ("servers", "sets", "pages"):
        assert not set(was[table]) & {key for key, _ in store.items(table)}


def test_a_new_process_that_finds_no_slices_any_more_removes_all():
    store, _ = filled(pool_slice(SHOP))
    second = Tables(store)
    second.adopt()
    second.apply([])
    assert [item for table in WRITE_ORDER for item in store.items(table)] == []


def test_compiling_says_the_same_whatever_order_servers_are_listed_in():
    assert (
        compile_pool([pool_slice(SHOP, ports={"a": [1], "b": [2]})]).sets
        == compile_pool([pool_slice(dict(reversed(SHOP.items())), ports={"a": [1], "b": [2]})]).sets
    )


def test_pods_are_put_listed_and_removed():
    _, tables = filled()
    tables.put_pod(A, 4, records.Role.SERVER)
    assert tables.pods() == {A: (4, records.Role.SERVER, -1)}
    tables.remove_pod(A)
    assert tables.pods() == {}


names = st.sampled_from(["a", "b", "c", "d"])


@st.composite
def pools(draw: st.DrawFn, number: int, generation: int):
    """One pool at a moment: some servers, states, ports and redirect ports."""
    servers = {name: f"10.{number}.0.{ord(name)}" for name in draw(st.lists(names, max_size=4, unique=True))}
    ports = {name: [20_000 + number * 1000 + ord(name), 5_000 + number * 300 + ord(name)] for name in servers}
    return pool_slice(
        servers,
        ports=ports,
        scope=number,
        name=f"pool{number}",
        generation=generation,
        policy=draw(st.sampled_from(["Hash", "Random", "RoundRobin"])),
        states={name: draw(st.sampled_from(["Ready", "Ready", "Draining", "Resting"])) for name in servers},
        redirect=draw(st.lists(st.sampled_from([80 + number * 10, 81 + number * 10, 9000 + number]), unique=True, max_size=3)),
        virtual=draw(st.lists(st.sampled_from([VIRTUAL, "10.96.0.11"]), min_size=1, unique=True)),
    )


@settings(max_examples=80, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_after_any_changes_the_tables_mean_what_a_fresh_compile_means_and_never_dangle(data):
    store = Watched()
    tables = Tables(store)
    for generation in range(1, 5):
        numbers = data.draw(st.lists(st.sampled_from([1, 2, 3]), unique=True))
        slices = [data.draw(pools(number, generation)) for number in numbers]
        if data.draw(st.booleans()):
            tables = Tables(store)
            tables.adopt()
        tables.apply(slices)
        assert store.meaning() == fresh(*slices)


def test_a_server_with_a_draining_and_a_ready_record_is_ready_and_names_the_ready_ones_port():
    both = pool_slice({"old": "10.0.0.1", "new": "10.0.0.1"}, states={"old": "Draining", "new": "Ready"})
    for pieces in ([both], [both.model_copy(update={"spec": both.spec.model_copy(update={"assignments": both.spec.assignments[::-1]})})]):
        fragment = compile_pool(pieces)
        assert list(fragment.servers.values()) == [records.ServerState.READY]
        (wanted,) = fragment.sets.values()
        assert wanted.members == ((7, "10.0.0.1"),)
        named = records.unpack_server_port(fragment.server_ports[records.pack_server_port_key("10.0.0.1", 80, 7)])
        assert named.services == (20_002,)
        assert {fragment.server_ports[records.pack_server_port_key("10.0.0.1", port)] for port in (20_001, 20_002)} == {
            records.pack_server_port(7, 8080)}


def test_a_pool_that_no_set_holds_keeps_its_former_tables_and_no_other_pool_feels_it():
    engine = Engine()
    tables = Tables(engine)
    tables.apply([pool_slice(SHOP)])
    crowd = {f"s{n}": f"10.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(records.SET_SLOTS + 1)}
    ports = {name: [1000 + n] for n, name in enumerate(crowd)}
    other = pool_slice({"z": "10.9.9.9"}, scope=9, name="other", virtual=["10.96.0.99"])
    sets = dict(engine.items("sets"))
    tables.apply([pool_slice(crowd, ports=ports, generation=2), other])
    assert list(tables.faults) == ["pool-shop"]
    assert "4094 ready servers" in tables.faults["pool-shop"]
    assert sets.items() <= dict(engine.items("sets")).items()
    assert len(engine.items("addresses")) == 2
    tables.apply([pool_slice(SHOP, generation=3), other])
    assert tables.faults == {}


def test_a_new_process_that_cannot_compile_a_pool_leaves_its_predecessors_tables_alone():
    engine = Engine()
    Tables(engine).apply([pool_slice(SHOP)])
    found = {table: dict(engine.items(table)) for table in WRITE_ORDER}
    crowd = {f"s{n}": f"10.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(records.SET_SLOTS + 1)}
    overgrown = pool_slice(crowd, ports={name: [1000 + n] for n, name in enumerate(crowd)}, generation=2)
    successor = Tables(engine)
    successor.adopt()
    successor.apply([overgrown])
    assert {table: dict(engine.items(table)) for table in WRITE_ORDER} == found
    successor.apply([pool_slice(SHOP, generation=3)])
    assert {table: len(engine.items(table)) for table in WRITE_ORDER} == {table: len(of) for table, of in found.items()}


def test_indexes_wrap_to_those_that_were_given_back_and_say_when_none_is_left():
    indexes = Indexes({8, 9, 10}, 10)
    assert [indexes.of(name) for name in "abcdefg"] == [1, 2, 3, 4, 5, 6, 7]
    indexes.release("c")
    assert indexes.of("h") == 3
    with pytest.raises(OSError, match="all 10 indexes"):
        indexes.of("i")


def test_a_deleted_pool_has_no_virtual_address_and_its_servers_ports_work_on():
    watched = Watched()
    tables = Tables(watched)
    piece = pool_slice(SHOP)
    tables.apply([piece])
    ports = watched.server_ports()
    gone = piece.model_copy(update={
        "metadata": piece.metadata.model_copy(update={"generation": 2}),
        "spec": piece.spec.model_copy(update={"pool": piece.spec.pool.model_copy(update={"deleted_at": datetime(2026, 1, 1, tzinfo=UTC)})})})
    tables.apply([gone, pool_slice({"a": A}, name="again", scope=8, ports={"a": [20_009]})])
    assert watched.server_ports().items() > ports.items()
    found = [entry for page in watched.numbers("pages").values() for entry in records.unpack_page(page).values()]
    scopes = {(kind, records.unpack_set(watched.numbers("sets")[index]).scope if kind is records.PortKind.SET
               else records.unpack_server(watched.numbers("servers")[index]).scope) for kind, index in found}
    assert scopes == {(records.PortKind.SET, 8), (records.PortKind.SERVER, 8)}

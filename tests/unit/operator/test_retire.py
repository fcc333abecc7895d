"""A deleted pool's slices: grace, rest, end. Seen through the cluster in memory; the writes on a small API server."""

import asyncio

import pytest
from unit.operator.apiserver import served
from unit.operator.world import EPOCH, SYSTEM, shop
from wharfinger_api import dump
from wharfinger_operator.apply import Applier, retired_body
from wharfinger_operator.index import Index
from wharfinger_operator.retire import retire
from wharfinger_operator.seeing import list_all
from wharfinger_operator.snapshot import Snapshot
from wharfinger_operator.telemetry import Telemetry

GRACE_S, REST_S = 30, 60


def step(world, acknowledge=True):
    """One step of the retirement, written; whether there was anything to write."""
    made = retire(world.planner.index, world.now, GRACE_S)
    for piece, spec in (*made.begun, *made.writes):
        body = retired_body(piece, spec)
        assert body["metadata"].pop("resourceVersion") == world.raw["ServicePortSlice", *piece.key]["metadata"]["resourceVersion"]
        world.put("ServicePortSlice", *piece.key, body)
    for piece in made.deletions:
        world.delete("ServicePortSlice", *piece.key)
    if acknowledge:
        world.acknowledge()
    return bool(made.begun or made.writes or made.deletions)


def rest(world, **options):
    """Steps until nothing is left to write."""
    for _ in range(6):
        if not step(world, **options):
            return
    raise AssertionError("the retirement does not come to rest")


def deleted(**options):
    world = shop(**options)
    world.settle()
    world.delete("ServicePortPool", "shop", "web")
    rest(world)
    return world


def test_a_deleted_pools_servers_drain_and_keep_their_ports_for_the_grace():
    world = deleted()
    assert world.ports("Draining") == {"shop/a": [20000], "shop/b": [20001], "shop/c": [20002]}
    world.later(GRACE_S - 1)
    rest(world)
    assert set(world.states().values()) == {"Draining"}


def test_after_the_grace_the_ports_rest_and_then_the_slices_go():
    world = deleted()
    world.later(GRACE_S)
    rest(world)
    assert set(world.states().values()) == {"Resting"}
    world.later(REST_S - 1)
    rest(world)
    assert set(world.states().values()) == {"Resting"}
    world.later(1)
    rest(world)
    assert world.slices() == {}


def test_a_server_that_is_gone_rests_at_once():
    world = deleted()
    world.delete("Pod", "shop", "b")
    rest(world)
    assert world.states() == {"shop/a": "Draining", "shop/b": "Resting", "shop/c": "Draining"}


def test_ports_are_held_until_every_node_has_said_that_they_rest():
    world = deleted()
    world.later(GRACE_S)
    rest(world, acknowledge=False)
    world.later(REST_S + 1)
    world.acknowledge("n1")
    rest(world, acknowledge=False)
    assert set(world.states().values()) == {"Resting"}
    world.acknowledge("n2")
    rest(world, acknowledge=False)
    assert world.slices() == {}


def test_the_grace_survives_the_operator():
    world = deleted()
    world.later(GRACE_S - 1)
    world.restart()
    rest(world)
    assert set(world.states().values()) == {"Draining"}
    world.later(1)
    rest(world)
    assert set(world.states().values()) == {"Resting"}


def test_a_pool_made_anew_gets_other_ports_beside_its_predecessors():
    world = deleted()
    world.pool()
    world.settle()
    assert world.ports("Ready") == {"shop/a": [20003], "shop/b": [20004], "shop/c": [20005]}
    assert world.ports("Draining") == {"shop/a": [20000], "shop/b": [20001], "shop/c": [20002]}
    assert {raw["spec"]["pool"].get("deletedAt") is None for raw in world.slices().values()} == {True, False}


def test_slices_of_a_pool_that_lives_are_left_alone():
    world = shop()
    world.settle()
    assert retire(world.planner.index, world.now, GRACE_S).begun == retire(world.planner.index, world.now, GRACE_S).writes == ()


def test_a_pool_that_is_being_deleted_is_as_good_as_deleted():
    world = shop()
    world.settle()
    world.put("ServicePortPool", "shop", "web", {"metadata": {"deletionTimestamp": "2026-11-21T09:00:00Z"}})
    rest(world)
    assert set(world.states().values()) == {"Draining"}


def test_it_looks_again_when_the_grace_and_the_rest_run_out():
    world = deleted()
    assert (retire(world.planner.index, world.now, GRACE_S).look_again - world.now).total_seconds() == GRACE_S
    world.later(GRACE_S)
    rest(world)
    assert (retire(world.planner.index, world.now, GRACE_S).look_again - world.now).total_seconds() == REST_S


def on_a_server(scenario):
    """`scenario` with the API server, which has the shop and no pool that the snapshot has seen, and a step that retires."""
    async def main():
        world = shop(servers=("a",))
        world.settle()
        async with served() as (server, client):
            server.objects.update(world.raw)
            pool = server.objects.pop(("ServicePortPool", "shop", "web"))
            snapshot = Snapshot(SYSTEM)
            await list_all(client, snapshot, SYSTEM, lambda: EPOCH)
            applier = Applier(client, snapshot, Telemetry(), lambda: True, lambda: EPOCH)
            await scenario(server, pool, lambda: applier.retire(retire(Index(snapshot), EPOCH, GRACE_S)))

    asyncio.run(main())


SLICE = ("ServicePortSlice", "shop", "web-0")


def test_a_deletion_is_written_into_the_slice_when_the_api_server_confirms_it():
    async def scenario(server, pool, act):
        assert await act()
        assert server.objects[SLICE]["spec"]["pool"]["deletedAt"] == dump_time(EPOCH)
        assert [record["state"] for record in server.objects[SLICE]["spec"]["assignments"]] == ["Draining"]

    on_a_server(scenario)


def dump_time(moment):
    return moment.isoformat().replace("+00:00", "Z")


def test_a_pool_that_is_there_but_was_not_understood_keeps_its_slices():
    async def scenario(server, pool, act):
        server.objects["ServicePortPool", "shop", "web"] = pool
        before = server.objects[SLICE]
        assert await act()
        assert server.objects[SLICE] == before

    on_a_server(scenario)


def test_a_pool_of_the_same_name_is_another_pool():
    async def scenario(server, pool, act):
        server.objects["ServicePortPool", "shop", "web"] = {**pool, "metadata": {**pool["metadata"], "uid": "another"}}
        assert await act()
        assert "deletedAt" in server.objects[SLICE]["spec"]["pool"]

    on_a_server(scenario)


@pytest.mark.parametrize("status", [500, 403])
def test_a_deletion_that_cannot_be_confirmed_waits(status):
    async def scenario(server, pool, act):
        before = server.objects[SLICE]
        server.fail = [status]
        assert not await act()
        assert server.objects[SLICE] == before
        assert await act()
        assert "deletedAt" in server.objects[SLICE]["spec"]["pool"]

    on_a_server(scenario)


def test_what_is_written_can_be_read():
    world = deleted()
    (piece,) = world.snapshot.slices.values()
    assert dump(piece.spec)["pool"]["deletedAt"] == dump_time(EPOCH)

"""What is written, what is not, and what becomes of a write that fails."""

import asyncio
import itertools
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from unit.operator.apiserver import served
from unit.operator.world import EPOCH, SYSTEM, shop
from wharfinger_operator import seeing
from wharfinger_operator.apply import Applier, event_body, slice_body
from wharfinger_operator.difference import difference
from wharfinger_operator.planner import plan
from wharfinger_operator.seeing import list_all, watch
from wharfinger_operator.snapshot import Snapshot
from wharfinger_operator.telemetry import Telemetry
from wharfinger_operator.worker import Worker

SLICE = ("ServicePortSlice", "shop", "web-0")


class Desk:
    """An operator's inside on a small API server that has the shop's objects."""

    def __init__(self, server, client):
        self.server, self.client = server, client
        self.now = EPOCH
        self.allowed = True
        self.snapshot = Snapshot(SYSTEM)
        self.applier = Applier(client, self.snapshot, Telemetry(), lambda: self.allowed, lambda: self.now)

    async def look(self):
        await list_all(self.client, self.snapshot, SYSTEM, lambda: self.now)

    async def step(self):
        """Plans and writes once; whether all could be written, and which requests it took."""
        before = len(self.server.requests)
        done = await self.applier.apply(plan(self.snapshot, self.now), 1)
        return done, self.server.requests[before:]


@asynccontextmanager
async def desk():
    world = shop(servers=("a",))
    async with served() as (server, client):
        server._versions = itertools.count(1000)
        for (kind, namespace, name), raw in world.raw.items():
            server.objects[kind, namespace, name] = raw
        made = Desk(server, client)
        await made.look()
        yield made


def run(scenario):
    async def main():
        async with desk() as made:
            await scenario(made)

    asyncio.run(main())


def test_plan_is_written_once_and_then_stands():
    async def scenario(desk):
        done, requests = await desk.step()
        assert done
        assert requests[0] == ("POST", "/apis/wharfinger.io/v1alpha1/namespaces/shop/serviceportslices")
        assert not [path for method, path in requests if method == "PATCH"]
        _, requests = await desk.step()
        assert {path.rpartition("/")[2] for method, path in requests if method == "PATCH"} == {"status"}
        assert await desk.step() == (True, [])

    run(scenario)


def test_own_write_is_seen_before_any_watch_tells_of_it():
    async def scenario(desk):
        await desk.step()
        assert desk.snapshot.slices["shop", "web-0"].metadata.resource_version == desk.server.objects[SLICE]["metadata"]["resourceVersion"]
        assert not difference(plan(desk.snapshot, desk.now)).pools

    run(scenario)


def test_slice_changed_by_another_is_read_again_and_not_overwritten():
    async def scenario(desk):
        await desk.step()
        theirs = desk.server.put(*SLICE, {**desk.server.objects[SLICE], "spec": {
            **desk.server.objects[SLICE]["spec"], "scope": 77}})
        desk.server.put("Pod", "shop", "b", {**desk.server.objects["Pod", "shop", "a"], "metadata": {
            **desk.server.objects["Pod", "shop", "a"]["metadata"], "uid": "b"}})
        desk.snapshot.put("Pod", desk.server.objects["Pod", "shop", "b"], desk.now)
        done, _ = await desk.step()
        assert not done
        assert desk.snapshot.slices["shop", "web-0"].spec.scope == 77
        assert desk.server.objects[SLICE] == theirs
        done, _ = await desk.step()
        assert done
        assert [record["server"] for record in desk.server.objects[SLICE]["spec"]["assignments"]] == ["shop/a", "shop/b"]

    run(scenario)


def test_nothing_is_written_without_the_lease():
    async def scenario(desk):
        desk.allowed = False
        assert await desk.step() == (False, [])

    run(scenario)


@pytest.mark.parametrize("status", [403, 500, 429])
def test_refused_write_is_left_to_the_next_plan(status):
    async def scenario(desk):
        desk.server.fail = [status]
        done, _ = await desk.step()
        assert not done
        assert (await desk.step())[0]
        assert SLICE in desk.server.objects

    run(scenario)


def test_event_is_posted_once_an_hour_while_its_cause_stands():
    async def scenario(desk):
        del desk.server.objects["Service", "shop", "web"]
        await desk.look()
        await desk.step()
        events = [key for key in desk.server.objects if key[0] == "Event"]
        assert events
        _, requests = await desk.step()
        assert not [path for _, path in requests if path.endswith("/events")]
        for key in events:
            del desk.server.objects[key]
        desk.now += timedelta(hours=1)
        _, requests = await desk.step()
        assert [path for _, path in requests if path.endswith("/events")]

    run(scenario)


def test_event_names_its_object_and_has_one_name_for_one_saying():
    world = shop(servers=("a",), last=20000)
    world.step()
    (event,) = [event for event in world.events if event.reason == "InsufficientPorts"]
    body = event_body(event, world.now)
    assert (body["involvedObject"]["kind"], body["involvedObject"]["name"], body["type"]) == ("ServicePortPool", "web", "Warning")
    assert body["metadata"]["name"] == event_body(event, world.now + timedelta(hours=3))["metadata"]["name"]


def test_slice_of_a_new_pool_has_no_precondition_and_a_changed_one_has():
    world = shop(servers=("a",))
    new = difference(plan(world.snapshot, world.now)).pools[0].writes[0]
    assert "resourceVersion" not in slice_body(new, "context")["metadata"]
    world.settle()
    world.pod("b")
    old = difference(plan(world.snapshot, world.now)).pools[0].writes[0]
    body = slice_body(old, "context")
    assert body["metadata"]["resourceVersion"] == world.raw[SLICE]["metadata"]["resourceVersion"]
    assert body["metadata"]["annotations"] == {"wharfinger.io/traceparent": "context"}


def test_worker_plans_when_roused_and_when_the_time_comes():
    async def scenario(desk):
        worker = Worker(desk.snapshot, desk.applier, lambda: desk.now, 0.001)
        running = asyncio.create_task(worker.run())
        worker.notify()
        await until(lambda: SLICE in desk.server.objects)
        await until(lambda: worker.look_again is not None)
        before = worker.look_again
        # The agents' Leases run out; nobody rouses the worker.
        desk.now = before + timedelta(seconds=1)
        worker.notify()
        await until(lambda: worker.look_again != before)
        await stop(running)

    run(scenario)


def test_worker_tries_again_what_could_not_be_written():
    async def scenario(desk):
        worker = Worker(desk.snapshot, desk.applier, lambda: desk.now, 0.001)
        desk.server.fail = [500]
        running = asyncio.create_task(worker.run())
        worker.notify()
        await until(lambda: SLICE in desk.server.objects)
        await stop(running)

    run(scenario)


@asynccontextmanager
async def watched(desk, kind="Lease"):
    """The kind, watched from what the desk has seen; a list of one item for each time that the worker was roused."""
    told = []
    _, versions = await list_all(desk.client, desk.snapshot, SYSTEM, lambda: desk.now, [kind])
    running = asyncio.create_task(
        watch(desk.client, desk.snapshot, kind, SYSTEM, versions[kind], lambda: desk.now, lambda: told.append(1)))
    await until(lambda: desk.server.watching)
    yield told
    await stop(running)


def test_watch_goes_on_where_it_ended():
    async def scenario(desk):
        async with watched(desk) as told:
            raw = desk.server.objects["Lease", SYSTEM, "wharfinger-agent-n1"]
            desk.server.put("Lease", SYSTEM, "wharfinger-agent-n7", {"spec": raw["spec"]})
            await until(lambda: "n7" in desk.snapshot.agents)
            version = desk.server.objects["Lease", SYSTEM, "wharfinger-agent-n7"]["metadata"]["resourceVersion"]
            desk.server.end_watch()
            await until(lambda: desk.server.watching[-1] == version)
            assert told

    run(scenario)


def test_watch_that_breaks_is_followed_by_a_listing_that_tells_what_is_gone(monkeypatch):
    monkeypatch.setattr(seeing, "RETRY_S", 0.01)

    async def scenario(desk):
        async with watched(desk) as told:
            del desk.server.objects["Lease", SYSTEM, "wharfinger-agent-n2"]
            desk.server.break_watch("too old resource version")
            await until(lambda: "n2" not in desk.snapshot.agents)
            await until(lambda: len(desk.server.watching) == 2)
            assert told

    run(scenario)


def test_watch_event_may_be_longer_than_a_buffer():
    async def scenario(desk):
        async with watched(desk, "NodeReport"):
            slices = {"version": "7", "except": [{"namespace": "shop", "name": f"pool-{number}", "uid": f"u{number}"} for number in range(5000)]}
            desk.server.put("NodeReport", "", "n1", {"apiVersion": "wharfinger.io/v1alpha1", "status": {"slices": slices}})
            await until(lambda: len(desk.snapshot.reports["", "n1"].exceptions) == 5000)

    run(scenario)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def stop(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

"""Two writers never: who may write, and when. Time is the test's."""

import asyncio

import pytest
from unit.operator.apiserver import served
from wharfinger_operator.client import Unavailable
from wharfinger_operator.lease import LostLease, OperatorLease

KEY = ("Lease", "system", "wharfinger-operator")


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def lease(client, name, clock):
    return OperatorLease(client, "system", name, duration_s=15, renew_s=0.001, clock=clock)


def run(scenario):
    async def main():
        async with served() as (server, client):
            await scenario(server, client, Clock())

    asyncio.run(main())


def test_first_operator_has_the_lease_and_the_second_has_not():
    async def scenario(server, client, clock):
        first, second = lease(client, "one", clock), lease(client, "two", clock)
        await first.acquire()
        assert not await second._try()
        assert (first.held(), second.held()) == (True, False)
        assert server.objects[KEY]["spec"]["holderIdentity"] == "one"

    run(scenario)


def test_restarted_container_of_the_same_pod_goes_on_at_once():
    async def scenario(server, client, clock):
        await lease(client, "one", clock).acquire()
        again = lease(client, "one", clock)
        assert await again._try()
        assert server.objects[KEY]["spec"]["leaseTransitions"] == 1

    run(scenario)


def test_dead_operators_lease_is_taken_only_after_its_duration_as_seen_from_here():
    async def scenario(server, client, clock):
        first, second = lease(client, "one", clock), lease(client, "two", clock)
        await first.acquire()
        assert not await second._try()
        clock.seconds += 15
        assert not await second._try()
        clock.seconds += 0.1
        assert await second._try()
        assert not first.held()

    run(scenario)


def test_holder_stops_writing_well_before_another_may_begin():
    async def scenario(server, client, clock):
        first = lease(client, "one", clock)
        await first.acquire()
        clock.seconds += 8.9
        assert first.held()
        clock.seconds += 0.2
        assert not first.held()

    run(scenario)


def test_holder_that_finds_another_in_its_place_ends():
    async def scenario(server, client, clock):
        first = lease(client, "one", clock)
        await first.acquire()
        stolen = server.objects[KEY]["spec"] | {"holderIdentity": "two"}
        server.put(*KEY, {"spec": stolen})
        with pytest.raises(LostLease):
            await first.keep()
        assert not first.held()

    run(scenario)


def test_holder_that_cannot_renew_goes_on_for_a_while_and_then_ends():
    async def scenario(server, client, clock):
        first = lease(client, "one", clock)
        await first.acquire()
        server.fail = [500, 500, 500]
        renewals = asyncio.create_task(first.keep())
        while server.fail:
            await asyncio.sleep(0.001)
        assert not renewals.done()
        server.fail = [500] * 1000
        clock.seconds += 10
        with pytest.raises(LostLease):
            await renewals

    run(scenario)


def test_lease_that_was_given_up_is_free_at_once():
    async def scenario(server, client, clock):
        first, second = lease(client, "one", clock), lease(client, "two", clock)
        await first.acquire()
        await first.release()
        assert not first.held()
        assert await second._try()

    run(scenario)


def test_refusal_by_the_server_is_not_taken_for_an_answer():
    async def scenario(server, client, clock):
        server.fail = [503]
        with pytest.raises(Unavailable):
            await lease(client, "one", clock)._try()

    run(scenario)

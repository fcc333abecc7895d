"""What the operator tells probes and scrapers."""

import asyncio
from contextlib import suppress

import aiohttp
from unit.operator.apiserver import served as api
from unit.operator.world import shop
from wharfinger_operator import metrics
from wharfinger_operator.client import ClientError
from wharfinger_operator.metrics import Counts


def test_health_and_metrics_are_served():
    async def main():
        runner = await metrics.served(Counts(plans=3), shop().snapshot, 0)
        port = next(address[1] for address in runner.addresses if address[0] == "0.0.0.0")
        async with aiohttp.ClientSession(base_url=f"http://127.0.0.1:{port}") as session:
            async with session.get("/healthz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
            async with session.get("/metrics") as answer:
                assert answer.content_type == "text/plain"
                assert "wharfinger_operator_plans_total 3" in (await answer.text()).splitlines()
        await runner.cleanup()

    asyncio.run(main())


def test_ports_are_told_by_state():
    world = shop()
    world.settle()
    lines = metrics.text(Counts(), world.snapshot).splitlines()
    assert 'wharfinger_operator_service_ports{state="used"} 3' in lines
    assert 'wharfinger_operator_service_ports{state="free"} 97' in lines
    assert "wharfinger_operator_pools 1" in lines


def test_each_request_is_counted_by_method_and_kind():
    async def main():
        async with api() as (server, client):
            await client.list("Pod")
            server.fail = [500]
            with suppress(ClientError):
                await client.create("Event", "shop", {"metadata": {"name": "e"}})
            assert dict(client.counted) == {("GET", "pods"): 1, ("POST", "events"): 1}

    asyncio.run(main())

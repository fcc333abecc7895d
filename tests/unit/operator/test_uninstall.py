"""The uninstallation's two hooks against a small API server; agents and Helm are the cluster tests'."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from unit.operator.apiserver import served
from unit.operator.world import stamp
from wharfinger_operator.uninstall._clean import clean, writers
from wharfinger_operator.uninstall._leave import Agents, agents, leave
from wharfinger_operator.uninstall._settings import SettingsError, UninstallSettings, settings_from

SETTINGS = UninstallSettings("system", "wharfinger", "hooks", "certificates", grace_s=0, keep_pools=False, margin_s=1, poll_s=0.01)
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def lease(node, age_s=0.0):
    spec = {"renewTime": stamp(NOW - timedelta(seconds=age_s)), "leaseDurationSeconds": 40}
    return {"metadata": {"name": f"wharfinger-agent-{node}"}, "spec": spec}


def report(node, *conditions):
    told = [{"type": kind, "status": status, "message": "left"} for kind, status in conditions]
    return {"metadata": {"name": node}, "status": {"conditions": told}}


def test_an_agent_has_left_when_its_report_says_so():
    assert agents([lease("a"), lease("b")], [report("a", ("Detached", "True")), report("b", ("Detached", "False"))], NOW) == Agents(
        {"a": "left"}, ("b",), ())


def test_an_agent_without_a_sign_of_life_is_not_waited_for():
    assert agents([lease("a", 41), lease("b", 39)], [report("a"), report("b")], NOW) == Agents({}, ("b",), ("a",))


def test_an_agent_that_left_and_ended_since_has_left():
    assert agents([lease("a", 41)], [report("a", ("Detached", "True"))], NOW) == Agents({"a": "left"}, (), ())


def test_a_lease_of_a_node_that_is_gone_is_nobodys():
    assert agents([lease("a", 900)], [], NOW) == Agents({}, (), ())


def test_leases_of_others_are_no_agents():
    assert agents([{"metadata": {"name": "wharfinger-operator"}, "spec": lease("x")["spec"]}], [], NOW) == Agents({}, (), ())


def run(scenario):
    async def main():
        async with served() as (server, client):
            await scenario(server, client)

    asyncio.run(main())


def put_agent(server, node, detached):
    server.put("Lease", "system", f"wharfinger-agent-{node}", {"spec": {"renewTime": stamp(datetime.now(UTC)), "leaseDurationSeconds": 40}})
    server.put("NodeReport", "", node, {"status": {"conditions": [{"type": "Detached", "status": detached, "message": f"{node} has left"}]}})


def test_the_webhook_goes_first_and_then_the_marker_says_what_grace_there_is(capsys):
    async def scenario(server, client):
        server.put("MutatingWebhookConfiguration", "", "hooks", {})
        put_agent(server, "a", "True")
        assert await leave(client, replace(SETTINGS, grace_s=60))
        assert ("MutatingWebhookConfiguration", "", "hooks") not in server.objects
        assert server.objects["ConfigMap", "system", "wharfinger-uninstall"]["data"] == {"gracePeriodSeconds": "60"}
        assert [method for method, _ in server.requests[:2]] == ["DELETE", "POST"]

    run(scenario)
    assert "a: a has left" in capsys.readouterr().out


def test_every_live_agent_is_waited_for():
    async def scenario(server, client):
        put_agent(server, "a", "True")
        put_agent(server, "b", "False")
        waiting = asyncio.create_task(leave(client, replace(SETTINGS, margin_s=60)))
        while sum(method == "GET" for method, _ in server.requests) < 8:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        put_agent(server, "b", "True")
        assert await waiting

    run(scenario)


def test_an_agent_that_does_not_leave_holds_nobody_up_and_is_named_with_the_remedy(capsys):
    async def scenario(server, client):
        put_agent(server, "a", "False")
        assert await leave(client, SETTINGS)

    run(scenario)
    assert "a: its agent has not left in time: " in (said := capsys.readouterr().out)
    assert "remove /sys/fs/bpf/wharfinger" in said


def test_a_refusal_is_tried_again():
    async def scenario(server, client):
        server.fail = [403, 500]  # as while rights are new
        assert await leave(client, SETTINGS)
        assert ("ConfigMap", "system", "wharfinger-uninstall") in server.objects

    run(scenario)


def test_nobody_to_ask_is_a_failure():
    async def scenario(server, client):
        server.fail = [500] * 10_000
        assert not await leave(client, SETTINGS)

    run(scenario)


def fill(server):
    for kind, namespace, name in (("ServicePortPool", "shop", "web"), ("RedirectPortPool", "shop", "web-80"), ("ServicePortSlice", "shop", "web-0"),
                                  ("NodeReport", "", "a"), ("Lease", "system", "wharfinger-agent-a"), ("Lease", "system", "wharfinger-operator"),
                                  ("Lease", "system", "other"), ("Secret", "system", "certificates"), ("Secret", "system", "other"),
                                  ("ConfigMap", "system", "wharfinger-uninstall")):
        server.put(kind, namespace, name, {})


OTHERS = {("Lease", "system", "other"), ("Secret", "system", "other")}


def test_all_that_the_release_wrote_is_removed_and_nothing_else():
    async def scenario(server, client):
        fill(server)
        assert await clean(client, SETTINGS)
        assert server.objects.keys() == OTHERS

    run(scenario)


def test_pools_can_be_kept():
    async def scenario(server, client):
        fill(server)
        assert await clean(client, replace(SETTINGS, keep_pools=True))
        assert server.objects.keys() == OTHERS | {("ServicePortPool", "shop", "web"), ("RedirectPortPool", "shop", "web-80")}

    run(scenario)


def pod(name, component, release="wharfinger"):
    return {"metadata": {"name": name, "labels": {"app.kubernetes.io/instance": release, "app.kubernetes.io/component": component}}}


def test_nothing_is_removed_while_a_process_of_the_release_could_write_it_again():
    async def scenario(server, client):
        fill(server)
        server.put("Pod", "system", "agent-1", pod("agent-1", "agent"))
        cleaning = asyncio.create_task(clean(client, SETTINGS))
        while len(server.requests) < 5:
            await asyncio.sleep(0.01)
        assert not [request for request in server.requests if request[0] == "DELETE"]
        del server.objects["Pod", "system", "agent-1"]
        assert await cleaning

    run(scenario)


def test_the_hooks_own_pod_and_other_releases_are_no_writers():
    assert writers([pod("a", "agent"), pod("b", "uninstall"), pod("c", "operator", "other"), {"metadata": {"name": "d"}}], "wharfinger") == ["a"]


@pytest.mark.parametrize(("name", "value"), [("WHARFINGER_GRACE_S", "soon"), ("WHARFINGER_KEEP_POOLS", "maybe"), ("WHARFINGER_RELEASE", "")])
def test_a_wrong_setting_is_named(name, value):
    environment = {"POD_NAMESPACE": "n", "WHARFINGER_RELEASE": "r", "WHARFINGER_WEBHOOK_CONFIGURATION": "w", "WHARFINGER_CERTIFICATE_SECRET": "c",
                   "WHARFINGER_GRACE_S": "60", "WHARFINGER_KEEP_POOLS": "false"}
    assert settings_from(environment).grace_s == 60
    with pytest.raises(SettingsError, match=name):
        settings_from(environment | {name: value})

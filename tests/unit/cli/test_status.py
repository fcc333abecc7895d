"""`wharfinger status`: what is wrong, where, and the remedy."""

from dataclasses import replace
from datetime import timedelta

import pytest
from rich.console import Console
from unit.cli.objects import NOW, installation, pools, redirect_pool, report, service_pool, workload
from wharfinger_api import Effect, Finding
from wharfinger_cli._seen import AgentLease, Installation, Pools
from wharfinger_cli.status import build_status, print_status


def problems(seen=None, found=None):
    return [(problem.where, problem.what) for problem in build_status(seen or installation(), found or pools()).problems]


def agents(**changes):
    first, *others = installation().agents
    return (replace(first, **changes), *others)


def test_when_all_is_well_no_problem_is_told():
    view = build_status(installation(), pools())
    assert view.problems == ()
    assert [(found.component, found.ready, found.wanted) for found in view.components] == [
        ("operator", 1, 1), ("injector", 2, 2), ("agent", 2, 2)]
    assert (view.pools_programmed, view.pools) == (2, 2)


def test_a_node_shows_its_agent_version_lease_and_slices():
    node = build_status(installation(), pools()).nodes[0]
    assert (node.node, node.agent, node.version, node.lease, node.lease_age_s) == ("node-1", "ready", "0.1.0", "live", 4)
    assert (node.slices_current, node.slices, node.clients) == (1, 1, 1)
    assert (node.kernel, node.attach_mode) == ("6.12.3-cloud", "tcx")


def test_without_a_release_each_component_is_missing_and_the_remedy_installs_it():
    view = build_status(Installation(now=NOW, nodes=("node-1",)), Pools())
    assert [problem.where for problem in view.problems] == ["operator", "injector", "agent"]
    assert all("helm install" in problem.remedy for problem in view.problems)


@pytest.mark.parametrize("component, consequence", [("operator", "neither given nor freed"), ("injector", "without the sidecar")])
def test_a_component_without_a_ready_pod_says_what_does_not_happen(component, consequence):
    others = tuple(found for found in installation().workloads if found.component != component)
    (problem,) = problems(installation(workloads=(*others, workload(component, 2, 0))))
    assert component in problem[0]
    assert "none of 2 pods" in problem[1]
    assert consequence in problem[1]


def test_an_operator_scaled_to_nothing_is_a_problem():
    (problem,) = problems(installation(workloads=(workload("operator", 0, 0), *installation().workloads[1:])))
    assert "scaled to 0" in problem[1]


def test_an_agent_that_crashes_is_named_with_its_reason():
    assert problems(installation(agents=agents(ready=False, trouble="CrashLoopBackOff"))) == [
        ("node node-1", "its agent is not ready (CrashLoopBackOff)")]


def test_of_two_agents_of_a_node_the_ready_one_counts():
    old = replace(installation().agents[0], name="old", ready=False)
    assert problems(installation(agents=(old, *installation().agents))) == []


def test_a_late_heartbeat_is_a_problem():
    late = AgentLease("node-1", NOW - timedelta(seconds=41), 40)
    assert problems(installation(leases=(late, installation().leases[1]))) == [
        ("node node-1", "its agent's heartbeat is late (renewed 41 s ago)")]


def test_a_missing_heartbeat_is_a_problem():
    assert problems(installation(leases=installation().leases[1:])) == [("node node-1", "its agent's heartbeat is none (renewed never)")]


def test_a_node_without_the_agents_pod_that_it_should_have_is_a_problem():
    assert problems(installation(agents=installation().agents[1:])) == [("node node-1", "has no agent's pod")]


def test_a_node_that_the_daemon_set_leaves_out_is_none():
    seen = installation(agents=installation().agents[1:], leases=installation().leases[1:],
                        workloads=(*installation().workloads[:2], workload("agent", 1, 1, "DaemonSet")))
    assert problems(seen) == []
    assert build_status(seen, pools()).nodes[0].agent == "none"


def test_a_node_with_older_tables_is_named_with_the_slice():
    behind = pools(reports=(report("node-1", version=0), report("node-2")))
    assert problems(found=behind) == [("node node-1", "has not programmed the latest of shop/shop-0")]


def test_a_node_without_a_report_is_a_problem():
    assert problems(found=pools(reports=(report("node-2"),))) == [("node node-1", "its agent has not written its NodeReport")]


def test_an_agent_that_says_it_is_not_ready_is_believed():
    assert problems(found=pools(reports=(report("node-1", ready="False"), report("node-2")))) == [
        ("node node-1", "its agent is not Ready (Attached)")]


def test_a_pool_that_is_not_programmed_is_told_once_with_the_operators_own_words():
    fault = {"Programmed": ("ServersWaiting", "shop/shop-1 not attached yet; see the agent's log on node-2")}
    view = build_status(installation(), pools(services=(service_pool(**fault),), redirects=(redirect_pool(**fault),)))
    (problem,) = view.problems
    assert (problem.where, problem.what) == ("ServicePortPool shop/shop", "not Programmed (ServersWaiting)")
    assert problem.remedy == fault["Programmed"][1]


REFUSED = Finding(effect=Effect.REFUSED, where="Pod shop/client-1", reason="FiltersOfOthers", message="a limit is there", remedy="take it away")
STACK = Finding(effect=Effect.STACK, where="interface tunl0", reason="NoEthernetHeader", message="it has no header", remedy="none is needed")
NOTED = Finding(effect=Effect.NOTED, where="the node", reason="RulesByMark", message="rules ask for marks", remedy="none")


def test_a_pod_that_is_refused_a_translator_is_a_problem_and_what_takes_the_stack_is_a_note():
    view = build_status(installation(), pools(reports=(report("node-1", findings=(REFUSED, STACK, NOTED)), report("node-2"))))
    assert [(problem.where, problem.what, problem.remedy) for problem in view.problems] == [
        ("Pod shop/client-1", "has no translator on node node-1 (FiltersOfOthers): a limit is there", "take it away")]
    assert [(note.where, note.what) for note in view.notes] == [
        ("node node-1, interface tunl0", "it has no header (NoEthernetHeader)"), ("node node-1", "rules ask for marks (RulesByMark)")]
    assert "! node node-1, interface tunl0: it has no header (NoEthernetHeader)\n  → none is needed" in printed(view)


def test_the_text_puts_problems_first():
    view = build_status(installation(agents=agents(ready=False, trouble="CrashLoopBackOff")), pools())
    text = printed(view)
    assert text.startswith("✗ node node-1: its agent is not ready (CrashLoopBackOff)\n  → kubectl describe pod")
    assert "All is well" not in text


def test_the_text_of_a_healthy_cluster_ends_well():
    text = printed(build_status(installation(), pools()))
    assert "node-1   ready   0.1.0     6.12.3-cloud   tcx      live, 4s   1/1      0         1" in text
    assert text.endswith("2 of 2 pools are Programmed.\nAll is well.\n")


def printed(view):
    out = Console(width=200, no_color=True)
    with out.capture() as captured:
        print_status(view, out)
    return captured.get()

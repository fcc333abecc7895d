"""`wharfinger explain`: the chain's answers, with the engine's verdict."""

from dataclasses import replace

import pytest
from rich.console import Console
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from unit.cli.objects import CLIENT, VIRTUAL, assignment, pools, port_slice, report
from wharfinger_cli._endpoint import Endpoint, endpoint
from wharfinger_cli._errors import CliError, ExitCode
from wharfinger_cli._probe import probe, syn
from wharfinger_cli._seen import Pools
from wharfinger_cli.explain import build_explanation, print_explanation

FROM = Endpoint(CLIENT, 40000)


def explained(port, client=FROM, **changes):
    return build_explanation(pools(**changes), Endpoint(VIRTUAL, port), client, probe)


def answers(view):
    return {step.question: (step.holds, step.answer) for step in view.steps}


def test_a_redirect_port_is_explained_from_address_to_server():
    view = explained(80)
    assert [step.holds for step in view.steps] == [True] * 6
    assert (view.reason.name, view.reason.outcome) == ("client_syn", "forward")
    assert view.owner.kind == "RedirectPortPool"
    assert view.chosen.server in {"shop/shop-1", "shop/shop-2"}
    assert "of ServicePortPool shop/shop (scope 7)" in answers(view)["Is 10.96.0.10 a virtual address?"][1]
    assert f"which leads to {view.chosen.server}" in answers(view)["Which is it?"][1]


def test_the_server_is_the_one_that_the_agents_tables_choose():
    for port in range(40000, 40032):
        client = Endpoint(CLIENT, port)
        answer = probe([port_slice()], client, Endpoint(VIRTUAL, 80))
        assert explained(80, client).chosen.address == answer.server


def test_the_slot_is_the_one_that_leads_to_the_server():
    from wharfinger_dataplane import _records as records
    from wharfinger_dataplane._engine import Engine
    from wharfinger_dataplane.tables import Tables

    engine = Engine()
    Tables(engine).apply([port_slice()])
    ((_, packed),) = engine.items("sets")
    slots = records.unpack_set(packed).slots
    for port in range(40000, 40016):
        answer = probe([port_slice()], Endpoint(CLIENT, port), Endpoint(VIRTUAL, 80))
        assert answer.slots == len(slots) == 4093
        assert records.unpack_server(engine.get("servers", records.pack_index(slots[answer.slot]))).address == answer.server


def test_shares_of_ready_servers_are_even_and_make_one():
    view = explained(80, slices=(port_slice(assignment(1), assignment(2), assignment(3, "Draining")),))
    shares = {found.server: found.share for found in view.candidates}
    assert shares["shop/shop-3"] is None
    assert sum(share for share in shares.values() if share) == pytest.approx(1)
    assert shares["shop/shop-1"] == pytest.approx(0.5, abs=0.05)
    assert "2 of 3 are Ready (shop/shop-3 is Draining)" in answers(view)["Which servers may be chosen?"][1]


def test_without_a_client_a_hash_names_no_server_but_says_what_to_add():
    view = explained(80, client=None)
    assert view.chosen is None
    assert "--from" in answers(view)["Which is it?"][1]
    assert len(view.candidates) == 2


@pytest.mark.parametrize("policy", ["Random", "RoundRobin"])
def test_a_policy_that_decides_anew_names_no_server(policy):
    view = explained(80, slices=(port_slice(policy=policy),))
    assert view.chosen is None
    assert policy in answers(view)["Which is it?"][1]
    assert [found.share for found in view.candidates] == [0.5, 0.5]


def test_a_service_port_names_its_server_with_or_without_a_client():
    for client in (FROM, None):
        view = explained(20002, client=client)
        assert (view.reason.name, view.chosen.server, view.owner.server) == ("client_syn_service", "shop/shop-2", "shop/shop-2")
        assert view.chosen.service_ports == (20002,)


def test_an_address_of_no_pool_is_said_to_be_none_of_ours():
    view = build_explanation(pools(), Endpoint("10.96.0.11", 80), FROM, probe)
    assert (view.reason.name, view.owner, view.chosen) == ("not_virtual", None, None)
    assert "Those are 10.96.0.10" in answers(view)["Is 10.96.0.11 a virtual address?"][1]


def test_without_pools_there_is_no_virtual_address_yet():
    view = build_explanation(Pools(), Endpoint(VIRTUAL, 80), None, probe)
    assert "No pool has one yet" in view.steps[0].answer


def test_a_port_of_no_pool_is_unaware():
    view = explained(443)
    assert view.reason.name == "unknown_port"
    assert answers(view)["What is port 443?"][0] is False


def test_a_port_at_rest_belongs_to_nobody_until_it_is_given_again():
    view = explained(20001, slices=(port_slice(assignment(1, "Resting"), assignment(2)),))
    assert view.reason.name == "unknown_port"
    assert "at rest since 2026-11-21 09:00:00 UTC, once of shop/shop-1" in answers(view)["What is port 20001?"][1]


def test_without_a_ready_server_connections_are_unaware():
    view = explained(80, slices=(port_slice(assignment(1, "Assigned")),))
    assert view.reason.name == "no_server"
    assert answers(view)["Which servers may be chosen?"][0] is False


def test_a_server_is_not_chosen_for_its_own_connection():
    said = set()
    for port in range(40000, 40016):
        view = explained(80, client=Endpoint("10.244.2.1", port))
        assert view.chosen.server == "shop/shop-2"
        said.add("the client itself, so the next is taken: shop/shop-2" in answers(view)["Which is it?"][1])
    assert said == {True, False}
    alone = explained(80, client=Endpoint("10.244.2.1", 40000), slices=(port_slice(assignment(1)),))
    assert (alone.reason.name, alone.chosen) == ("own_server", None)


def test_a_client_that_no_agent_reports_is_told_to_be_unaware():
    view = explained(80, client=Endpoint("10.244.1.9", 40000))
    holds, answer = answers(view)["Is 10.244.1.9 an aware client?"]
    assert not holds
    assert "wharfinger.io/inject" in answer


def test_nodes_with_older_tables_are_named():
    view = explained(80, slices=(port_slice(generation=2),), reports=(report("node-1", version=2), report("node-2", version=1)))
    assert answers(view)["Do all nodes have these tables?"] == (False, "Not yet node-2: connections from there may go by older ones.")


def test_of_two_targets_only_the_ports_own_is_shown():
    both = assignment(1)["targets"] + [{"name": "admin", "protocol": "TCP", "targetPort": 9090, "servicePorts": [20500]}]
    view = explained(80, slices=(port_slice(assignment(1, targets=both)),))
    assert [found.service_ports for found in view.candidates] == [(20001,)]


def test_the_synthetic_syn_is_one_that_scapy_reads():
    packet = Ether(syn(FROM, Endpoint(VIRTUAL, 80)))
    assert (packet[IP].src, packet[IP].dst, packet[IP].len) == (CLIENT, VIRTUAL, 44)
    assert (packet[TCP].sport, packet[TCP].dport, packet[TCP].flags, packet[TCP].options) == (40000, 80, "S", [("MSS", 1460)])


def test_the_text_begins_with_the_verdict():
    view = explained(80)
    out = Console(width=200, no_color=True)
    with out.capture() as captured:
        print_explanation(view, out)
    lines = captured.get().splitlines()
    assert lines[0] == "10.96.0.10:80 from 10.244.1.7:40000"
    assert lines[1].startswith(f"→ {view.chosen.server} ({view.chosen.address} on node-2), Ready: service port 2000")
    assert lines[2] == "  because an aware SYN to a redirect port goes to a chosen server (client_syn)"


@pytest.mark.parametrize("text", ["10.96.0.10", "10.96.0.10:0", "10.96.0.10:65536", "shop:80", ":80", "10.96.0.10:http", "[fd00::1]:80"])
def test_what_is_no_end_point_is_refused_with_an_example(text):
    with pytest.raises(CliError) as caught:
        endpoint(text, "--from")
    assert caught.value.code is ExitCode.USAGE
    assert "10.96.0.10:80" in caught.value.remedy


def test_explaining_changes_nothing_that_was_read():
    found = pools()
    build_explanation(found, Endpoint(VIRTUAL, 80), FROM, probe)
    assert found == replace(found)


def test_a_server_that_a_policy_selects_is_named_with_the_policy():
    view = explained(80, slices=(port_slice(assignment(1), assignment(2, "Draining")),),
                     reports=(report("node-2", servers=[("shop/shop-2", "10.244.2.2", "shop/deny")]),))
    assert "1 of 2 are Ready (shop/shop-2 is Draining, as NetworkPolicy shop/deny selects it)." in answers(view)["Which servers may be chosen?"][1]


def test_a_service_port_of_a_server_that_a_policy_selects_takes_no_aware_connection():
    view = explained(20001, reports=(report("node-2", servers=[("shop/shop-1", "10.244.2.1", "shop/deny")]),))
    assert answers(view)["Which is it?"] == (
        False, "Its port names it, but NetworkPolicy shop/deny selects it for ingress: it takes no aware SYN.")


def test_a_client_that_a_policy_selects_is_unaware_by_the_engines_word():
    view = explained(80, reports=(report("node-1", clients=[("shop/client-0", CLIENT, "shop/deny")]),))
    assert (view.reason.name, view.reason.outcome, view.chosen) == ("policy_client", "pass", None)
    holds, answer = answers(view)[f"Is {CLIENT} an aware client?"]
    assert not holds
    assert "NetworkPolicy shop/deny selects it for egress" in answer

"""What shall be attached, from slices, pods and namespaces."""

from datetime import UTC, datetime

import pytest
from support.slices import pool_slice
from wharfinger_api import LabelSelector, NetworkPolicy, Policies, parse
from wharfinger_dataplane._records import Pod, Role
from wharfinger_dataplane.agent.desired import Attachment, LocalPod, desire, local_pod
from wharfinger_dataplane.agent.namespaces import Namespace

SHOP = "10.244.1.5"


def pod(name="a", address=SHOP, **changes):
    addresses = (address,) if address else ()
    return LocalPod(**{"namespace": "test", "name": name, "uid": f"uid-{name}", "addresses": addresses, "injected": False, "ended": False,
                       "host_network": False, **changes})


def found(address, interface=11, **changes):
    return Namespace(key=(f"cni-{address}", interface), interfaces=((address, interface),), **changes)


def attachments(slices=(), pods=(), namespaces=(), attached=(), policies=()):
    return dict(desire("node", slices, pods, namespaces, dict(attached), Policies(policies)).attachments)


def policy(*directions, name="deny", namespace="test", **labels):
    return NetworkPolicy(namespace, name, LabelSelector(match_labels=labels), frozenset(directions))


def test_a_pod_that_an_assignment_names_is_a_server():
    out = attachments([pool_slice({"a": SHOP})], [pod()], [found(SHOP)])
    assert out[SHOP].roles == Role.SERVER
    assert (out[SHOP].interface, out[SHOP].pod.pod, out[SHOP].pod.uid) == (11, "test/a", "uid-a")


@pytest.mark.parametrize("state", ["Assigned", "Ready", "Draining"])
def test_a_server_is_attached_before_it_is_ready_and_until_it_rests(state):
    assert SHOP in attachments([pool_slice({"a": SHOP}, states={"a": state})], [pod()], [found(SHOP)])


def test_a_resting_server_is_none():
    assert attachments([pool_slice({"a": SHOP}, states={"a": "Resting"})], [pod()], [found(SHOP)]) == {}


def test_a_pod_of_another_uid_at_an_assigned_address_is_no_server():
    assert attachments([pool_slice({"a": SHOP})], [pod(uid="another")], [found(SHOP)]) == {}


def test_an_injected_pod_is_a_client():
    assert attachments(pods=[pod(injected=True)], namespaces=[found(SHOP)])[SHOP].roles == Role.CLIENT


def test_a_server_that_is_injected_is_both():
    assert attachments([pool_slice({"a": SHOP})], [pod(injected=True)], [found(SHOP)])[SHOP].roles == Role.CLIENT | Role.SERVER


@pytest.mark.parametrize("changes", [{"ended": True}, {"host_network": True}])
def test_ended_pods_and_pods_of_the_hosts_network_are_left_alone(changes):
    assert attachments([pool_slice({"a": SHOP})], [pod(injected=True, **changes)], [found(SHOP)]) == {}


def test_a_pod_that_is_neither_is_left_alone():
    assert attachments(pods=[pod()], namespaces=[found(SHOP, asks=True)]) == {}


def test_a_pod_at_the_start_gate_is_a_client_while_an_injected_pod_is_awaited():
    awaited = pod("b", "", injected=True)
    assert attachments(pods=[awaited], namespaces=[found(SHOP, asks=True)]) == {SHOP: Attachment(11, Role.CLIENT, None)}
    assert attachments(pods=[awaited], namespaces=[found(SHOP)]) == {}
    assert attachments(namespaces=[found(SHOP, asks=True)]) == {}


def test_the_api_servers_word_goes_before_what_a_pod_says_at_the_gate():
    awaited, plain = pod("b", "", injected=True), pod("a")
    assert attachments(pods=[awaited, plain], namespaces=[found(SHOP, asks=True)]) == {}


def test_an_injected_pod_without_an_interface_is_missing():
    out = desire("node", [], [pod(injected=True)], [], {})
    assert (dict(out.attachments), [missing.name for missing in out.missing]) == ({}, ["a"])


def test_what_is_attached_stays_when_its_namespace_is_not_found():
    out = attachments(pods=[pod(injected=True)], attached={SHOP: Pod(9, Role.CLIENT)}.items())
    assert out[SHOP].interface == 9


def test_a_found_namespace_goes_before_what_is_attached():
    assert attachments(pods=[pod(injected=True)], namespaces=[found(SHOP, 12)], attached={SHOP: Pod(9, Role.CLIENT)}.items())[SHOP].interface == 12


def test_what_is_attached_stays_while_its_namespace_does_though_its_pod_was_deleted_by_force():
    out = attachments(namespaces=[found(SHOP, 9)], attached={SHOP: Pod(9, Role.SERVER)}.items())
    assert out == {SHOP: Attachment(9, Role.SERVER, None)}


@pytest.mark.parametrize(("namespaces", "pods"), [([], []), ([found(SHOP, 10)], []), ([found(SHOP, 9)], [pod()])])
def test_what_is_attached_goes_with_its_namespace_or_when_another_pod_claims_the_address(namespaces, pods):
    assert attachments(pods=pods, namespaces=namespaces, attached={SHOP: Pod(9, Role.SERVER)}.items()) == {}


@pytest.mark.parametrize("order", [1, -1])
def test_an_address_that_was_given_away_is_the_younger_pods(order):
    ending, fresh = pod("a", injected=True, created="2026-11-21T10:00:00Z"), pod("b", created="2026-11-21T10:00:01Z")
    pods = [ending, fresh][::order]
    assert attachments([pool_slice({"a": SHOP})], pods, [found(SHOP)]) == {}
    assert attachments([pool_slice({"b": SHOP})], pods, [found(SHOP)])[SHOP].pod.pod == "test/b"


def static_slice(node):
    raw = pool_slice({"a": SHOP}).model_dump(mode="json", by_alias=True)
    raw["spec"]["assignments"][0].update(podUID="", node=node, server="db")
    return parse({"apiVersion": "wharfinger.io/v1alpha1", "kind": "ServicePortSlice", **raw})


def test_a_static_server_of_this_node_is_a_server():
    assert attachments([static_slice("node")], namespaces=[found(SHOP)])[SHOP].pod.pod == "db"
    assert attachments([static_slice("other")], namespaces=[found(SHOP)]) == {}


def test_a_pod_is_read_from_its_object():
    sidecar = {"name": "wharfinger-sidecar", "state": {"running": {"startedAt": "2026-11-21T10:00:00Z"}}}
    raw = {"metadata": {"namespace": "n", "name": "p", "uid": "u", "annotations": {"wharfinger.io/injected": "0.1"}}, "spec": {},
           "status": {"phase": "Running", "podIPs": [{"ip": SHOP}, {"ip": "fd00::5"}], "initContainerStatuses": [sidecar]}}
    assert local_pod(raw) == LocalPod("n", "p", "u", (SHOP, "fd00::5"), True, False, False, datetime(2026, 11, 21, 10, tzinfo=UTC))


def test_a_pod_that_was_only_just_made_is_read_too():
    assert local_pod({"metadata": {"namespace": "n", "name": "p", "uid": "u", "labels": {"wharfinger.io/client": "aware"}}}) == pod(
        "p", "", namespace="n", uid="u", injected=True, labels={"wharfinger.io/client": "aware"})


def test_a_server_is_told_which_policy_selects_it_for_ingress():
    out = attachments([pool_slice({"a": SHOP})], [pod(labels={"app": "shop"})], [found(SHOP)], policies=[policy("Ingress", app="shop")])
    assert (out[SHOP].roles, out[SHOP].ingress, out[SHOP].egress) == (Role.SERVER | Role.INGRESS_SELECTED, "test/deny", "")


def test_a_client_is_told_which_policy_selects_it_for_egress():
    out = attachments(pods=[pod(injected=True)], namespaces=[found(SHOP)], policies=[policy("Egress")])
    assert (out[SHOP].roles, out[SHOP].ingress, out[SHOP].egress) == (Role.CLIENT | Role.EGRESS_SELECTED, "", "test/deny")


@pytest.mark.parametrize("other", [policy("Ingress", "Egress", namespace="elsewhere"), policy("Ingress", "Egress", app="till")])
def test_a_policy_of_others_changes_nothing(other):
    out = attachments([pool_slice({"a": SHOP})], [pod(injected=True, labels={"app": "shop"})], [found(SHOP)], policies=[other])
    assert out[SHOP].roles == Role.CLIENT | Role.SERVER


def test_a_pod_that_is_neither_is_guarded_when_its_egress_is_selected_and_there_are_service_ports():
    assert attachments([pool_slice({})], [pod()], [found(SHOP)], policies=[policy("Egress")])[SHOP].roles == Role.EGRESS_SELECTED
    assert attachments([pool_slice({})], [pod()], [found(SHOP)], policies=[policy("Ingress")]) == {}
    assert attachments([], [pod()], [found(SHOP)], policies=[policy("Egress")]) == {}


def test_any_address_that_is_nobodys_is_guarded_while_a_pod_whose_egress_is_selected_has_none_yet():
    awaited, policies = pod("b", ""), [policy("Egress")]
    assert attachments([pool_slice({})], [awaited], [found(SHOP)], policies=policies) == {SHOP: Attachment(11, Role.EGRESS_SELECTED, None)}
    assert attachments([pool_slice({})], [awaited], [found(SHOP)]) == {}
    known = pod("c", namespace="elsewhere")
    assert attachments([pool_slice({})], [awaited, known], [found(SHOP)], policies=policies) == {}


def test_a_pod_at_the_start_gate_is_guarded_from_its_first_packet():
    awaited = pod("b", "", injected=True)
    out = attachments(pods=[awaited], namespaces=[found(SHOP, asks=True)], policies=[policy("Egress")])
    assert out == {SHOP: Attachment(11, Role.CLIENT | Role.EGRESS_SELECTED, None)}


def test_a_pod_of_which_nobody_tells_any_more_keeps_its_guard():
    kept = {SHOP: Pod(11, Role.SERVER | Role.EGRESS_SELECTED)}
    assert attachments([pool_slice({})], [], [found(SHOP)], kept)[SHOP].roles == Role.SERVER | Role.EGRESS_SELECTED
    awaited = pod("b", "")
    kept = {SHOP: Pod(11, Role.SERVER)}
    assert attachments([pool_slice({})], [awaited], [found(SHOP)], kept, [policy("Egress")])[SHOP].roles == Role.SERVER | Role.EGRESS_SELECTED

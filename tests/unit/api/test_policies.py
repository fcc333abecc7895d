"""Whom a NetworkPolicy selects, by the rules of networking.k8s.io/v1."""

import pytest
from wharfinger_api import MalformedObject, Policies, network_policy

LABELS = {"app": "shop", "tier": "front"}


def policy(name="p", namespace="shop", **spec):
    return network_policy({"metadata": {"namespace": namespace, "name": name}, "spec": spec})


@pytest.mark.parametrize(("spec", "directions"), [
    ({}, {"Ingress"}),
    ({"ingress": []}, {"Ingress"}),
    ({"egress": []}, {"Ingress"}),
    ({"egress": [{}]}, {"Ingress", "Egress"}),
    ({"policyTypes": ["Egress"]}, {"Egress"}),
    ({"policyTypes": ["Ingress"], "egress": [{}]}, {"Ingress"}),
    ({"policyTypes": ["Ingress", "Egress"]}, {"Ingress", "Egress"}),
])
def test_a_policy_is_for_the_directions_it_names_or_else_for_those_the_api_says(spec, directions):
    assert policy(**spec).directions == directions


@pytest.mark.parametrize(("selector", "selects"), [
    (None, True), ({}, True), ({"matchLabels": {"app": "shop"}}, True), ({"matchLabels": {"app": "shop", "tier": "back"}}, False),
    ({"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}, {"key": "app", "operator": "NotIn", "values": ["till"]}]}, True),
    ({"matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["back"]}]}, False)])
def test_a_policy_selects_by_labels_and_expressions_and_everything_when_it_has_none(selector, selects):
    policies = Policies([policy(podSelector=selector)])
    assert policies.selecting("Ingress", "shop", LABELS) == ("shop/p" if selects else "")


def test_a_policy_selects_in_its_own_namespace_and_direction_only():
    policies = Policies([policy(policyTypes=["Egress"])])
    assert policies.selecting("Egress", "shop", LABELS) == "shop/p"
    assert policies.selecting("Ingress", "shop", LABELS) == ""
    assert policies.selecting("Egress", "till", LABELS) == ""


def test_of_several_policies_the_first_by_name_is_given():
    policies = Policies([policy("z"), policy("b"), policy("a", podSelector={"matchLabels": {"app": "no"}})])
    assert policies.selecting("Ingress", "shop", LABELS) == "shop/b"


def test_a_selector_that_cannot_be_read_is_said_so():
    with pytest.raises(MalformedObject, match=r"NetworkPolicy shop/p: spec\.podSelector"):
        policy(podSelector={"matchExpressions": [{"key": "a", "operator": "Like"}]})

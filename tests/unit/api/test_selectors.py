"""Label selectors choose as the API server's do (metav1.LabelSelector)."""

import pytest
from wharfinger_api import LabelSelector

LABELS = {"app": "shop", "tier": "front"}


@pytest.mark.parametrize(("selector", "holds"), [
    ({}, True),
    ({"matchLabels": {"app": "shop"}}, True),
    ({"matchLabels": {"app": "shop", "tier": "back"}}, False),
    ({"matchLabels": {"zone": ""}}, False),
    ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["bank", "shop"]}]}, True),
    ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["bank", "shop"]}]}, False),
    ({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}, False),
    ({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}, True),
    ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
    ({"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, False),
    ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}, True),
    ({"matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["front"]}]}, False),
])
def test_a_selector_holds_for_the_labels_that_the_api_server_would_select(selector, holds):
    assert LabelSelector.model_validate(selector).holds(LABELS) is holds

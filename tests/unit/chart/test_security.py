"""docs/security.md tells every right and capability that the chart asks for, and no other."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
COMPONENTS = ("operator", "agent", "injector", "uninstall")


def rows(columns):
    """The cells of all table rows with so many columns."""
    lines = [re.split(r"(?<!\\)\|", line.strip("|")) for line in re.findall(r"^\|.*\|$", PAGE, re.M)]
    return [[cell.strip() for cell in line] for line in lines if len(line) == columns]


def rendered(objects, component):
    """(group, resource, verb) of a component's roles; the core group by that name."""
    return {(group or "core", resource, verb)
            for kind in ("ClusterRole", "Role") for rule in objects.get((kind, f"wharfinger-{component}"), {"rules": []})["rules"]
            for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]}


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_right_has_its_reason_and_no_reason_is_left_over(objects, component):
    told = [(group, resource, verb) for name, group, resources, verbs, why in rows(5) if name == component and why
            for resource in resources.split(", ") for verb in verbs.split()]
    assert told
    assert sorted(told) == sorted(rendered(objects, component))  # each told once


def test_every_capability_of_the_agent_has_its_reason(objects):
    told = {match[1] for capability, why in rows(2) if (match := re.fullmatch(r"`([A-Z_]+)`", capability)) and why}
    (container,) = objects["DaemonSet", "wharfinger-agent"]["spec"]["template"]["spec"]["containers"]
    assert told == set(container["securityContext"]["capabilities"]["add"])
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]


@pytest.mark.parametrize("workload", ["wharfinger-operator", "wharfinger-injector"])
def test_what_needs_no_privilege_has_none(objects, workload):
    (container,) = objects["Deployment", workload]["spec"]["template"]["spec"]["containers"]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert (context["runAsNonRoot"], context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, True, False)


def test_rights_to_secrets_are_to_named_ones_but_for_their_creation(objects):
    rules = [rule for (kind, _), found in objects.items() if kind in ("ClusterRole", "Role") for rule in found["rules"]
             if "secrets" in rule["resources"]]
    assert rules
    assert all(rule.get("resourceNames") or rule["verbs"] == ["create"] for rule in rules)

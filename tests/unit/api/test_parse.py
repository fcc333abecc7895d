"""Raw object to typed object and back."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from wharfinger_api import (
    PLURALS,
    MalformedObject,
    Moves,
    PortRange,
    ServicePortSlice,
    UnknownKind,
    agent_lease,
    dump,
    node_of_lease,
    parse,
    seconds,
)

CRDS = Path(__file__).parents[3] / "crds"
POOL = {
    "apiVersion": "wharfinger.io/v1alpha1", "kind": "ServicePortPool",
    "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 2},
    "spec": {"virtualAddresses": {"service": {"name": "web"}}, "portRanges": [{"from": 1, "to": 4}], "servers": {"selector": {
        "matchLabels": {"app": "web"}}}, "targets": [{"name": "http", "targetPort": "http"}, {"name": "admin", "targetPort": 9000}],
        "restTime": "1m30s"}}
SLICE = {
    "apiVersion": "wharfinger.io/v1alpha1", "kind": "ServicePortSlice", "metadata": {"name": "web-0", "namespace": "shop"},
    "spec": {"pool": {"name": "web", "uid": "u", "generation": 2}, "scope": 7, "forwardingMode": "Network",
             "moves": {"mode": "Close", "onDrain": True}, "virtualAddresses": ["10.96.0.10"],
             "redirects": [{"name": "r", "generation": 1, "protocol": "TCP", "ports": [{"from": 80, "to": 81}], "target": "http",
                            "policy": "Hash"}],
             "assignments": [{"server": "shop/a", "address": "10.1.0.1", "node": "n1", "podUID": "p", "state": "Ready",
                              "since": "2026-11-21T09:00:00.250000Z", "sinceVersion": "3", "leaving": False, "redirects": ["r"],
                              "targets": [{"name": "http", "protocol": "TCP", "targetPort": 8080, "servicePorts": [1, 2]}]}]}}


def test_pool_is_read_with_the_schemas_defaults():
    pool = parse(POOL)
    assert (pool.key, pool.metadata.generation) == (("shop", "web"), 2)
    assert [(target.target_port, target.protocol, target.ports_per_server) for target in pool.spec.targets] == [
        ("http", "TCP", 1), (9000, "TCP", 1)]
    assert (pool.spec.rest_seconds, pool.spec.surge_percent, pool.spec.forwarding_mode) == (90.0, 25, "Network")
    assert pool.spec.moves == Moves(mode="Never", on_drain=False)
    assert str(pool) == "ServicePortPool shop/web"


def test_slice_survives_the_way_there_and_back():
    piece = parse(SLICE)
    assert isinstance(piece, ServicePortSlice)
    assert dump(piece.spec) == SLICE["spec"]
    assert piece.spec.assignments[0].ports == (1, 2)


def test_unknown_fields_are_left_aside():
    newer = copy.deepcopy(SLICE)
    newer["spec"]["later"] = {"x": 1}
    assert parse(newer) == parse(SLICE)


@pytest.mark.parametrize("raw", [{}, {"apiVersion": "v1", "kind": "Pod"}, {"apiVersion": "wharfinger.io/v2", "kind": "ServicePortPool"}])
def test_foreign_object_is_refused(raw):
    with pytest.raises(UnknownKind):
        parse(raw)


@pytest.mark.parametrize(("change", "field"), [
    (lambda spec: spec.update(scope=0), "spec.scope"),
    (lambda spec: spec["assignments"][0].update(state="Gone"), "spec.assignments.0.state"),
    (lambda spec: spec["assignments"][0]["targets"][0].update(servicePorts=[65536]), "spec.assignments.0.targets.0.servicePorts.0"),
    (lambda spec: spec.pop("virtualAddresses"), "spec.virtualAddresses"),
])
def test_malformed_object_is_refused_by_object_and_field(change, field):
    raw = copy.deepcopy(SLICE)
    change(raw["spec"])
    with pytest.raises(MalformedObject, match=r"^ServicePortSlice shop/web-0: ") as caught:
        parse(raw)
    assert f"{field}: " in str(caught.value)


def test_typed_objects_cannot_be_changed():
    with pytest.raises(ValidationError):
        parse(SLICE).spec.scope = 8


def test_report_of_a_node_that_has_said_nothing_yet_is_empty():
    report = parse({"apiVersion": "wharfinger.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": "n1"}})
    assert (report.key, report.status.slices.version, report.status.servers) == (("", "n1"), "0", ())


@pytest.mark.parametrize(("text", "value"), [("60s", 60), ("0s", 0), ("1h30m", 5400), ("250ms", 0.25), ("2m5s", 125)])
def test_durations_are_read_in_seconds(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "60", "s", "-5s", "1.5s", "5d", " 5s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="not a duration"):
        seconds(text)


BOUNDS = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)


@given(BOUNDS, BOUNDS)
def test_ranges_overlap_when_they_have_a_number_in_common(one, other):
    left, right = PortRange(first=one[0], last=one[1]), PortRange(first=other[0], last=other[1])
    assert left.overlaps(right) == right.overlaps(left) == (max(one[0], other[0]) <= min(one[1], other[1]))
    assert len(left) == one[1] - one[0] + 1
    assert one[0] in left and one[1] in left and one[1] + 1 not in left


def test_agents_leases_bear_their_nodes_name():
    assert node_of_lease(agent_lease("node-1")) == "node-1"
    assert node_of_lease("wharfinger-operator") is None


def crds():
    return [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]


def test_names_are_those_of_the_schemas():
    assert {crd["spec"]["names"]["kind"]: crd["spec"]["names"]["plural"] for crd in crds()} == PLURALS


def walk(schema, path=""):
    yield path, schema
    for name, inner in (schema.get("properties") or {}).items():
        yield from walk(inner, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from walk(schema["items"], f"{path}[]")


@pytest.mark.parametrize("crd", crds(), ids=lambda crd: crd["spec"]["names"]["kind"])
def test_schema_is_described_and_bounded_everywhere(crd):
    """Unbounded lists and strings exhaust the API server's budget for CEL rules, or a node's memory."""
    for path, schema in walk(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]):
        if path in ("", ".metadata", ".apiVersion", ".kind"):
            continue
        if not path.endswith("[]"):
            assert schema.get("description"), f"{path} has no description"
        if schema.get("type") == "array":
            assert "maxItems" in schema and "x-kubernetes-list-type" in schema, path
        if schema.get("type") == "string":
            assert {"maxLength", "enum", "format"} & schema.keys(), path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema and "maxLength" in schema["additionalProperties"], path


@pytest.mark.parametrize("crd", crds(), ids=lambda crd: crd["spec"]["names"]["kind"])
def test_every_field_of_the_schema_is_read(crd):
    """A field that the schema has and the reader has not would be lost in silence."""
    example = {"ServicePortPool": POOL, "ServicePortSlice": SLICE}.get(crd["spec"]["names"]["kind"], {
        "apiVersion": "wharfinger.io/v1alpha1", "kind": crd["spec"]["names"]["kind"], "metadata": {"name": "x"},
        "spec": {"servicePortPool": {"name": "web"}, "target": "http", "ports": [{"from": 1, "to": 1}]}})
    model = type(parse(example))
    for part in ("spec", "status"):
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].get(part)
        if schema is not None:
            known = model.model_json_schema(by_alias=True)
            assert_fields(schema, known["properties"][part], known["$defs"], part)


def assert_fields(schema, model, definitions, path):
    while "$ref" in model or "anyOf" in model:
        model = definitions[model["$ref"].rpartition("/")[2]] if "$ref" in model else next(
            option for option in model["anyOf"] if option.get("type") != "null")
    for name, inner in (schema.get("properties") or {}).items():
        assert name in model["properties"], f"{path}.{name}"
        assert_fields(inner, model["properties"][name], definitions, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        assert_fields(schema["items"], model["items"], definitions, f"{path}[]")

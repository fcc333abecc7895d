"""`wharfinger check`: one defect, one finding that says where and what to do; a cluster in which all is well has none."""

import base64
import io
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rich.console import Console
from unit.cli.objects import NOW, installation, pools, report
from wharfinger_api import PLURALS, Effect, Finding
from wharfinger_cli._surroundings import Surroundings, definitions, node, pod, version_of, webhooks
from wharfinger_cli.check import build_check, print_check
from wharfinger_dataplane.agent.ways import REMEDIES

RELEASE = "wharfinger-system"
LABELLED = {"wharfinger.io/inject": "enabled"}


def authority(days):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
            .not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, hashes.SHA256()))
    return made.public_bytes(serialization.Encoding.PEM)


TRUSTED = authority(365)


def configuration(bundle=TRUSTED):
    """The chart's two webhooks, as the API server has them."""
    def entry(namespaces, pods):
        return {"namespaceSelector": {"matchExpressions": namespaces}, "objectSelector": {"matchExpressions": pods}, "failurePolicy": "Ignore",
                "clientConfig": {"caBundle": base64.b64encode(bundle).decode()} if bundle else {}}

    key, name = "wharfinger.io/inject", "kubernetes.io/metadata.name"
    return {"metadata": {"name": "wharfinger-injector"}, "webhooks": [
        entry([{"key": key, "operator": "In", "values": ["enabled"]}, {"key": name, "operator": "NotIn", "values": [RELEASE]}],
              [{"key": key, "operator": "NotIn", "values": ["false"]}]),
        entry([{"key": key, "operator": "NotIn", "values": ["enabled"]}, {"key": name, "operator": "NotIn", "values": [RELEASE, "kube-system"]}],
              [{"key": key, "operator": "In", "values": ["true"]}])]}


def machine(name, kernel="6.12.3-cloud", address="172.31.0.5", system="linux"):
    return node({"metadata": {"name": name}, "status": {
        "nodeInfo": {"operatingSystem": system, "architecture": "amd64", "kernelVersion": kernel},
        "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]}})


def running(name, *, namespace="shop", labels=None, owner=("ReplicaSet", "client-5d9f"), sidecar=True, version="0.1.0", since=3600, **spec):
    owners = [{"controller": True, "kind": owner[0], "name": owner[1]}] if owner else []
    started = (NOW - timedelta(seconds=since)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return pod({
        "metadata": {"name": name, "namespace": namespace, "uid": f"shop/{name}", "labels": {"pod-template-hash": "5d9f"} | (labels or {}),
                     "annotations": {"wharfinger.io/injected": version} if sidecar else {}, "ownerReferences": owners},
        "spec": {"nodeName": "node-1", "initContainers": [{"name": "wharfinger-sidecar"}] if sidecar else [], **spec},
        "status": {"phase": "Running", "containerStatuses": [{"state": {"running": {"startedAt": started}}}]}})


def surroundings(**changes):
    """A cluster in which all is well."""
    every = {
        "version": (1, 34), "nodes": (machine("node-1"), machine("node-2")),
        "namespaces": {"shop": LABELLED, RELEASE: {"pod-security.kubernetes.io/enforce": "privileged"}, "kube-system": {}},
        "definitions": dict.fromkeys(PLURALS.values(), ("v1alpha1",)), "webhooks": webhooks([configuration()]),
        "pods": (running("client-0"),)}
    return Surroundings(**(every | changes))


def checked(seen, found=None, seen_pools=None, version="0.1.0"):
    return build_check(seen, installation() if found is None else found, pools() if seen_pools is None else seen_pools, RELEASE, version)


def before(**changes):
    """What check says where nothing is installed."""
    every = {"webhooks": (), "definitions": {}, "pods": ()} | changes
    return build_check(surroundings(**every), installation(workloads=(), agents=(), leases=()), None, RELEASE, "0.1.0")


def test_a_whole_release_has_neither_problems_nor_notes():
    view = checked(surroundings())
    assert (view.installed, view.problems, view.notes) == (True, (), ())
    assert all(question.well for question in view.questions)


def test_a_fit_cluster_without_a_release_can_be_installed_to():
    view = before()
    assert (view.installed, view.problems) == (False, ())
    out = io.StringIO()
    print_check(view, Console(file=out, width=200))
    assert out.getvalue().endswith("Wharfinger can be installed here.\n")


@pytest.mark.parametrize(("changes", "where", "what", "remedy"), [
    ({"version": (1, 29)}, "API server", "is 1.29", "upgrade"),
    ({"nodes": (machine("old", "5.10.0-30"),)}, "node old", "kernel 5.10", "agent.nodeSelector"),
    ({"nodes": (machine("six", address="fd00::5"),)}, "node six", "no internal IPv4", "IPv6"),
    ({"nodes": (machine("win", system="windows"),)}, "nodes", "none runs Linux", "add a node"),
    ({"namespaces": {RELEASE: {"pod-security.kubernetes.io/enforce": "restricted"}}}, f"namespace {RELEASE}", "restricted", "kubectl label"),
    ({"denied": ("create clusterroles",)}, "you", "may not create clusterroles", "administrator"),
    ({"webhooks": webhooks([configuration()])}, "MutatingWebhookConfiguration wharfinger-injector", "no release", "kubectl delete"),
    ({"definitions": {"serviceportpools": ("v9",)}}, "CustomResourceDefinition serviceportpools.wharfinger.io", "serves v9", "crds.install"),
])
def test_before_an_installation_what_is_in_its_way_is_named(changes, where, what, remedy):
    view = before(**changes)
    (problem,) = view.problems
    assert problem.where == where
    assert what in problem.what
    assert remedy in problem.remedy
    assert [question.well for question in view.questions].count(False) == 1


@pytest.mark.parametrize(("changes", "where", "what", "remedy"), [
    ({"definitions": dict.fromkeys(("serviceportpools", "redirectportpools", "serviceportslices"), ("v1alpha1",))},
     "CustomResourceDefinition nodereports.wharfinger.io", "is not served", "crds.install"),
    ({"webhooks": ()}, "MutatingWebhookConfiguration", "there is none", "helm upgrade"),
    ({"webhooks": webhooks([configuration(b"")])}, "MutatingWebhookConfiguration wharfinger-injector", "no trust bundle", "its log"),
    ({"webhooks": webhooks([configuration(authority(20))])}, "MutatingWebhookConfiguration wharfinger-injector", "ends in 20 days", "its log"),
    ({"webhooks": webhooks([configuration(b"nonsense")])}, "MutatingWebhookConfiguration wharfinger-injector", "was not renewed", "its log"),
    ({"pods": (running("client-0"), running("client-1", sidecar=False), running("client-2", sidecar=False))},
     "Deployment shop/client", "2 pods are running without the sidecar", "kubectl rollout restart --namespace shop deployment/client"),
    ({"pods": (running("once", owner=None, sidecar=False),)}, "Pod shop/once", "without the sidecar", "create it again"),
    ({"pods": (running("job-x", owner=("Job", "job"), sidecar=False),)},
     "Job shop/job", "without the sidecar", "kubectl delete pod --namespace shop job-x"),
    ({"pods": (running("db-0", owner=("StatefulSet", "db"), namespace="other", labels={"wharfinger.io/inject": "true"}, sidecar=False),)},
     "StatefulSet other/db", "1 pod is running without the sidecar", "statefulset/db"),
    ({"pods": (running("client-9"),)}, "Deployment shop/client", "without a translator", "Events"),
])
def test_of_a_release_what_is_not_whole_is_named(changes, where, what, remedy):
    (problem,) = checked(surroundings(**changes)).problems
    assert problem.where == where
    assert what in problem.what
    assert remedy in problem.remedy


@pytest.mark.parametrize("left_alone", [
    running("a", sidecar=False, labels={"wharfinger.io/inject": "false"}),
    running("b", sidecar=False, hostNetwork=True),
    running("c", sidecar=False, os={"name": "windows"}),
    running("d", sidecar=False, namespace="default"),
    running("e", sidecar=False, namespace="kube-system", labels={"wharfinger.io/inject": "true"}),
    running("f", sidecar=False, namespace=RELEASE, labels={"wharfinger.io/inject": "true"}),
    running("g", since=5),
])
def test_a_pod_that_no_webhook_selects_or_that_has_just_started_is_no_finding(left_alone):
    assert checked(surroundings(pods=(left_alone,))).problems == ()


def test_pods_that_have_ended_are_none():
    ended = {"metadata": {"name": "a", "namespace": "shop", "uid": "u"}, "spec": {}, "status": {"phase": "Succeeded"}}
    leaving = {"metadata": {"name": "a", "namespace": "shop", "uid": "u", "deletionTimestamp": "2026-11-21T10:00:00Z"}, "spec": {}}
    assert (pod(ended), pod(leaving)) == (None, None)


@pytest.mark.parametrize(("changes", "where", "what"), [
    ({"daemon_sets": ("cilium",)}, "DaemonSet cilium", "not been run together"),
    ({"namespaces": {"shop": {"wharfinger.io/inject": "true"}}, "pods": ()}, "namespace shop", "selects nothing"),
    ({"pods": (running("client-0", labels={"wharfinger.io/inject": "yes"}),)}, "Deployment shop/client", "selects nothing"),
    ({"pods": (running("client-0", version="0.0.9"),)}, "Deployment shop/client", "another version than 0.1.0"),
])
def test_what_needs_no_action_now_is_a_note(changes, where, what):
    view = checked(surroundings(**changes))
    (note,) = view.notes
    assert view.problems == ()
    assert note.where == where
    assert what in note.what


@pytest.mark.parametrize(("kernel", "problems", "notes"), [
    ("5.14.21-150500", 1, 0), ("5.15.0-91-generic", 0, 1), ("5.19.17", 0, 1), ("6.1.0-50-cloud-amd64", 0, 0), ("6.18.4", 0, 0)])
def test_a_kernel_that_has_all_that_is_needed_but_was_not_tried_is_a_note(kernel, problems, notes):
    view = before(nodes=(machine("node-1", kernel),))
    assert (len(view.problems), len(view.notes)) == (problems, notes)
    assert all("the oldest that was tried is 6.1" in note.what for note in view.notes)


def test_nodes_that_do_without_the_same_thing_are_one_note():
    classic = [("ClassicFilters", "no tcx links, so programs are classic filters")]
    reports = tuple(report(f"node-{number}", fallbacks=classic) for number in range(1, 6))
    nodes = tuple(f"node-{number}" for number in range(1, 6))
    seen = replace(pools(), reports=(*reports[:-1], report("node-5", clients=[("shop/client-0", "10.244.1.7")])))
    (note,) = checked(surroundings(), installation(nodes=nodes), seen).notes
    assert (note.where, note.what) == ("nodes node-1, node-2, node-3, node-4", classic[0][1])


def test_a_command_of_another_version_than_the_release_says_so():
    (note,) = checked(surroundings(), version="0.2.0").notes
    assert note.what == "is version 0.2.0, the release 0.1.0"


def test_what_status_finds_check_finds():
    view = checked(surroundings(), seen_pools=replace(pools(), reports=(report("node-1", clients=[("shop/client-0", "10.244.1.7")]),)))
    assert [problem.where for problem in view.problems] == ["node node-2"]


def finding(effect, where, reason):
    return Finding(effect=effect, where=where, reason=reason, message="something is there", remedy="take it away")


@pytest.mark.parametrize("reason", sorted(REMEDIES))
def test_each_thing_that_an_agent_found_beside_itself_is_a_line(reason):
    reports = (report("node-1", clients=[("shop/client-0", "10.244.1.7")], findings=[finding(Effect.STACK, "interface x", reason)]),
               report("node-2"))
    view = checked(surroundings(), seen_pools=replace(pools(), reports=reports))
    assert view.problems == ()
    assert [(note.where, note.what) for note in view.notes] == [("node node-1, interface x", f"something is there ({reason})")]


def test_an_injected_pod_that_is_refused_a_translator_is_told_once():
    reports = (report("node-1", findings=[finding(Effect.REFUSED, "Pod shop/client-0", "FiltersOfOthers")]), report("node-2"))
    view = checked(surroundings(), seen_pools=replace(pools(), reports=reports))
    assert [(problem.where, problem.remedy) for problem in view.problems] == [("Pod shop/client-0", "take it away")]
    assert [question.question for question in view.questions if not question.well] == ["nothing at pods' interfaces keeps a translator away"]


def test_definitions_are_ours_only_and_those_served():
    raw = [{"spec": {"group": "wharfinger.io", "names": {"plural": "nodereports"},
                     "versions": [{"name": "v1alpha1", "served": True}, {"name": "v0", "served": False}]}},
           {"spec": {"group": "example.org", "names": {"plural": "others"}, "versions": [{"name": "v1", "served": True}]}}]
    assert definitions(raw) == {"nodereports": ("v1alpha1",)}


@pytest.mark.parametrize(("text", "version"), [("v1.34.4", (1, 34)), ("6.18.5-cloud", (6, 18)), ("", (0, 0)), ("1.30+", (1, 30))])
def test_versions_are_compared_by_their_first_two_numbers(text, version):
    assert version_of(text) == version

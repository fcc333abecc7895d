"""Injection on a real cluster: a real API server calls the webhook, a real kubelet starts what comes of it."""

import asyncio
import base64
import json
import ssl
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from harms import kill_lives, standing
from testbed import ClusterError
from wharfinger_operator.injector._cluster import ApiServer
from wharfinger_operator.injector._cluster import Cluster as InjectorCluster
from wharfinger_operator.injector._keeper import synchronise
from wharfinger_operator.injector._settings import InjectorSettings, SidecarSettings

TOP = Path(__file__).parents[2]
RELEASE, NAMESPACE, TESTS = "wharfinger", "wharfinger-system", "injection-tests"
CERTIFICATES = "wharfinger-injector-certificates"
GATE_TIMEOUT_S = 10
DEAD_S, WITHDRAWN_S = 10.0, 4.0
"""How long an injector is kept dead, and within what time the API server asks it no more."""


@pytest.fixture(scope="module")
def cluster(wharfinger):
    """The cluster with the release on it."""
    return wharfinger.cluster


@pytest.fixture(scope="module")
def namespace(cluster):
    """A namespace that has its pods injected and enforces the strictest Pod Security Standard; gone afterwards."""
    labels = {"wharfinger.io/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted"}
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TESTS, "labels": labels}})
    eventually(lambda: cluster.kubectl("--namespace", TESTS, "get", "serviceaccount", "default", check=False))
    yield TESTS
    cluster.kubectl("delete", "namespace", TESTS, "--wait=true")


def apply(cluster, *documents):
    cluster.kubectl("apply", "--filename=-", input=yaml.safe_dump_all(documents))


def pod(name, namespace=TESTS, labels=None, command=("/shop/client.py", "idle"), **spec):
    """A pod of the example's image that satisfies the standard `restricted`."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "app", "image": "wharfinger.local/shop:dev", "args": list(command), "securityContext": context}
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
            "spec": {"containers": [container], "securityContext": security, "terminationGracePeriodSeconds": 2,
                     "automountServiceAccountToken": False} | spec}


def created(cluster, document):
    """The pod as it is after admission; created by a dry run on the server, so that nothing starts."""
    text = cluster.kubectl("create", "--filename=-", "--dry-run=server", "--output=json", input=yaml.safe_dump(document))
    return json.loads(text)


def sidecars(document):
    return [container["name"] for container in document["spec"].get("initContainers", ()) if container["name"] == "wharfinger-sidecar"]


def get(cluster, kind, name, namespace=NAMESPACE):
    return json.loads(cluster.kubectl("--namespace", namespace, "get", kind, name, "--output=json"))


def eventually(condition, within_s=60.0):
    """The first true answer."""
    deadline = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not true within {within_s:g} s"
        time.sleep(0.2)
    return answer


def bundles(cluster):
    configuration = get(cluster, "mutatingwebhookconfiguration", "wharfinger-injector")
    return {base64.b64decode(webhook["clientConfig"].get("caBundle", "")) for webhook in configuration["webhooks"]}


def test_K03_pod_of_a_restricted_namespace_gets_the_sidecar_and_runs(cluster, namespace):
    apply(cluster, pod("client"))
    cluster.kubectl("--namespace", namespace, "wait", "pod/client", "--for=condition=Ready", "--timeout=60s")
    running = get(cluster, "pod", "client", namespace)
    assert running["metadata"]["labels"]["wharfinger.io/client"] == "aware"
    assert running["metadata"]["annotations"]["wharfinger.io/injected"]
    first = running["spec"]["initContainers"][0]
    assert (first["name"], first["restartPolicy"]) == ("wharfinger-sidecar", "Always")
    assert running["status"]["initContainerStatuses"][0]["ready"]


def gate(cluster, name):
    """What the pod's sidecar logged when it had passed its start gate."""
    text = eventually(lambda: cluster.kubectl("--namespace", TESTS, "logs", name, "--container=wharfinger-sidecar"))
    return next(line for line in map(json.loads, text.splitlines()) if line["event"] == "start gate passed")


def test_K03_gate_opens_when_the_agent_has_attached_the_translator(cluster, namespace):
    passed = gate(cluster, "client")
    assert (passed["outcome"], passed["level"]) == ("aware", "info")
    assert passed["waited_ms"] < GATE_TIMEOUT_S * 1000 / 2


def test_K03_application_starts_only_after_the_gate(cluster, namespace):
    """The sidecar's log says how long it waited, the kubelet when it started the application."""
    status = get(cluster, "pod", "client", namespace)["status"]
    sidecar = status["initContainerStatuses"][0]["state"]["running"]["startedAt"]
    application = status["containerStatuses"][0]["state"]["running"]["startedAt"]
    waited = datetime.fromisoformat(application) - datetime.fromisoformat(sidecar)
    assert waited >= timedelta(milliseconds=gate(cluster, "client")["waited_ms"]) - timedelta(seconds=1), "the kubelet gives whole seconds"


def test_pod_starts_unaware_when_no_agent_answers_within_the_timeout(cluster, namespace):
    """The agents are sent away by a node selector that no node satisfies, and come back afterwards."""
    nowhere = {"spec": {"template": {"spec": {"nodeSelector": {"wharfinger.io/nowhere": "true"}}}}}
    cluster.kubectl("--namespace", NAMESPACE, "patch", "daemonset", "wharfinger-agent", "--patch", json.dumps(nowhere))
    try:
        eventually(lambda: not cluster.kubectl("--namespace", NAMESPACE, "get", "pods", "--selector=app.kubernetes.io/component=agent",
                                               "--output=name"))
        apply(cluster, pod("orphan"))
        cluster.kubectl("--namespace", namespace, "wait", "pod/orphan", "--for=condition=Ready", "--timeout=60s")
        passed = gate(cluster, "orphan")
        assert (passed["outcome"], passed["waited_ms"] // 1000) == ("unaware", GATE_TIMEOUT_S)
        status = get(cluster, "pod", "orphan", namespace)["status"]
        waited = (datetime.fromisoformat(status["containerStatuses"][0]["state"]["running"]["startedAt"])
                  - datetime.fromisoformat(status["initContainerStatuses"][0]["state"]["running"]["startedAt"]))
        assert GATE_TIMEOUT_S - 1 <= waited.total_seconds() <= GATE_TIMEOUT_S + 5
    finally:
        removal = [{"op": "remove", "path": "/spec/template/spec/nodeSelector/wharfinger.io~1nowhere"}]
        cluster.kubectl("--namespace", NAMESPACE, "patch", "daemonset", "wharfinger-agent", "--type=json", "--patch", json.dumps(removal))
        cluster.kubectl("--namespace", NAMESPACE, "rollout", "status", "daemonset/wharfinger-agent", "--timeout=60s")


@pytest.mark.parametrize(("changes", "place", "injected"), [
    ({}, TESTS, True),
    ({"labels": {"wharfinger.io/inject": "false"}}, TESTS, False),
    ({"labels": {"wharfinger.io/inject": "true"}}, "default", True),
    ({}, "default", False),
    ({"hostNetwork": True, "labels": {"wharfinger.io/inject": "true"}}, "default", False),
    ({"labels": {"wharfinger.io/inject": "true"}}, NAMESPACE, False),
    ({"labels": {"wharfinger.io/inject": "true"}}, "kube-system", False),
])
def test_who_is_injected_follows_namespace_pod_label_and_network(cluster, namespace, changes, place, injected):
    admitted = created(cluster, pod("candidate", namespace=place, **changes))
    assert sidecars(admitted) == (["wharfinger-sidecar"] if injected else [])


def test_pod_that_was_written_from_a_running_one_has_one_sidecar(cluster, namespace):
    copy = created(cluster, pod("original"))
    copy["metadata"] = {"name": "copy", "namespace": namespace, "labels": copy["metadata"]["labels"]}
    assert sidecars(created(cluster, copy)) == ["wharfinger-sidecar"]


def test_job_ends_although_its_pod_has_a_sidecar(cluster, namespace):
    template = pod("", command=("-c", "print('done')"), restartPolicy="Never")
    template = {"spec": template["spec"]}
    apply(cluster, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": namespace},
                    "spec": {"template": template, "backoffLimit": 0}})
    cluster.kubectl("--namespace", namespace, "wait", "job/once", "--for=condition=Complete", "--timeout=60s")


def test_both_replicas_serve_the_stored_certificate(cluster):
    stored = base64.b64decode(get(cluster, "secret", CERTIFICATES)["data"]["tls.crt"]).decode()
    pods = json.loads(cluster.kubectl("--namespace", NAMESPACE, "get", "pods", "--selector=app.kubernetes.io/component=injector",
                                      "--output=json"))["items"]
    served = {served_certificate(cluster, item["status"]["podIP"]) for item in pods}
    assert (len(pods), served) == (2, {stored})


def served_certificate(cluster, address):
    """PEM of what a server shows, asked from within a node."""
    script = f"import ssl; print(ssl.get_server_certificate(('{address}', 8443)), end='')"
    return cluster.exec(cluster.nodes[0].name, "/usr/bin/python3", "-c", script)


def test_upgrade_leaves_trust_bundle_certificates_and_trace_key_alone(cluster):
    before = bundles(cluster), get(cluster, "secret", CERTIFICATES)["data"], get(cluster, "secret", "wharfinger-trace-key")["data"]
    assert all(before[0])
    cluster.helm("upgrade", RELEASE, str(TOP / "charts" / "wharfinger"), "--namespace", NAMESPACE, "--reuse-values")
    after = bundles(cluster), get(cluster, "secret", CERTIFICATES)["data"], get(cluster, "secret", "wharfinger-trace-key")["data"]
    assert after == before


def test_lost_trust_bundle_comes_back(cluster, namespace):
    before = bundles(cluster)
    patch = [{"op": "remove", "path": f"/webhooks/{number}/clientConfig/caBundle"} for number in range(2)]
    cluster.kubectl("patch", "mutatingwebhookconfiguration", "wharfinger-injector", "--type=json", "--patch", json.dumps(patch))
    eventually(lambda: bundles(cluster) == before, within_s=30)
    eventually(lambda: sidecars(created(cluster, pod("candidate"))), within_s=10)


def test_lost_certificates_are_stored_again_and_nobody_notices(cluster, namespace):
    before = get(cluster, "secret", CERTIFICATES)["data"], bundles(cluster)
    cluster.kubectl("--namespace", NAMESPACE, "delete", "secret", CERTIFICATES)
    reviewed = []

    def stored():
        reviewed.append(sidecars(created(cluster, pod("candidate"))))
        return cluster.kubectl("--namespace", NAMESPACE, "get", "secret", CERTIFICATES, "--output=name", "--ignore-not-found")

    eventually(stored, within_s=30)
    assert (get(cluster, "secret", CERTIFICATES)["data"], bundles(cluster)) == before
    assert all(reviewed)
    test_both_replicas_serve_the_stored_certificate(cluster)


def test_no_pod_misses_its_sidecar_while_the_injectors_are_replaced(cluster, namespace):
    """With failurePolicy Ignore a review that fails shows as a pod without a sidecar."""
    former = injectors(cluster)
    cluster.kubectl("--namespace", NAMESPACE, "rollout", "restart", "deployment/wharfinger-injector")
    reviewed = []

    def replaced():
        reviewed.append(sidecars(created(cluster, pod("candidate"))))
        return len(injectors(cluster)) == len(former) and not injectors(cluster) & former

    eventually(replaced)
    assert all(reviewed), f"{reviewed.count([])} of {len(reviewed)} pods were not injected"


def set_injector(cluster, **values):
    """The release with these values of its injector."""
    words = [word for name, value in values.items() for word in ("--set", f"injector.{name}={value}")]
    cluster.helm("upgrade", RELEASE, str(TOP / "charts" / "wharfinger"), "--namespace", NAMESPACE, "--reuse-values", *words,
                 "--wait", "--timeout", "120s")


def test_with_policy_fail_no_pod_starts_without_its_sidecar_and_the_refusal_names_the_webhook(cluster, namespace):
    set_injector(cluster, failurePolicy="Fail")
    try:
        assert sidecars(created(cluster, pod("candidate")))
        scale(cluster, 0)
        with pytest.raises(ClusterError, match=r"namespace\.inject\.wharfinger\.io"):
            created(cluster, pod("candidate"))
        left_alone = pod("candidate", labels={"wharfinger.io/inject": "false"})
        assert not sidecars(created(cluster, left_alone)), "what opts out does not depend on the injector"
    finally:
        scale(cluster, 2)
        set_injector(cluster, failurePolicy="Ignore")


def scale(cluster, replicas):
    """So many injectors, and the API server knows."""
    cluster.kubectl("--namespace", NAMESPACE, "scale", "deployment/wharfinger-injector", f"--replicas={replicas}")
    if replicas:
        cluster.kubectl("--namespace", NAMESPACE, "rollout", "status", "deployment/wharfinger-injector", "--timeout=60s")
    else:
        eventually(lambda: not injectors(cluster))


def review(cluster):
    """What becomes of a pod: `injected`, `left alone` or `refused` by the webhook."""
    try:
        return "injected" if sidecars(created(cluster, pod("candidate"))) else "left alone"
    except ClusterError as error:
        assert ".inject.wharfinger.io" in str(error)
        return "refused"


def reviews(cluster, name, seconds):
    """How many pods this injector says to have reviewed in the last seconds."""
    return cluster.kubectl("--namespace", NAMESPACE, "logs", name, f"--since={seconds:.0f}s").count('"pod reviewed"')


def test_while_one_injector_of_two_is_dead_the_other_injects_every_pod(cluster, namespace):
    """`kill -9` of the one that the API server asked last, again as soon as it is back. With policy Fail, so that a review which nobody answers is a
    refusal; such there may be until the kubelet has told of the death."""
    set_injector(cluster, failurePolicy="Fail")
    try:
        before = standing(cluster, "injector")
        assert review(cluster) == "injected"
        other, victim = sorted(before, key=lambda name: reviews(cluster, name, 2))
        began, reviewed = time.monotonic(), []
        while (after_s := time.monotonic() - began) < DEAD_S:
            kill_lives(cluster, before[victim][2], victim, "injector")
            reviewed.append((after_s, review(cluster)))
        now = standing(cluster, "injector")
        assert now.keys() == before.keys()
        assert (now[victim][0] > before[victim][0], now[victim][1]) == (True, False)
        assert now[other] == before[other]
        alone = [word for after_s, word in reviewed if after_s > WITHDRAWN_S]
        answered = reviews(cluster, other, DEAD_S - WITHDRAWN_S)
        print(f"reviews while one of two injectors was dead: {reviewed}")
        assert "left alone" not in [word for _, word in reviewed]
        assert set(alone) == {"injected"}
        assert answered >= len(alone) - 1 > 4
        eventually(lambda: standing(cluster, "injector")[victim][1])
    finally:
        set_injector(cluster, failurePolicy="Ignore")


def test_init_containers_start_behind_the_gate_and_are_aware(cluster, namespace):
    """The sidecar is the first init container, so what an init container dials is dialled by an aware pod."""
    dial = "import urllib.request; print(urllib.request.urlopen('http://%s/', timeout=5).read().decode())"
    address = cluster.kubectl("--namespace", "shop", "get", "service", "shop", "--output=jsonpath={.spec.clusterIP}")
    document = pod("begins")
    first = {**document["spec"]["containers"][0], "name": "first", "args": ["-c", dial % address]}
    document["spec"]["initContainers"] = [first]
    apply(cluster, document)
    cluster.kubectl("--namespace", namespace, "wait", "pod/begins", "--for=condition=Ready", "--timeout=60s")
    running = get(cluster, "pod", "begins", namespace)
    assert [container["name"] for container in running["spec"]["initContainers"]] == ["wharfinger-sidecar", "first"]
    seen = json.loads(cluster.kubectl("--namespace", namespace, "logs", "begins", "--container=first"))
    assert seen["pod"]
    agent = agent_on(cluster, running["spec"]["nodeName"])
    dump = cluster.kubectl("--namespace", NAMESPACE, "exec", agent, "--", "python3", "-m", "wharfinger_dataplane.dump")
    (layout,) = json.loads(dump)["layouts"].values()
    assert layout["pods"][running["status"]["podIP"]]["roles"] & 1, "a client"
    assert gate(cluster, "begins")["outcome"] == "aware"


def agent_on(cluster, node):
    """The name of the agent's pod there."""
    return cluster.kubectl("--namespace", NAMESPACE, "get", "pods", "--selector=app.kubernetes.io/component=agent",
                           f"--field-selector=spec.nodeName={node}", "--output=jsonpath={.items[0].metadata.name}")


def injectors(cluster):
    """The names of the injector's pods, those included that are about to end."""
    return set(cluster.kubectl("--namespace", NAMESPACE, "get", "pods", "--selector=app.kubernetes.io/component=injector",
                               "--output=name").split())


def test_replicas_that_start_at_once_agree_on_one_keyring(cluster):
    """Ten keepers and a real API server: one creates the Secret, later one renews it, and all serve the same."""
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "keeper-tests"}}, {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "keeper-tests"},
        "webhooks": [{"name": f"{name}.keeper.tests", "clientConfig": {"service": {"name": "none", "namespace": "keeper-tests"}},
                      "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
                      "namespaceSelector": {"matchLabels": {"keeper-tests": "true"}},
                      "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}
                     for name in ("one", "two")]})
    sidecar = SidecarSettings("1", "image", "Never", {}, 1.0, "keeper-tests")
    settings = InjectorSettings(sidecar, "none", "keeper-tests", "certificates", 8443, "info")
    try:
        now = datetime.now(UTC)
        for moment in (now, now + timedelta(days=50), now + timedelta(days=250)):
            keyrings = asyncio.run(run_keepers(cluster, settings, moment))
            assert len({keyring.serving for keyring in keyrings}) == 1
        webhooks = get(cluster, "mutatingwebhookconfiguration", "keeper-tests")["webhooks"]
        assert {base64.b64decode(webhook["clientConfig"]["caBundle"]) for webhook in webhooks} == {keyrings[0].trust_bundle}
        assert len(keyrings[0].authorities) == 2
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration/keeper-tests", "namespace/keeper-tests", "--wait=false")


async def run_keepers(cluster, settings, moment):
    server = administrator(cluster)

    async def keeper():
        async with InjectorCluster(server, settings.sidecar.release_namespace) as store:
            return await synchronise(store, settings, moment)

    return await asyncio.gather(*(keeper() for _ in range(10)))


def administrator(cluster):
    """The API server as the kubeconfig's user (a client certificate)."""
    kubeconfig = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--flatten", "--minify"))
    server, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(server["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as file:  # ssl reads files only
        file.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        file.flush()
        context.load_cert_chain(file.name)
    return ApiServer(server["server"], context)

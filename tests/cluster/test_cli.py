"""The command line against a running release: what it says is what is so."""

import base64
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2]
ROOTS = ("crds", "dataplane", "cli")
WITHIN_S = 60
DIAL = """
import json, socket, sys
with socket.socket() as connection:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("", int(sys.argv[2])))
    connection.connect((sys.argv[1], int(sys.argv[3])))
    connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(connection.makefile("rb").read().partition(b"\\r\\n\\r\\n")[2].decode())
"""


@pytest.fixture(scope="module")
def environment(wharfinger):
    return {**wharfinger.cluster.environment(), "PYTHONPATH": os.pathsep.join(str(SOURCES / root) for root in ROOTS)}


@pytest.fixture(scope="module")
def run(environment):
    """Calls `wharfinger` with the words given: exit code and what it printed."""
    def call(*words):
        command = [sys.executable, "-m", "wharfinger_cli", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout
    return call


@pytest.fixture(scope="module")
def virtual_address(wharfinger):
    return wharfinger.cluster.kubectl("-n", "shop", "get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}")


def pod(cluster, name):
    return json.loads(cluster.kubectl("-n", "shop", "get", "pods", "-l", f"app.kubernetes.io/name={name}",
                                      "--field-selector=status.phase=Running", "-o", "json"))["items"][0]


def eventually(condition):
    until = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < until, f"in vain for {WITHIN_S} s"
        time.sleep(0.5)
    return found


def test_of_a_release_that_works_status_says_that_all_is_well(run, wharfinger):
    _, text = eventually(lambda: (found := run("status"))[0] == 0 and found)
    assert text.endswith("All is well.\n")
    view = json.loads(run("status", "-o", "json")[1])
    assert view["problems"] == []
    assert {(node["node"], node["agent"], node["lease"]) for node in view["nodes"]} == {
        (node.name, "ready", "live") for node in wharfinger.cluster.nodes}
    assert all(node["slicesCurrent"] == node["slices"] > 0 for node in view["nodes"])


def test_of_a_release_that_works_check_says_that_all_is_well(run):
    code, text = eventually(lambda: (found := run("check"))[0] == 0 and found)
    assert code == 0
    assert text.endswith("All is well.\n")


def test_check_names_the_pods_that_should_have_been_injected_and_were_not(run, wharfinger):
    """Its pod was made while no injector answered: with failurePolicy Ignore it starts without the sidecar."""
    kubectl, scale = wharfinger.cluster.kubectl, ("-n", "wharfinger-system", "scale", "deployment/wharfinger-injector")
    replicas = kubectl("-n", "wharfinger-system", "get", "deployment/wharfinger-injector", "-o", "jsonpath={.spec.replicas}")
    kubectl(*scale, "--replicas=0")
    try:
        eventually(lambda: not kubectl("-n", "wharfinger-system", "get", "pods", "-l", "app.kubernetes.io/component=injector", "-o", "name"))
        kubectl("-n", "shop", "rollout", "restart", "deployment/client")
        kubectl("-n", "shop", "rollout", "status", "deployment/client", "--timeout=120s", timeout_s=130)
        code, text = run("check", "-o", "json")
        found = {problem["where"]: problem for problem in json.loads(text)["problems"]}
        assert code == 1
        assert "without the sidecar" in found["Deployment shop/client"]["what"]
        assert "rollout restart --namespace shop deployment/client" in found["Deployment shop/client"]["remedy"]
        assert any(where.startswith("injector") for where in found)
    finally:
        kubectl(*scale, f"--replicas={replicas}")
        kubectl("-n", "wharfinger-system", "rollout", "status", "deployment/wharfinger-injector", "--timeout=60s")
        kubectl("-n", "shop", "rollout", "restart", "deployment/client")
        kubectl("-n", "shop", "rollout", "status", "deployment/client", "--timeout=120s", timeout_s=130)
    eventually(lambda: run("check")[0] == 0)


def test_a_sysdump_has_every_nodes_kernel_every_log_and_no_secret(run, wharfinger, tmp_path):
    code, text = run("sysdump", "--file", str(tmp_path / "dump"), "-o", "json")
    view = json.loads(text)
    assert (code, view["missing"]) == (0, {})
    with tarfile.open(tmp_path / "dump") as archive:
        found = {name.split("/", 1)[1]: archive.extractfile(name).read() for name in archive.getnames()}
    secrets = json.loads(wharfinger.cluster.kubectl("-n", "wharfinger-system", "get", "secrets", "-o", "json"))["items"]
    contents = [value for secret in secrets for value in (secret.get("data") or {}).values() if value not in json.dumps(bundles(wharfinger.cluster))]
    assert contents
    everything = b"".join(found.values())
    assert not [value for value in contents if value.encode() in everything or base64.b64decode(value) in everything]
    for node in wharfinger.cluster.nodes:
        kernel = json.loads(found[f"kernel/{node.name}.json"])
        (layout,) = kernel["layouts"].values()
        assert layout["pods"]
        assert kernel["links"]
    assert {name.split(".")[-2] for name in found if name.startswith("logs/")} >= {"operator", "injector", "agent"}


def bundles(cluster):
    """The trust bundles, which are no secret."""
    configurations = json.loads(cluster.kubectl("get", "mutatingwebhookconfigurations", "-o", "json"))["items"]
    return [webhook["clientConfig"].get("caBundle") for found in configurations for webhook in found["webhooks"]]


def test_pools_are_counted_as_the_api_server_has_them(run, wharfinger):
    code, text = run("pools", "-n", "shop", "-o", "json")
    raw = json.loads(wharfinger.cluster.kubectl("-n", "shop", "get", "serviceportpool", "shop", "-o", "json"))["status"]
    (view,) = json.loads(text)["servicePortPools"]
    assert code == 0
    assert {key: view[key] for key in ("total", "used", "resting", "free")} == raw["ports"]
    assert view["serversReady"] == raw["servers"]["ready"] == 4
    assert view["programmed"]


def test_the_server_that_explain_names_is_the_one_that_the_client_reaches(run, wharfinger, virtual_address):
    client = pod(wharfinger.cluster, "client")
    reached, named = [], []
    for port in range(20200, 20208):
        words = ("-n", "shop", "exec", client["metadata"]["name"], "-c", "client", "--", "python3", "-c", DIAL)
        reached.append(json.loads(wharfinger.cluster.kubectl(*words, virtual_address, str(port), "80"))["pod"])
        code, text = run("explain", f"{virtual_address}:80", "--from", f"{client['status']['podIP']}:{port}", "-o", "json")
        view = json.loads(text)
        assert code == 0
        assert all(step["holds"] for step in view["steps"]), view["steps"]
        named.append(view["chosen"]["server"].removeprefix("shop/"))
    assert named == reached
    assert len(set(named)) > 1


def test_explain_names_the_owner_of_a_service_port(run, wharfinger, virtual_address):
    slices = json.loads(wharfinger.cluster.kubectl("-n", "shop", "get", "serviceportslices", "-o", "json"))["items"]
    held = next(held for piece in slices for held in piece["spec"]["assignments"] if held["state"] == "Ready")
    port = held["targets"][0]["servicePorts"][0]
    code, text = run("explain", f"{virtual_address}:{port}", "-o", "json")
    view = json.loads(text)
    assert code == 0
    assert view["reason"]["name"] == "client_syn_service"
    assert (view["owner"]["server"], view["chosen"]["address"]) == (held["server"], held["address"])


def test_explain_tells_that_a_pod_which_opted_out_is_unaware(run, wharfinger, virtual_address):
    address = pod(wharfinger.cluster, "client-unaware")["status"]["podIP"]
    _, text = run("explain", f"{virtual_address}:80", "--from", f"{address}:40000", "-o", "json")
    (step,) = [step for step in json.loads(text)["steps"] if step["question"] == f"Is {address} an aware client?"]
    assert not step["holds"]


def test_explain_of_an_address_that_is_not_ours_ends_with_1(run):
    code, text = run("explain", "192.0.2.10:80")
    assert code == 1
    assert "not_virtual" in text


def test_an_operator_that_is_scaled_to_nothing_is_the_first_problem(run, wharfinger):
    scale = ("-n", "wharfinger-system", "scale", "deployment/wharfinger-operator")
    wharfinger.cluster.kubectl(*scale, "--replicas=0")
    try:
        code, text = eventually(lambda: (found := run("status"))[0] == 1 and found)
        assert code == 1
        assert text.startswith("✗ operator (Deployment wharfinger-system/wharfinger-operator): is scaled to 0")
        assert "--replicas=1" in text
    finally:
        wharfinger.cluster.kubectl(*scale, "--replicas=1")
        wharfinger.cluster.kubectl("-n", "wharfinger-system", "rollout", "status", "deployment/wharfinger-operator", "--timeout=60s")


def test_kubectl_finds_it_as_a_plugin(wharfinger, environment, tmp_path):
    plugin = tmp_path / "kubectl-wharfinger"
    plugin.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wharfinger_cli "$@"\n')
    plugin.chmod(0o755)
    found = subprocess.run([str(wharfinger.cluster.program("kubectl")), "wharfinger", "pools"], capture_output=True, text=True, timeout=60,
                           env={**environment, "PATH": f"{tmp_path}{os.pathsep}{environment['PATH']}"}, check=False)
    assert found.returncode == 0, found.stderr
    assert "shop/shop" in found.stdout

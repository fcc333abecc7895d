"""Who may read the release's Secrets, by the API server's own word: its reviews of every service account there is, and its answers to requests."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse

import pytest
import yaml
from release import NAMESPACE
from testbed.api import Api

TENANT = "rights-tests"
CERTIFICATES, TRACE_KEY = "wharfinger-injector-certificates", "wharfinger-trace-key"
INJECTOR, OPERATOR, AGENT = (f"{NAMESPACE}/wharfinger-{component}" for component in ("injector", "operator", "agent"))
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
MEANT = {(INJECTOR, "get", CERTIFICATES), (INJECTOR, "update", CERTIFICATES)}
"""docs/security.md, "Rights at the API server". Its right to create Secrets cannot be held to a name."""
SYSTEM = "kube-system"
"""The controllers of Kubernetes itself have accounts there, some of which clear any namespace."""


@pytest.fixture(scope="module")
def cluster(wharfinger):
    return wharfinger.cluster


@pytest.fixture(scope="module")
def tenant(cluster):
    """A service account that may do everything in a namespace of its own."""
    cluster.kubectl("apply", "--filename=-", input=yaml.safe_dump_all([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant", "namespace": TENANT}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "tenant", "namespace": TENANT},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
         "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": TENANT}]}]))
    yield f"{TENANT}/tenant"
    cluster.kubectl("delete", "namespace", TENANT, "--wait=false")


@pytest.fixture(scope="module")
def secrets(cluster):
    """The names of the release's Secrets: its trace key, the injector's certificates and what Helm remembers."""
    found = cluster.kubectl("-n", NAMESPACE, "get", "secrets", "-o", "jsonpath={.items[*].metadata.name}").split()
    assert {CERTIFICATES, TRACE_KEY} < set(found)
    return found


def may(api, account, verb, secret):
    """Whether the API server would let the account do so to this Secret; to any, if it is empty."""
    namespace, _, name = account.partition("/")
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    status, text = api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": f"system:serviceaccount:{namespace}:{name}", "groups": groups,
            "resourceAttributes": {"namespace": NAMESPACE, "verb": verb, "resource": "secrets", "name": secret}}})
    assert status == 201, text
    return json.loads(text)["status"]["allowed"]


def answered(cluster, account, path):
    """The status of the API server's answer to a GET with the account's token."""
    namespace, _, name = account.partition("/")
    token = cluster.kubectl("-n", namespace, "create", "token", name).strip()
    url = urllib.parse.urlsplit(cluster.settings.server)
    context = ssl.create_default_context(cafile=str(cluster.settings.certificates / "ca.crt"))
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=10, context=context)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_nobody_may_do_anything_to_the_releases_secrets_but_the_injector_to_its_own(cluster, tenant, secrets):
    api = Api(cluster.settings)
    found = json.loads(cluster.kubectl("get", "serviceaccounts", "-A", "-o", "json"))["items"]
    accounts = {f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in found if item["metadata"]["namespace"] != SYSTEM}
    assert {INJECTOR, OPERATOR, AGENT, tenant, f"{NAMESPACE}/default", "shop/default"} <= accounts
    assert may(api, tenant, "get", "") is False
    allowed = {(account, verb, secret) for account in accounts for verb in VERBS for secret in ("", *secrets) if may(api, account, verb, secret)}
    assert {entry for entry in allowed if entry[1] != "create"} == MEANT
    assert {account for account, verb, _ in allowed if verb == "create"} == {INJECTOR}


@pytest.mark.parametrize("account", [OPERATOR, AGENT, INJECTOR, f"{NAMESPACE}/default", f"{TENANT}/tenant"])
def test_a_request_for_a_secret_that_is_not_ones_own_is_refused(cluster, tenant, secrets, account):
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    own = {CERTIFICATES} if account == INJECTOR else set()
    statuses = {name: answered(cluster, account, f"{path}/{name}") for name in secrets}
    assert statuses == {name: 200 if name in own else 403 for name in secrets}
    assert answered(cluster, account, path) == 403
    assert answered(cluster, account, "/api/v1/secrets") == 403

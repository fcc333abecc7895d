"""The edge to the API server: reads, and turns what it says into typed things and its refusals into words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from wharfinger_api import AGENT_LEASE_PREFIX, GROUP, PLURALS, VERSION, MalformedObject, Resource, node_of_lease, parse

from ._errors import CliError, ExitCode
from ._problems import INSTALL
from ._seen import COMPONENT, RELEASE, AgentLease, AgentPod, Installation, Pools, Workload
from ._surroundings import Surroundings, definitions, node, pod, version_of, webhooks

TIMEOUT_S = (3.05, 15)  # to connect, to answer
CREATED = (("apiextensions.k8s.io", "customresourcedefinitions", False), ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", False),
           ("rbac.authorization.k8s.io", "clusterroles", False), ("rbac.authorization.k8s.io", "clusterrolebindings", False),
           ("rbac.authorization.k8s.io", "roles", True), ("apps", "deployments", True), ("apps", "daemonsets", True), ("", "secrets", True))
"""What an installation creates: API group, resource, whether in the release's namespace."""


class Cluster:
    """One API server, as a kubeconfig names it. CliError says why when it cannot be asked."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        try:
            configuration = client.Configuration()
            _load(kubeconfig, context, configuration)
        except (config.ConfigException, OSError) as error:
            remedy = "Name one with --kubeconfig and --context, or set KUBECONFIG."
            raise CliError(f"No cluster to ask: {kubeconfig or 'kubeconfig'}: {error}", remedy, ExitCode.USAGE) from error
        configuration.retries = urllib3.Retry(1)
        self._api = client.ApiClient(configuration)
        self.host = configuration.host

    def close(self) -> None:
        self._api.close()

    def pools(self, namespace: str | None) -> Pools:
        """Every pool, slice and report; of one namespace only if one is given."""
        return Pools(
            services=self._ours("ServicePortPool", namespace),
            redirects=self._ours("RedirectPortPool", namespace),
            slices=self._ours("ServicePortSlice", namespace),
            reports=self._ours("NodeReport", None),
        )

    def installation(self) -> Installation:
        """The release's workloads wherever they are, its agents' heartbeats, and the nodes."""
        apps, core = client.AppsV1Api(self._api), client.CoreV1Api(self._api)
        with self._asking("Deployments"):
            deployments = apps.list_deployment_for_all_namespaces(label_selector=RELEASE, **_patience()).items
        with self._asking("DaemonSets"):
            daemon_sets = apps.list_daemon_set_for_all_namespaces(label_selector=RELEASE, **_patience()).items
        with self._asking("Pods"):
            pods = core.list_pod_for_all_namespaces(label_selector=f"{RELEASE},{COMPONENT}=agent", **_patience()).items
        with self._asking("Nodes"):
            nodes, _, headers = core.list_node_with_http_info(**_patience())
        workloads = [*map(_deployment, deployments), *map(_daemon_set, daemon_sets)]
        return Installation(
            now=_date(headers.get("Date")),
            nodes=tuple(node.metadata.name for node in nodes.items),
            workloads=tuple(workloads),
            agents=tuple(_agent(pod) for pod in pods),
            leases=self._leases({workload.namespace for workload in workloads}),
        )

    def surroundings(self, namespace: str) -> Surroundings:
        """What Wharfinger is, or will be, installed into; `namespace` is the release's."""
        pods = (pod(raw) for raw in self.items("/api/v1/pods"))
        return Surroundings(
            version=version_of(self.raw("/version")["gitVersion"]),
            nodes=tuple(map(node, self.items("/api/v1/nodes"))),
            namespaces={raw["metadata"]["name"]: raw["metadata"].get("labels") or {} for raw in self.items("/api/v1/namespaces")},
            definitions=definitions(self.items("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")),
            webhooks=webhooks(self.items("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", labelSelector=RELEASE)),
            pods=tuple(found for found in pods if found),
            daemon_sets=tuple(raw["metadata"]["name"] for raw in self.items("/apis/apps/v1/daemonsets")),
            denied=tuple(f"create {resource}" for group, resource, namespaced in CREATED
                         if not self._may_create(group, resource, namespace if namespaced else "")),
        )

    def raw(self, path: str, **query: str) -> Any:
        """What the API server answers to GET `path`, JSON parsed."""
        return json.loads(self.text(path, **query))

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        """The items of the list at `path`."""
        return self.raw(path, **query)["items"]

    def text(self, path: str, **query: str) -> str:
        """What the API server answers to GET `path`, such as a log."""
        with self._asking(path):
            answer = self._api.call_api(path, "GET", query_params=list(query.items()), header_params={"Accept": "application/json, */*"},
                                        auth_settings=["BearerToken"], _preload_content=False, _return_http_data_only=True,
                                        _request_timeout=TIMEOUT_S)
            return answer.data.decode(errors="replace")

    def execute(self, namespace: str, pod: str, command: list[str]) -> str:
        """What `command` prints in the pod's first container; CliError also when it fails."""
        from kubernetes.stream import stream

        with self._asking(f"pod {namespace}/{pod}"):
            # A client of its own: the stream changes how its client sends requests.
            api = client.CoreV1Api(client.ApiClient(self._api.configuration))
            answer = stream(api.connect_get_namespaced_pod_exec, pod, namespace, command=command, stdout=True, stderr=True,
                            _preload_content=False, _request_timeout=TIMEOUT_S[1])
            answer.run_forever(timeout=TIMEOUT_S[1])
            printed, complaint, code = answer.read_stdout(), answer.read_stderr(), answer.returncode
            answer.close()
        if code:
            raise CliError(f"{' '.join(command)} in pod {namespace}/{pod} ended with {code}: {complaint.strip()[-500:]}", "See the pod's log.")
        return printed

    def _may_create(self, group: str, resource: str, namespace: str) -> bool:
        attributes = client.V1ResourceAttributes(verb="create", group=group, resource=resource, namespace=namespace)
        review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
        with self._asking("your rights"):
            return bool(client.AuthorizationV1Api(self._api).create_self_subject_access_review(review, **_patience()).status.allowed)

    def _leases(self, namespaces: set[str]) -> tuple[AgentLease, ...]:
        api, found = client.CoordinationV1Api(self._api), []
        for namespace in sorted(namespaces):
            with self._asking(f"Leases in namespace {namespace}"):
                found += api.list_namespaced_lease(namespace, **_patience()).items
        return tuple(AgentLease(node_of_lease(lease.metadata.name) or "", lease.spec.renew_time, lease.spec.lease_duration_seconds or 0)
                     for lease in found if lease.metadata.name.startswith(AGENT_LEASE_PREFIX))

    def _ours(self, kind: str, namespace: str | None) -> tuple[Any, ...]:
        api, plural = client.CustomObjectsApi(self._api), PLURALS[kind]
        ask: Callable[[], dict]
        if namespace:
            def ask() -> dict:
                return api.list_namespaced_custom_object(GROUP, VERSION, namespace, plural, **_patience())
        else:
            def ask() -> dict:
                return api.list_cluster_custom_object(GROUP, VERSION, plural, **_patience())
        with self._asking(f"{kind}s"):
            raw = ask()["items"]
        return tuple(_parsed(item) for item in raw)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except client.ApiException as error:
            raise _refused(error, what, self.host) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise CliError(f"The API server {self.host} does not answer: {error}",
                           "Check that it runs and that kubeconfig and context are the right ones: kubectl cluster-info") from error


def _load(kubeconfig: str | None, context: str | None, configuration: client.Configuration) -> None:
    """As kubectl does: the file named, else KUBECONFIG, else the usual one; in a pod without any, the pod's service account."""
    named = kubeconfig or context or os.environ.get("KUBECONFIG") or Path.home().joinpath(".kube", "config").exists()
    if not named and os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config(client_configuration=configuration)
    else:
        config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)


def _patience() -> dict[str, Any]:
    return {"_request_timeout": TIMEOUT_S}


def _refused(error: client.ApiException, what: str, host: str) -> CliError:
    if error.status == 404:
        return CliError(f"The API server {host} knows no {what}: Wharfinger's custom resources are missing.", f"Install it: {INSTALL}")
    if error.status in (401, 403):
        return CliError(f"You may not list {what} on {host} ({error.status} {error.reason}).",
                        "Ask for a role that may get and list them, or use another --context.")
    return CliError(f"The API server {host} answered {error.status} {error.reason} when asked for {what}.",
                    "Look into its log, and try again.")


def _parsed(raw: dict) -> Resource:
    try:
        return parse(raw)
    except MalformedObject as error:
        raise CliError(str(error), "Custom resource definitions and this command differ in version: upgrade the older.") from error


def _date(text: str | None) -> datetime:
    """The server's clock (RFC 9110, section 6.6.1), so that a wrong clock here makes no heartbeat late."""
    return parsedate_to_datetime(text) if text else datetime.now(UTC)


def _deployment(found: client.V1Deployment) -> Workload:
    return _workload("Deployment", found, found.spec.replicas or 0, found.status.ready_replicas or 0)


def _daemon_set(found: client.V1DaemonSet) -> Workload:
    return _workload("DaemonSet", found, found.status.desired_number_scheduled or 0, found.status.number_ready or 0)


def _workload(kind: str, found: client.V1Deployment | client.V1DaemonSet, wanted: int, ready: int) -> Workload:
    labels = found.metadata.labels or {}
    return Workload(kind, found.metadata.namespace, found.metadata.name, labels.get(COMPONENT, ""),
                    labels.get("app.kubernetes.io/version", ""), wanted, ready)


def _agent(pod: client.V1Pod) -> AgentPod:
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or ())
    waiting = [status.state.waiting.reason for status in pod.status.container_statuses or () if status.state and status.state.waiting]
    trouble = next((reason for reason in waiting if reason), "") or ("" if ready else pod.status.reason or "")
    return AgentPod(pod.metadata.namespace, pod.metadata.name, pod.spec.node_name or "", ready, trouble)

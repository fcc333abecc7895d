"""What the chart renders, and what it refuses."""

import base64
import json
import tarfile
from pathlib import Path

import pytest
import yaml
from wharfinger_dataplane.agent.settings import settings_from as agent_settings_from
from wharfinger_operator.injector._settings import settings_from
from wharfinger_operator.settings import settings_from as operator_settings_from
from wharfinger_operator.uninstall._settings import settings_from as uninstall_settings_from

TOP = Path(__file__).parents[3]
WORKLOADS = [("Deployment", "wharfinger-operator"), ("Deployment", "wharfinger-injector"), ("DaemonSet", "wharfinger-agent")]


def container(document):
    (only,) = document["spec"]["template"]["spec"]["containers"]
    return only


def environment(document):
    """A container's variables; those of the downward API get a name of their own as value."""
    return {variable["name"]: variable.get("value", variable["name"].lower()) for variable in container(document)["env"]}


def rules(objects, name):
    """Every (API group, resource, verb) that a component may use, cluster-wide or in the release namespace."""
    found = set()
    for kind in ("ClusterRole", "Role"):
        for rule in objects.get((kind, name), {"rules": []})["rules"]:
            found |= {(group, resource, verb) for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]}
    return found


def test_K04_lint_is_clean(chart):
    ended = chart.helm("lint", "--strict", str(chart.path))
    assert ended.returncode == 0, ended.stdout


def test_definitions_are_those_of_record_and_outlive_the_release(objects):
    of_record = [yaml.safe_load(path.read_text()) for path in sorted((TOP / "crds").glob("*.yaml"))]
    assert of_record
    rendered = {name: document for (kind, name), document in objects.items() if kind == "CustomResourceDefinition"}
    assert set(rendered) == {document["metadata"]["name"] for document in of_record}
    for document in of_record:
        assert rendered[document["metadata"]["name"]]["spec"] == document["spec"]
        assert rendered[document["metadata"]["name"]]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_definitions_can_be_left_out(chart):
    assert not [document for document in chart.render("--set", "crds.install=false") if document["kind"] == "CustomResourceDefinition"]


def test_package_holds_the_definitions_and_no_python_and_renders_the_same(chart, tmp_path):
    assert chart.helm("package", str(chart.path), "--destination", str(tmp_path)).returncode == 0
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        names = archive.getnames()
    assert "wharfinger/files/crds/serviceportpools.yaml" in names
    assert not [name for name in names if name.endswith((".py", ".pyc"))]
    key = ("--set", "telemetry.traceKey.existingSecret=own")
    assert chart.render(*key, chart=package) == chart.render(*key)


def test_helm_never_owns_the_trust_bundle_or_the_certificates(objects):
    for webhook in objects["MutatingWebhookConfiguration", "wharfinger-injector"]["webhooks"]:
        assert "caBundle" not in webhook["clientConfig"]
    assert [name for kind, name in objects if kind == "Secret"] == ["wharfinger-trace-key"]


def test_webhooks_select_by_namespace_and_pod_label_and_spare_the_release_namespace(objects):
    namespaced, own = objects["MutatingWebhookConfiguration", "wharfinger-injector"]["webhooks"]
    enabled, spared = namespaced["namespaceSelector"]["matchExpressions"]
    assert enabled == {"key": "wharfinger.io/inject", "operator": "In", "values": ["enabled"]}
    assert spared == {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["wharfinger-system"]}
    assert namespaced["objectSelector"]["matchExpressions"] == [{"key": "wharfinger.io/inject", "operator": "NotIn", "values": ["false"]}]
    others, spared = own["namespaceSelector"]["matchExpressions"]
    assert others == {"key": "wharfinger.io/inject", "operator": "NotIn", "values": ["enabled"]}
    assert spared["values"] == ["wharfinger-system", "kube-system"]
    assert own["objectSelector"]["matchExpressions"] == [{"key": "wharfinger.io/inject", "operator": "In", "values": ["true"]}]


def test_webhooks_ask_about_new_pods_only_and_an_absent_injector_stops_nobody(objects):
    for webhook in objects["MutatingWebhookConfiguration", "wharfinger-injector"]["webhooks"]:
        (rule,) = webhook["rules"]
        assert (rule["operations"], rule["resources"]) == (["CREATE"], ["pods"])
        assert (webhook["failurePolicy"], webhook["timeoutSeconds"], webhook["sideEffects"]) == ("Ignore", 5, "None")


def test_injector_understands_the_settings_that_the_chart_gives_it(chart, objects):
    settings = settings_from(environment(objects["Deployment", "wharfinger-injector"]) | {"POD_NAMESPACE": "wharfinger-system"})
    service = objects["Service", settings.service]
    assert service["spec"]["ports"][0]["targetPort"] == "https"
    assert ("MutatingWebhookConfiguration", settings.webhook_configuration) in objects
    assert container(objects["Deployment", "wharfinger-injector"])["ports"][0]["containerPort"] == settings.listen_port
    assert settings.sidecar.image == "wharfinger.local/sidecar:0.1.0"
    assert settings.sidecar.resources["requests"]["memory"] == "16Mi"


def test_injector_may_touch_its_own_configuration_and_secret_only(objects):
    (webhooks,) = objects["ClusterRole", "wharfinger-injector"]["rules"]
    assert webhooks["resourceNames"] == ["wharfinger-injector"]
    create, own = objects["Role", "wharfinger-injector"]["rules"]
    assert create["verbs"] == ["create"]
    secret = environment(objects["Deployment", "wharfinger-injector"])["WHARFINGER_CERTIFICATE_SECRET"]
    assert (own["resourceNames"], own["verbs"]) == ([secret], ["get", "update"])


def hooks(objects):
    """(kind, name) -> the hook's annotations."""
    return {key: annotations for key, document in objects.items()
            if "helm.sh/hook" in (annotations := document["metadata"].get("annotations", {}))}


def test_uninstallation_leaves_the_nodes_before_anything_goes_and_cleans_up_after(objects):
    when = {key: annotations["helm.sh/hook"] for key, annotations in hooks(objects).items()}
    assert when == {("Job", "wharfinger-uninstall-leave"): "pre-delete", ("Job", "wharfinger-uninstall-clean"): "post-delete",
                    **{(kind, "wharfinger-uninstall"): "pre-delete,post-delete"
                       for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")}}


def test_uninstallation_leaves_no_hook_behind_and_its_rights_come_before_its_jobs(objects):
    found = hooks(objects)
    assert {annotations["helm.sh/hook-delete-policy"] for annotations in found.values()} == {"before-hook-creation,hook-succeeded"}
    assert {int(annotations.get("helm.sh/hook-weight", 0)) < 0 for key, annotations in found.items() if key[0] != "Job"} == {True}


def test_uninstallations_jobs_understand_the_settings_that_the_chart_gives_them_and_run_restricted(chart):
    rendered = {document["metadata"]["name"]: document for document in
                chart.render("--set", "uninstall.gracePeriodSeconds=120,uninstall.keepPools=true") if document["kind"] == "Job"}
    for step in ("leave", "clean"):
        job = rendered[f"wharfinger-uninstall-{step}"]
        settings = uninstall_settings_from(environment(job))
        assert (settings.release, settings.grace_s, settings.keep_pools) == ("wharfinger", 120, True)
        assert container(job)["args"] == ["wharfinger_operator.uninstall", step]
        assert container(job)["securityContext"]["runAsNonRoot"]
        assert job["spec"]["activeDeadlineSeconds"] > settings.grace_s + settings.margin_s


def test_uninstallation_may_delete_pools_only_when_they_are_not_kept(chart, objects):
    def pools(found):
        return {resource for _, resource, verb in rules(found, "wharfinger-uninstall") if verb == "delete" and resource.endswith("pools")}

    kept = {(document["kind"], document["metadata"]["name"]): document for document in chart.render("--set", "uninstall.keepPools=true")}
    assert (pools(objects), pools(kept)) == ({"serviceportpools", "redirectportpools"}, set())


def test_agent_may_write_reports_heartbeats_and_events_only(objects):
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    written = {(group, resource) for group, resource, verb in rules(objects, "wharfinger-agent") if verb in writes}
    assert written == {
        ("wharfinger.io", "nodereports"), ("wharfinger.io", "nodereports/status"), ("coordination.k8s.io", "leases"), ("", "events")}


def test_operator_may_write_slices_statuses_leases_and_events_only(objects):
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    written = {(group, resource) for group, resource, verb in rules(objects, "wharfinger-operator") if verb in writes}
    assert written == {
        ("wharfinger.io", "serviceportslices"), ("wharfinger.io", "serviceportpools/status"), ("wharfinger.io", "redirectportpools/status"),
        ("coordination.k8s.io", "leases"), ("", "events")}


def test_operator_and_agent_understand_the_settings_that_the_chart_gives_them(chart):
    rendered = chart.render("--set", "agent.uplinks={eth0,eth1},agent.capacities.flows=1024,agent.attachMode=clsact,agent.logLevel=debug")
    variables = {document["metadata"]["name"]: environment(document) for document in rendered if "template" in document.get("spec", {})}
    agent = agent_settings_from(variables["wharfinger-agent"])
    assert (agent.uplinks, agent.capacities, agent.attach_mode.value) == (("eth0", "eth1"), (("flows", 1024),), "clsact")
    assert (agent.health_port, agent.late_s, agent.log_level) == (22342, 10.0, "debug")
    operator = operator_settings_from(variables["wharfinger-operator"])
    assert (operator.health_port, operator.identity, operator.log_level) == (8080, "pod_name_pod_uid", "info")


@pytest.mark.parametrize("name", ["wharfinger-operator", "wharfinger-agent"])
def test_nobody_but_the_injector_reads_secrets_and_nobody_has_a_wildcard(objects, name):
    granted = rules(objects, name) | rules(objects, "wharfinger-injector")
    assert not [rule for rule in granted if "*" in rule]
    assert not [rule for rule in rules(objects, name) if rule[1].partition("/")[0] == "secrets"]


def test_operator_and_injector_run_restricted(objects):
    for name in WORKLOADS[:2]:
        context = container(objects[name])["securityContext"]
        assert context == {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True, "runAsGroup": 65532,
            "runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}


def test_agent_has_four_capabilities_and_the_hosts_network_and_nothing_else_of_the_host(objects):
    pod = objects["DaemonSet", "wharfinger-agent"]["spec"]["template"]["spec"]
    context = container(objects["DaemonSet", "wharfinger-agent"])["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "BPF", "PERFMON", "SYS_ADMIN"]}
    assert not context.get("privileged") and context["readOnlyRootFilesystem"]
    assert pod["hostNetwork"] and not pod.get("hostPID") and not pod.get("hostIPC")
    assert [volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume] == ["/run/netns", "/sys/fs/bpf"]
    assert pod["tolerations"] == [{"operator": "Exists"}]


def test_there_is_one_operator_and_never_two_at_a_time(objects):
    spec = objects["Deployment", "wharfinger-operator"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_pods_are_found_by_labels_that_their_selectors_name_and_versions_do_not_change(objects):
    for name in WORKLOADS:
        spec = objects[name]["spec"]
        selector = spec["selector"]["matchLabels"]
        assert selector.items() <= spec["template"]["metadata"]["labels"].items()
        assert set(selector) == {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}


def test_nothing_is_exported_without_an_end_point(objects):
    for name in (WORKLOADS[0], WORKLOADS[2]):
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in environment(objects[name])


def test_end_point_reaches_operator_and_agents_and_the_ratio_the_agents_only(chart):
    rendered = chart.render("--set", "telemetry.otlpEndpoint=http://10.96.0.20:4318,telemetry.samplingRatio=0.1")
    variables = {document["metadata"]["name"]: environment(document) for document in rendered if "template" in document.get("spec", {})}
    for name in ("wharfinger-operator", "wharfinger-agent"):
        assert variables[name]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://10.96.0.20:4318"
    assert variables["wharfinger-agent"]["OTEL_TRACES_SAMPLER_ARG"] == "0.1"
    assert "OTEL_TRACES_SAMPLER_ARG" not in variables["wharfinger-operator"]


def test_trace_key_has_32_bytes_and_the_agents_mount_it(objects):
    assert len(base64.b64decode(objects["Secret", "wharfinger-trace-key"]["data"]["key"])) == 32
    agent = objects["DaemonSet", "wharfinger-agent"]
    (volume,) = [volume for volume in agent["spec"]["template"]["spec"]["volumes"] if "secret" in volume]
    (mount,) = [mount for mount in container(agent)["volumeMounts"] if mount["name"] == volume["name"]]
    assert volume["secret"]["secretName"] == "wharfinger-trace-key"
    assert environment(agent)["WHARFINGER_TRACE_KEY_FILE"] == f"{mount['mountPath']}/key"


def test_trace_key_may_be_ones_own(chart):
    rendered = chart.render("--set", "telemetry.traceKey.existingSecret=own")
    assert not [document for document in rendered if document["kind"] == "Secret"]


def test_one_tag_sets_all_images_and_a_components_own_tag_wins(chart):
    rendered = chart.render("--set", "image.tag=dev,image.dataplane.tag=next,image.sidecar.pullPolicy=Never")
    images = {document["metadata"]["name"]: container(document)["image"] for document in rendered if "template" in document.get("spec", {})}
    assert images == {
        "wharfinger-operator": "wharfinger.local/operator:dev", "wharfinger-injector": "wharfinger.local/operator:dev",
        "wharfinger-agent": "wharfinger.local/dataplane:next", "wharfinger-uninstall-leave": "wharfinger.local/operator:dev",
        "wharfinger-uninstall-clean": "wharfinger.local/operator:dev"}
    (injector,) = [document for document in rendered if (document["kind"], document["metadata"]["name"]) == WORKLOADS[1]]
    assert environment(injector)["WHARFINGER_SIDECAR_PULL_POLICY"] == "Never"


def test_one_injector_is_enough_and_needs_no_disruption_budget(chart):
    assert not [document for document in chart.render("--set", "injector.replicas=1") if document["kind"] == "PodDisruptionBudget"]


@pytest.mark.parametrize("value", [
    "injector.replica=1", "agents.healthPort=1", "injector.replicas=0", "injector.failurePolicy=ignore", "injector.timeoutSeconds=31",
    "telemetry.samplingRatio=1.5", "telemetry.otlpEndpoint=jaeger:4318", "image.tag=a b", "sidecar.startGateTimeoutSeconds=0",
    "agent.healthPort=70000", "sidecar.startGateTimeoutSeconds=2.5", "telemetry.samplingRatio=half", "image.pullPolicy=Sometimes",
])
def test_value_that_does_not_exist_or_is_out_of_bounds_is_refused(chart, value):
    ended = chart.template("--set", value)
    assert ended.returncode != 0
    assert "values don't meet the specifications of the schema" in ended.stderr


def test_every_value_of_the_schema_is_in_the_reference(chart):
    schema = json.loads((chart.path / "values.schema.json").read_text())
    del schema["properties"]["global"]
    assert missing(schema["properties"], yaml.safe_load((chart.path / "values.yaml").read_text())) == []


def missing(properties, values, at=""):
    """Dotted names of the schema's own (not shared) properties that `values` lacks."""
    absent = [f"{at}{name}" for name in properties if name not in values]
    for name in properties.keys() - set(absent):
        absent += missing(properties[name].get("properties", {}), values[name], f"{at}{name}.")
    return absent


def test_example_is_applied_whole_by_folder_and_by_kustomization():
    folder = TOP / "examples" / "shop"
    assert yaml.safe_load((folder / "Kustomization").read_text())["resources"] == sorted(path.name for path in folder.glob("*.yaml"))

"""What the injector does to pods. Patches are applied with the jsonpatch rules of RFC 6902 and the result is judged."""

import copy

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from wharfinger_operator.injector._mutate import CONTAINER, Reason, mutate, sidecar
from wharfinger_operator.injector._settings import SidecarSettings


def patched(pod, decision):
    return jsonpatch.apply_patch(copy.deepcopy(pod), list(decision.patch))


def inject(pod, settings):
    return patched(pod, mutate(pod, "shop", settings.sidecar))


def test_K03_sidecar_is_the_first_init_container_and_restarts_always(pod, settings):
    first, second = inject(pod, settings)["spec"]["initContainers"]
    assert (first["name"], first["restartPolicy"]) == (CONTAINER, "Always")
    assert second["name"] == "migrate"


def test_K03_pod_is_marked_with_the_version_and_as_aware(pod, settings):
    metadata = inject(pod, settings)["metadata"]
    assert metadata["annotations"] == {"team/notes": "x", "wharfinger.io/injected": "0.1.0"}
    assert metadata["labels"] == {"app": "client", "wharfinger.io/client": "aware"}


def test_pod_without_labels_annotations_or_init_containers_gets_them(settings):
    wanted = inject({"kind": "Pod", "metadata": {}, "spec": {"containers": [{"name": "c"}]}}, settings)
    assert wanted["metadata"] == {"annotations": {"wharfinger.io/injected": "0.1.0"}, "labels": {"wharfinger.io/client": "aware"}}
    assert [container["name"] for container in wanted["spec"]["initContainers"]] == [CONTAINER]


def test_sidecar_satisfies_pod_security_restricted(settings):
    context = sidecar(settings.sidecar)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert isinstance(context["runAsUser"], int) and context["runAsUser"] > 0
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["readOnlyRootFilesystem"] is True


def test_sidecar_learns_its_pod_namespace_and_node_from_the_downward_api(settings):
    paths = {variable["name"]: variable["valueFrom"]["fieldRef"]["fieldPath"]
             for variable in sidecar(settings.sidecar)["env"] if "valueFrom" in variable}
    assert paths == {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "NODE_NAME": "spec.nodeName"}


def leave_alone(pod, **changes):
    """`pod` with the given paths changed (metadata.labels and the like by their last name)."""
    changed = copy.deepcopy(pod)
    for place in ("labels", "annotations"):
        changed["metadata"][place] |= changes.get(place, {})
    changed["spec"] |= changes.get("spec", {})
    return changed


@pytest.mark.parametrize(("changes", "namespace", "reason"), [
    ({}, "wharfinger-system", Reason.RELEASE_NAMESPACE),
    ({"labels": {"wharfinger.io/inject": "false"}}, "shop", Reason.OPTED_OUT),
    ({"spec": {"hostNetwork": True}}, "shop", Reason.HOST_NETWORK),
    ({"spec": {"os": {"name": "windows"}}}, "shop", Reason.NOT_LINUX),
    ({"annotations": {"kubernetes.io/config.mirror": "x"}}, "shop", Reason.MIRROR),
])
def test_pod_is_left_alone_for_a_named_reason(pod, settings, changes, namespace, reason):
    decision = mutate(leave_alone(pod, **changes), namespace, settings.sidecar)
    assert (decision.reason, decision.patch) == (reason, ())


@pytest.mark.parametrize("changes", [
    {"labels": {"wharfinger.io/inject": "true"}}, {"spec": {"hostNetwork": False}},
    {"spec": {"os": {"name": "linux"}}}, {"spec": {"os": None}},
])
def test_pod_that_says_what_is_so_anyway_is_injected(pod, settings, changes):
    assert mutate(leave_alone(pod, **changes), "shop", settings.sidecar).reason is Reason.INJECTED


def test_second_call_patches_nothing(pod, settings):
    again = mutate(inject(pod, settings), "shop", settings.sidecar)
    assert (again.reason, again.patch) == (Reason.ALREADY_INJECTED, ())


def test_second_call_after_the_api_servers_defaults_and_a_token_mount_patches_nothing(pod, settings):
    injected = inject(pod, settings)
    ours = injected["spec"]["initContainers"][0]
    ours |= {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "volumeMounts": [{"name": "token"}]}
    for variable in ours["env"]:
        if "valueFrom" in variable:
            variable["valueFrom"]["fieldRef"]["apiVersion"] = "v1"
    assert mutate(injected, "shop", settings.sidecar).reason is Reason.ALREADY_INJECTED


def test_sidecar_goes_back_to_the_front_when_another_webhook_has_put_itself_there(pod, settings):
    injected = inject(pod, settings)
    injected["spec"]["initContainers"].insert(0, {"name": "mesh-init"})
    assert [container["name"] for container in inject(injected, settings)["spec"]["initContainers"]] == [CONTAINER, "mesh-init", "migrate"]


def test_sidecar_of_another_version_is_replaced(pod, settings):
    injected = inject(pod, settings)
    injected["spec"]["initContainers"][0]["image"] = "wharfinger.local/sidecar:old"
    injected["metadata"]["annotations"]["wharfinger.io/injected"] = "0.0.9"
    renewed = inject(injected, settings)
    assert renewed["metadata"]["annotations"]["wharfinger.io/injected"] == "0.1.0"
    assert [container["image"] for container in renewed["spec"]["initContainers"]] == ["wharfinger.local/sidecar:dev", "client"]


names = st.sampled_from([CONTAINER, "a", "b", "c"])


@hypothesis_settings(deadline=None)
@given(present=st.none() | st.lists(names.map(lambda name: {"name": name, "image": "x"}), max_size=5),
       labels=st.none() | st.dictionaries(st.sampled_from(["wharfinger.io/client", "a/b", "c~d"]), st.sampled_from(["aware", "x"])))
def test_any_pod_ends_with_one_sidecar_in_front_and_its_own_containers_in_order(present, labels):
    settings = SidecarSettings("1", "image", "Always", {}, 1.0, "system")
    pod = {"metadata": {} if labels is None else {"labels": labels}, "spec": {} if present is None else {"initContainers": present}}
    result = patched(pod, mutate(pod, "shop", settings))
    own = [container["name"] for container in present or [] if container["name"] != CONTAINER]
    assert [container["name"] for container in result["spec"]["initContainers"]] == [CONTAINER, *own]
    assert result["metadata"]["labels"] == {**(labels or {}), "wharfinger.io/client": "aware"}
    assert mutate(result, "shop", settings).reason is Reason.ALREADY_INJECTED

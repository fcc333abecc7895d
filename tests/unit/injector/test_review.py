"""AdmissionReviews in and out."""

import base64
import json

import pytest
from wharfinger_operator.injector._mutate import Decision, Reason, mutate
from wharfinger_operator.injector._review import ReviewError, answer, parse


def review_of(pod, **changes):
    request = {"uid": "u-1", "namespace": "shop", "operation": "CREATE", "object": pod} | changes
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def test_answer_names_the_request_and_carries_the_patch_in_base64(pod, settings):
    review = parse(json.dumps(review_of(pod)).encode())
    decision = mutate(review.pod, review.namespace, settings.sidecar)
    document = answer(review, decision)
    response = document["response"]
    assert (document["apiVersion"], document["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u-1", True, "JSONPatch")
    assert tuple(json.loads(base64.b64decode(response["patch"]))) == decision.patch
    assert response["auditAnnotations"] == {"injection": "injected"}


def test_answer_without_a_patch_has_no_patch_type(pod):
    response = answer(parse(json.dumps(review_of(pod)).encode()), Decision(Reason.HOST_NETWORK))["response"]
    assert response == {"uid": "u-1", "allowed": True, "auditAnnotations": {"injection": "host network"}}


@pytest.mark.parametrize(("document", "message"), [
    (b"{", "is no JSON"),
    (b"\xff\xff", "is no JSON"),
    ([], "is no AdmissionReview"),
    ({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}, "is no AdmissionReview of admission.k8s.io/v1"),
    ({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}, "no request with a uid"),
    (review_of({"kind": "Pod", "spec": {}}, operation="UPDATE"), "not about the creation of a pod"),
    (review_of({"kind": "Service", "spec": {}}), "not about the creation of a pod"),
    (review_of({"kind": "Pod"}), "not about the creation of a pod"),
    (review_of(None), "not about the creation of a pod"),
])
def test_body_that_is_no_review_of_a_new_pod_is_refused_with_what_is_wrong(document, message):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ReviewError, match=message):
        parse(body)

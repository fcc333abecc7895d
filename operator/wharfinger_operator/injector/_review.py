"""AdmissionReview (admission.k8s.io/v1) in and out: the edge that parses once, then passes valid things."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from wharfinger_operator.injector._mutate import Decision

API_VERSION = "admission.k8s.io/v1"


class ReviewError(ValueError):
    """The body is no AdmissionReview of a pod under creation; the message says what is wrong with it."""


@dataclass(frozen=True)
class Review:
    """A request to admit `pod`, which `namespace` is to hold. `uid` names the request, and its answer."""

    uid: str
    namespace: str
    pod: dict[str, Any]


def parse(body: bytes) -> Review:
    """The review in `body` (JSON); ReviewError when it is none, or is about anything but the creation of a pod."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ReviewError(f"the body is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("apiVersion") != API_VERSION or document.get("kind") != "AdmissionReview":
        raise ReviewError(f"the body is no AdmissionReview of {API_VERSION}")
    request = document.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise ReviewError("the AdmissionReview has no request with a uid")
    pod = request.get("object")
    is_pod = isinstance(pod, dict) and pod.get("kind") == "Pod" and isinstance(pod.get("spec"), dict)
    if request.get("operation") != "CREATE" or not is_pod:
        raise ReviewError("the request is not about the creation of a pod; the webhook's rules must ask for nothing else")
    return Review(uid=request["uid"], namespace=str(request.get("namespace", "")), pod=pod)


def answer(review: Review, decision: Decision) -> dict[str, Any]:
    """The AdmissionReview that answers `review`: always allowed, with the decision's patch, its reason for the audit log."""
    response: dict[str, Any] = {"uid": review.uid, "allowed": True, "auditAnnotations": {"injection": str(decision.reason)}}
    if decision.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(decision.patch).encode()).decode()
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}

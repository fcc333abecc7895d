"""Which pods were to be aware and are not, or became so too late, and why: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from wharfinger_api import Finding

from wharfinger_dataplane.agent.desired import Attachment, LocalPod

LATE, MISSING, POLICED, REFUSED = "TranslatorLate", "TranslatorMissing", "NetworkPolicy", "TranslatorRefused"


def untimely(pods: Iterable[LocalPod], attached_at: Mapping[str, datetime], now: datetime,
             late_s: float) -> Iterator[tuple[LocalPod, str, str]]:
    """(pod, reason, message) of each injected pod whose start gate opened without a translator. `attached_at`: address -> when its programs
    were attached; `late_s`: the start gate's time-out."""
    for pod in pods:
        if not pod.injected or pod.ended or pod.host_network or pod.gate_since is None or not pod.addresses:
            continue
        deadline = pod.gate_since + timedelta(seconds=late_s)
        times = [attached_at[address] for address in pod.addresses if address in attached_at]
        if times and min(times) > deadline:
            waited = (min(times) - pod.gate_since).total_seconds()
            yield pod, LATE, (f"The translator was attached {waited:.0f} s after the sidecar's start; connections opened by then "
                              "are unaware and stay so. Restart the pod if they must not; the node's agent logs why it was late.")
        elif not times and now > deadline:
            yield pod, MISSING, ("The pod is injected, but its interface bears no translator: its connections are unaware. The node's "
                                 "agent logs why.")


def policed(pods: Iterable[LocalPod], attached: Mapping[str, Attachment]) -> Iterator[tuple[LocalPod, str, str]]:
    """(pod, reason, message) of each aware client that a NetworkPolicy keeps unaware."""
    for pod in pods:
        policy = next((attached[address].egress for address in pod.addresses if address in attached), "")
        if pod.injected and policy:
            yield pod, POLICED, (f"NetworkPolicy {policy} selects this pod for egress: its new connections are unaware by rule, so that "
                                 "the policy engine judges them; kube-proxy balances them. Those that stand go on.")


def refused(pods: Iterable[LocalPod], refusals: Mapping[str, Finding]) -> Iterator[tuple[LocalPod, str, str]]:
    """(pod, reason, message) of each pod that gets no translator; `refusals` by namespace/name."""
    for pod in pods:
        finding = refusals.get(pod.reference)
        if finding and not pod.ended:
            yield pod, REFUSED, f"{finding.message[0].upper()}{finding.message[1:]}. Remedy: {finding.remedy}."

"""`wharfinger check`: can Wharfinger be installed here; once it is, is it whole. Each finding with its remedy."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from wharfinger_api import GROUP, PLURALS, VERSION

from ._injection import missed, misspelt, outdated, unattached
from ._neighbours import noted, refused
from ._output import console
from ._problems import Problem, print_notes, print_problems
from ._seen import Installation, Pools
from ._surroundings import Surroundings
from .status import build_status

if TYPE_CHECKING:
    from rich.console import Console

KUBERNETES = (1, 30)
"""Native sidecars, and match conditions of webhooks."""
KERNEL = (5, 15)
"""The first long-term release that has everything the programs call (docs/kernels.md)."""
SHOWN = (6, 1)
"""The oldest in which the programs were run; that they load in those before is argued only."""
ENFORCE = "pod-security.kubernetes.io/enforce"
RENEWED = timedelta(days=30)
"""The injector renews its authority 120 days before its end; with less than this left, it does not."""
NAMED = 5


@dataclass(frozen=True)
class Question:
    """What was looked at, and whether a problem was found."""

    question: str
    well: bool


@dataclass(frozen=True)
class CheckView:
    """What `wharfinger check -o json` prints. `notes` need no action to work; `questions` are all that was asked."""

    installed: bool
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    questions: tuple[Question, ...]


def build_check(seen: Surroundings, installation: Installation, pools: Pools | None, namespace: str, version: str) -> CheckView:
    """The view, before an installation (no workload of a release is there) and after. Pure.

    `namespace` is where the release is or will be, `version` this command's.
    """
    installed = bool(installation.workloads)
    asked: list[tuple[str, list[Problem]]] = [
        (f"Kubernetes is {_dotted(KUBERNETES)} or later", list(_kubernetes(seen))),
        (f"every Linux node has a kernel {_dotted(KERNEL)} or later and an IPv4 address", list(_nodes(seen))),
        (f"namespace {namespace} admits agents", list(_namespace(seen, namespace))),
    ]
    notes = [*_untried(seen), *_neighbours(seen), *misspelt(seen)]
    if not installed:
        asked += [("you may install", list(_rights(seen))), ("nothing of a former release is in the way", list(_leftovers(seen)))]
    else:
        reports = (pools or Pools()).reports
        refusals = list(refused(reports))
        unwell = [problem for problem in build_status(installation, pools or Pools()).problems if problem not in refusals]
        asked += [
            ("the definitions are those that this release needs", list(_definitions(seen))),
            ("the API server trusts the injector", list(_webhooks(seen, installation.now))),
            ("operator, injector, agents and pools are well", unwell),
            ("nothing at pods' interfaces keeps a translator away", refusals),
            ("pods selected for injection are injected", list(missed(seen))),
            ("injected pods have their translator", list(unattached(seen, reports, installation.now))),
        ]
        notes += [*_fallbacks(pools or Pools()), *noted(reports), *_skew(installation, version), *outdated(seen, _release_version(installation))]
    return CheckView(installed, tuple(problem for _, found in asked for problem in found), tuple(notes),
                     tuple(Question(question, not found) for question, found in asked))


def print_check(view: CheckView, out: Console | None = None) -> None:
    """Problems, notes, then every question."""
    out = out or console()
    print_problems(out, view.problems)
    print_notes(out, view.notes)
    for question in view.questions:
        out.print(f"{'✓' if question.well else '✗'} {question.question}", soft_wrap=True)
    if not view.problems:
        out.print()
        out.print("All is well." if view.installed else "Wharfinger can be installed here.")


def _kubernetes(seen: Surroundings) -> Iterator[Problem]:
    if seen.version < KUBERNETES:
        yield Problem("API server", f"is {_dotted(seen.version)}; Wharfinger needs {_dotted(KUBERNETES)} or later", "upgrade the cluster")


def _nodes(seen: Surroundings) -> Iterator[Problem]:
    linux = [node for node in seen.nodes if node.system in ("", "linux")]
    if not linux:
        yield Problem("nodes", "none runs Linux", "add a node that does: agents run nowhere else")
    for node in linux:
        if node.kernel < KERNEL:
            yield Problem(f"node {node.name}", f"has kernel {_dotted(node.kernel)}; its pods can be aware from {_dotted(KERNEL)} on",
                          "upgrade its kernel, or keep agents off it (agent.nodeSelector) and pods that are to be aware too")
        if node.addresses and not any("." in address for address in node.addresses):
            yield Problem(f"node {node.name}", "has no internal IPv4 address; only IPv4 is redirected so far", "give it one, or wait for IPv6")


def _untried(seen: Surroundings) -> Iterator[Problem]:
    for node in seen.nodes:
        if node.system in ("", "linux") and KERNEL <= node.kernel < SHOWN:
            yield Problem(f"node {node.name}", f"has kernel {_dotted(node.kernel)}, which has all that is needed; the oldest that was tried "
                          f"is {_dotted(SHOWN)}", "see that its NodeReport is Ready after the installation")


def _fallbacks(pools: Pools) -> Iterator[Problem]:
    """What the nodes' agents do without: nodes that say the same are one note."""
    said: dict[str, list[str]] = {}
    for report in pools.reports:
        for fallback in report.status.fallbacks:
            said.setdefault(fallback.message, []).append(report.metadata.name)
    for message, nodes in sorted(said.items()):
        yield Problem(_named(sorted(nodes)), message, "nothing need be done; a newer kernel has it")


def _named(nodes: list[str]) -> str:
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return f"{'nodes' if len(nodes) > 1 else 'node'} {', '.join(nodes[:NAMED])}{more}"


def _namespace(seen: Surroundings, namespace: str) -> Iterator[Problem]:
    enforced = (seen.namespaces or {}).get(namespace, {}).get(ENFORCE, "privileged")
    if enforced != "privileged":
        yield Problem(f"namespace {namespace}", f"enforces the Pod Security Standard {enforced}, which keeps agents out",
                      f"kubectl label namespace {namespace} {ENFORCE}=privileged --overwrite")


def _rights(seen: Surroundings) -> Iterator[Problem]:
    for right in seen.denied:
        yield Problem("you", f"may not {right}, which an installation does", "ask an administrator to install, or for that right")


def _leftovers(seen: Surroundings) -> Iterator[Problem]:
    for name in sorted({webhook.configuration for webhook in seen.webhooks}):
        yield Problem(f"MutatingWebhookConfiguration {name}", "is there though no release is: pods that it selects wait for an answer in vain",
                      f"kubectl delete mutatingwebhookconfiguration {name}")
    for plural, versions in sorted((seen.definitions or {}).items()):
        if VERSION not in versions:
            yield Problem(f"CustomResourceDefinition {plural}.{GROUP}", f"serves {', '.join(versions)} and not {VERSION}",
                          "it is another release's; let this one bring its own (crds.install: true)")


def _definitions(seen: Surroundings) -> Iterator[Problem]:
    for kind, plural in PLURALS.items():
        served = (seen.definitions or {}).get(plural, ())
        if VERSION not in served:
            yield Problem(f"CustomResourceDefinition {plural}.{GROUP}", f"{kind} {VERSION} is not served",
                          "helm upgrade with crds.install: true, or kubectl apply --server-side --filename crds/")


def _webhooks(seen: Surroundings, now: datetime) -> Iterator[Problem]:
    if not seen.webhooks:
        yield Problem("MutatingWebhookConfiguration", "there is none of ours: no pod is injected", "helm upgrade brings it back")
    for name, bundle in sorted({(webhook.configuration, webhook.ca_bundle) for webhook in seen.webhooks}):
        where = f"MutatingWebhookConfiguration {name}"
        if not bundle:
            yield Problem(where, "has no trust bundle: the API server cannot call the injector, and no pod is injected",
                          "the injector writes it: see its log")
            continue
        left = _expiry(bundle) - now
        if left < RENEWED:
            yield Problem(where, f"its trust bundle ends in {left.days} days and was not renewed", "the injector renews it: see its log")


def _expiry(bundle: str) -> datetime:
    """When the last authority in a PEM bundle ends; at once when none can be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=bundle)
    except (ssl.SSLError, ValueError):
        return datetime.fromtimestamp(0, UTC)
    ends = [ssl.cert_time_to_seconds(str(found["notAfter"])) for found in context.get_ca_certs()]
    return datetime.fromtimestamp(max(ends, default=0), UTC)


def _neighbours(seen: Surroundings) -> Iterator[Problem]:
    if "cilium" in seen.daemon_sets:
        yield Problem("DaemonSet cilium", "its programs are at pods' interfaces too; the two have not been run together",
                      "try on one node first (agent.nodeSelector)")


def _skew(installation: Installation, version: str) -> Iterator[Problem]:
    release = _release_version(installation)
    if release and release != version:
        yield Problem("this command", f"is version {version}, the release {release}", "use the release's own, so that both know the same things")


def _release_version(installation: Installation) -> str:
    return next((found.version for found in installation.workloads if found.component == "injector"), "")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))

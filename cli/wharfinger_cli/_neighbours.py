"""What agents found beside themselves on their nodes, as their reports have it: pods that get no translator,
and packets that take a node's stack. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wharfinger_api import Effect, Finding, NodeReport

from ._problems import Problem


def refused(reports: Iterable[NodeReport]) -> Iterator[Problem]:
    """Pods that would have a translator, but for something at their interfaces."""
    for node, finding in _findings(reports):
        if finding.effect is Effect.REFUSED:
            yield Problem(
                finding.where,
                f"has no translator on node {node} ({finding.reason}): {finding.message}",
                finding.remedy,
            )


def refused_pods(reports: Iterable[NodeReport]) -> frozenset[str]:
    """namespace/name of those."""
    return frozenset(
        finding.where.removeprefix("Pod ")
        for _, finding in _findings(reports)
        if finding.effect is Effect.REFUSED
    )


def noted(reports: Iterable[NodeReport]) -> Iterator[Problem]:
    """What leaves packets of aware connections to a node's stack, and what else is worth knowing. All of it
    works."""
    for node, finding in _findings(reports):
        if finding.effect is not Effect.REFUSED:
            where = f"node {node}" if finding.where == "the node" else f"node {node}, {finding.where}"
            yield Problem(where, f"{finding.message} ({finding.reason})", finding.remedy)


def _findings(reports: Iterable[NodeReport]) -> Iterator[tuple[str, Finding]]:
    for report in reports:
        for finding in report.status.findings:
            yield report.metadata.name, finding

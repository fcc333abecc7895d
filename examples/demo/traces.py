"""Traces from Jaeger's query API, as a tree of text."""

from __future__ import annotations

import json
import time
from urllib.parse import urlencode

from testbed import Cluster

QUERY = "/api/v1/namespaces/observability/services/jaeger:query/proxy/api/traces"
SHOWN = ("wharfinger.reason", "wharfinger.reason.words", "wharfinger.virtual_address", "wharfinger.redirect_port", "wharfinger.service_port",
         "wharfinger.target_port", "wharfinger.server", "wharfinger.client", "k8s.node.name", "client.address", "client.port", "wharfinger.ended_by")


def connection_trace(cluster: Cluster, since: float) -> list[dict] | None:
    """The spans of one connection after `since` (seconds) that has client, balancer and server; None while there is none."""
    query = {"service": "wharfinger-agent", "start": int(since * 1e6), "end": int(time.time() * 1e6), "limit": 50,
             "tags": json.dumps({"wharfinger.role": "server"})}
    traces = json.loads(cluster.kubectl("get", "--raw", f"{QUERY}?{urlencode(query)}"))["data"]
    for trace in traces:
        spans = [span | {"node": trace["processes"][span["processID"]]} for span in trace["spans"]]
        if {"client", "balancer", "server"} <= {attributes(span).get("wharfinger.role") for span in spans}:
            return spans
    return None


def attributes(span: dict) -> dict[str, object]:
    """A span's own attributes, and its resource's."""
    return {tag["key"]: tag["value"] for tag in (*span["node"].get("tags", ()), *span["tags"])}


def tree(spans: list[dict]) -> list[str]:
    """The spans as lines, children below their parents."""
    parents = {span["spanID"]: next((r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"), "") for span in spans}
    lines = [f"trace {spans[0]['traceID']}"]

    def add(parent: str, depth: int) -> None:
        for span in sorted((s for s in spans if parents[s["spanID"]] == parent), key=lambda s: s["startTime"]):
            lines.append(f"{'   ' * depth}└─ {span['operationName']}  ({span['duration']} µs)")
            known = attributes(span)
            lines.extend(f"{'   ' * depth}     {name} = {known[name]}" for name in SHOWN if name in known)
            add(span["spanID"], depth + 1)

    add(next((parent for parent in parents.values() if parent not in parents), ""), 0)
    return lines

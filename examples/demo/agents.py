"""What the agents' programs counted, from each agent's own metrics."""

from __future__ import annotations

import re
from collections import Counter

from testbed import Cluster

METRICS = "http://127.0.0.1:22342/metrics"
LINE = re.compile(r'wharfinger_packets_total\{hook="(\w+)",reason="(\w+)"\} (\d+)')


def counters(cluster: Cluster) -> Counter[tuple[str, str]]:
    """Packets by (hook, reason), over all nodes."""
    total: Counter[tuple[str, str]] = Counter()
    for node in cluster.nodes:
        for hook, reason, count in LINE.findall(cluster.exec(node.name, "curl", "-sS", "--max-time", "5", METRICS)):
            total[hook, reason] += int(count)
    return total

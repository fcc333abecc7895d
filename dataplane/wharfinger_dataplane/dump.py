"""What is in this node's kernel, as JSON: `python3 -m wharfinger_dataplane.dump`. Reads pinned maps only; loads and changes nothing.

For `wharfinger sysdump`, and for a look at a node whose agent does not run.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from wharfinger_dataplane import _bpf
from wharfinger_dataplane._engine import HOOKS, REASONS
from wharfinger_dataplane._records import COUNTER_REASONS, unpack_address, unpack_flow, unpack_pod

BPFFS = Path("/sys/fs/bpf")
FLOWS = ("flows", "opening_flows", "closed_flows")
TABLES = ("interfaces", "pods", "addresses", "pages", "sets", "servers", "server_ports", *FLOWS, "wires", "opening_wires", "closed_wires")


def dump(bpffs: Path = BPFFS) -> dict[str, Any]:
    """links[], and layouts {directory: {tables {name: {entries, capacity}}, pods {address: ...}, flows {state: entries},
    counters {hook: {reason: packets}}}}; `unreadable` stands in place of what another release's maps hold. OSError when the BPF file
    system cannot be read."""
    root = bpffs / "wharfinger"
    return {
        "links": sorted(path.name for path in (root / "links").glob("*")),
        "layouts": {directory.name: _layout(directory) for directory in sorted(root.glob("maps-*"))},
    }


def _layout(directory: Path) -> dict[str, Any]:
    maps = {path.name: found for path in directory.iterdir() if (found := _bpf.Map.open(path))}
    try:
        out: dict[str, Any] = {"tables": {name: {"entries": sum(map(len, found.batches())), "capacity": found.max_entries}
                                          for name, found in maps.items() if name in TABLES}}
        try:
            out["pods"] = {unpack_address(key): unpack_pod(value)._asdict() for key, value in maps["pods"].items()}
            out["flows"] = Counter(unpack_flow(value).state.name for table in FLOWS for batch in maps[table].batches()
                                   for _, value in batch)
            out["counters"] = _counters(maps["counters"])
        except (KeyError, ValueError) as error:
            out["unreadable"] = f"these maps are another release's: {error}"
        return out
    finally:
        for found in maps.values():
            found.close()


def _counters(counters: _bpf.Map) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for hook, hook_name in enumerate(HOOKS):
        for reason in REASONS:
            cells = counters.get_per_cpu((hook * COUNTER_REASONS + reason.number).to_bytes(4, "little"))
            packets = sum(int.from_bytes(cell[:8], "little") for cell in cells)
            if packets:
                out.setdefault(hook_name, {})[reason.name] = packets
    return out


if __name__ == "__main__":
    json.dump(dump(), sys.stdout, indent=1)

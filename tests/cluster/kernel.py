"""What a kernel has of anybody's: programs, maps, pins, queueing disciplines and rules, asked of the kernel itself. Nothing that the project keeps
is believed.

Run inside a node (`python kernel.py`) it prints `held()` as JSON. Numbers of programs and maps are the machine's: no two nodes share one.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.programs import _bpf, attached

PROG_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD = 13, 15
INFO, NR_MAP_IDS = 256, 52
"""A size that struct bpf_prog_info fits in, and where its number of maps and, after it, their place stand."""
MAPS = 64
PINS = Path("/sys/fs/bpf")
QUEUES = ("clsact", "ingress")
KUBE_PROXY = "kube-proxy"
"""The name of its tables, which follow Services and their pods."""


def maps_of(program: int) -> list[int]:
    """The numbers of the maps that a program uses."""
    numbers, info = (ctypes.c_uint32 * MAPS)(), ctypes.create_string_buffer(INFO)
    struct.pack_into("=IQ", info, NR_MAP_IDS, MAPS, ctypes.addressof(numbers))
    fd = _bpf(PROG_GET_FD_BY_ID, ctypes.create_string_buffer(struct.pack("=I", program), 64))
    try:
        _bpf(OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(struct.pack("=IIQ", fd, INFO, ctypes.addressof(info)), 64))
    finally:
        os.close(fd)
    return list(numbers[:struct.unpack_from("=I", info, NR_MAP_IDS)[0]])


def held() -> dict:
    """What this network and mount namespace has: programs at interfaces and their maps, pins, queueing disciplines, and rules without counters."""
    links = [entry["ifindex"] for entry in json.loads(_run("ip", "-json", "link"))]
    programs = sorted({number for link in links for number in attached(link)})
    return {
        "programs": programs, "maps": sorted({number for program in programs for number in maps_of(program)}),
        "pins": sorted(str(path) for path in PINS.rglob("*")),
        "queues": sorted((entry["dev"], entry["kind"]) for entry in json.loads(_run("tc", "-json", "qdisc")) if entry["kind"] in QUEUES),
        "rules": json.loads(_run("ip", "-json", "-4", "rule")) + json.loads(_run("ip", "-json", "-6", "rule")),
        "tables": _tables(_run("nft", "--stateless", "list", "ruleset")),
        "legacy": [name for path in ("ip_tables_names", "ip6_tables_names") if (file := Path("/proc/self/net", path)).exists()
                   for name in file.read_text().split()]}


def _tables(ruleset: str) -> dict[str, str]:
    """Table -> its chains and rules, without kube-proxy's. iptables writes into such tables too."""
    found = re.findall(r"^(table \w+ \S+) \{\n(.*?)^\}", ruleset, re.M | re.S)
    return {name: re.sub(r"counter packets \d+ bytes \d+", "counter", text) for name, text in found if not name.endswith(f" {KUBE_PROXY}")}


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(json.dumps(held()))

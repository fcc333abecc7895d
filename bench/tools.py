"""Load that nobody here wrote: wrk against nginx, and iperf3, in a lab of two nodes; the pod's address ("direct") and the virtual address
("aware") in turn, so that what moves the machine moves both.

`python bench/tools.py [ROUNDS]` prints each figure's medians and the ratio of aware to direct with its 95 % interval.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("tests", "tests/cluster")]

from support.lab import Lab, Pod, Role, bpffs, fall_back  # noqa: E402
from support.slices import VIRTUAL, pool_slice  # noqa: E402

HTTP, BULK = 8080, 5201
SECONDS = 3
ROUNDS = 9
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  server {{ listen {address}:{port} backlog=4096; location / {{ return 200 "hello\\n"; }} }}
}}
"""
FIGURES = ("connections/s", "requests/s", "latency p50 µs", "latency p99 µs", "bulk Gb/s")


def within(pod: Pod, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nsenter", f"--net=/run/netns/{pod.name}", *command], capture_output=True, text=True, check=True,
                          timeout=120)


@contextmanager
def servers(pod: Pod, folder: Path) -> Iterator[None]:
    """nginx and iperf3 in the pod."""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, address=pod.address, port=HTTP))
    enter = ["nsenter", f"--net=/run/netns/{pod.name}"]
    started = [subprocess.Popen([*enter, "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]),
               subprocess.Popen([*enter, "iperf3", "--server", "--bind", pod.address], stdout=subprocess.DEVNULL)]
    try:
        time.sleep(1)
        yield
    finally:
        for each in started:
            each.terminate()
            each.wait()


def micros(text: str) -> float:
    """wrk's "1.23ms" in microseconds."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def wrk(pod: Pod, address: str, port: int, *more: str) -> tuple[float, float, float]:
    """(requests a second, p50 and p99 of their latency in µs)."""
    command = ("wrk", "--latency", "-t", "1", "-c", "16", "-d", str(SECONDS), *more, f"http://{address}:{port}/")
    out = within(pod, *command).stdout
    assert "Socket errors" not in out, out
    found = {share: micros(re.search(rf"^\s+{share}%\s+(\S+)", out, re.M)[1]) for share in (50, 99)}
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), found[50], found[99]


def bulk(pod: Pod, address: str, port: int) -> float:
    """Gb/s that arrived."""
    out = within(pod, "iperf3", "--client", address, "--port", str(port), "--time", str(SECONDS), "--json").stdout
    return json.loads(out)["end"]["sum_received"]["bits_per_second"] / 1e9


def interval(ratios: list[float], samples: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the ratios' median, by bootstrap."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(samples))
    return medians[int(samples * 0.025)], medians[int(samples * 0.975)]


def measure(rounds: int) -> dict[str, dict[str, object]]:
    """figure -> {direct, aware: medians, ratio: the median of the rounds' ratios, interval}."""
    seen: dict[str, dict[str, list[float]]] = {figure: {"direct": [], "aware": []} for figure in FIGURES}
    with tempfile.TemporaryDirectory() as name, bpffs(Path(name, "bpffs")) as pins:
        lab = Lab(pins, "wharf-tools")
        try:
            near, far = lab.add_node(), lab.add_node()
            client, pod = lab.add_pod(near, "client", Role.CLIENT), lab.add_pod(far, "a", Role.SERVER)
            for node in lab.nodes:
                node.tables.apply([pool_slice({"a": pod.address}, target=HTTP),
                                   pool_slice({"a": pod.address}, redirect=[BULK], target=BULK, scope=9, name="bulk",
                                              virtual=["10.96.0.11"], ports={"a": [20_009]})])
            fall_back(near, VIRTUAL, pod)
            # Or connect() looks ever longer for a port that is not in TIME_WAIT, and that is what is measured.
            within(client, "sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1", "net.ipv4.ip_local_port_range=1024 65535")
            paths = {"direct": ((pod.address, HTTP), (pod.address, BULK)), "aware": ((VIRTUAL, 80), ("10.96.0.11", BULK))}
            with servers(pod, Path(name)):
                for number in range(rounds):
                    for path in sorted(paths, reverse=number % 2 == 1):
                        http, stream = paths[path]
                        opened = wrk(client, *http, "-H", "Connection: close")[0]
                        kept, p50, p99 = wrk(client, *http)
                        for figure, value in zip(FIGURES, (opened, kept, p50, p99, bulk(client, *stream)), strict=True):
                            seen[figure][path].append(value)
            redirected = near.counts().get(("to_pod", "client_redirected"), 0)
            assert redirected > rounds * SECONDS * 100, f"{redirected} aware connections only"
        finally:
            lab.close()
    out = {}
    for figure, paths_ in seen.items():
        ratios = [aware / direct for aware, direct in zip(paths_["aware"], paths_["direct"], strict=True)]
        out[figure] = {**{path: statistics.median(values) for path, values in paths_.items()},
                       "ratio": statistics.median(ratios), "interval": interval(ratios)}
    return out


if __name__ == "__main__":
    for figure, of in measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS).items():
        print("{}: direct {:,.1f}, aware {:,.1f}, ratio {:.3f} ({:.3f} to {:.3f})".format(
            figure, of["direct"], of["aware"], of["ratio"], *of["interval"]))

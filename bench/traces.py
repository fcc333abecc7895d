"""What traces cost: connections/s and processor time a connection at shares of traces, in turn in one run, in a lab of two nodes.

    python bench/traces.py [ROUNDS]     prints the figures as JSON
    python bench/traces.py follow ...   a node's telemetry, as its agent runs it (started by the former)
    python bench/traces.py sink         a collector that reads and forgets

Each node's telemetry is a process of its own, and so is the collector, so the kernel says what each took. The collector's share is told and
not counted as ours: it runs elsewhere. Writing an event to the ring is in the connections' own time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.lab import Lab, Node, Pod, Role, bpffs
from support.slices import VIRTUAL, pool_slice
from wharfinger_dataplane import _bpf, telemetry

RATIOS = ("0", "0.1", "1")
CONNECTIONS = 30_000
SETTLE_S = 0.5
"""In which the last events come and are read: the ring is looked at five times a second."""
LOAD = str(Path(__file__).with_name("load.py"))


@dataclass
class Seen:
    """Of one ratio, a value a round: connections/s; microseconds of processor time a connection, of client and server together, of both
    nodes' telemetry, of the collector."""

    per_second: list[float] = field(default_factory=list)
    path_us: list[float] = field(default_factory=list)
    telemetry_us: list[float] = field(default_factory=list)
    collector_us: list[float] = field(default_factory=list)
    spans_exported: int = 0
    spans_dropped: int = 0
    events_lost: int = 0


def cpu_ns(process: int) -> int:
    """Processor time of another process, all its threads (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns(~process << 3 | 2)


@contextmanager
def started(*words: str, namespace: str | None = None) -> Iterator[subprocess.Popen]:
    """A process of Python's, in a namespace, with lines to and from it."""
    enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    with subprocess.Popen([*enter, sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def ask(process: subprocess.Popen, line: str) -> dict:
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"{process.args} ended at {line!r}")
    return json.loads(answer)


def measure(rounds: int) -> dict[str, dict]:
    """ratio -> summary."""
    with tempfile.TemporaryDirectory() as name, bpffs(Path(name, "bpffs")) as pins:
        lab = Lab(pins, "wharf-trace")
        try:
            return _measure(lab, pins, rounds)
        finally:
            lab.close()


def _measure(lab: Lab, pins: Path, rounds: int) -> dict[str, dict]:
    near, far = lab.add_node(), lab.add_node()
    client, backend = lab.add_pod(near, "client", Role.CLIENT), lab.add_pod(far, "a", Role.SERVER)
    for node in lab.nodes:
        node.tables.apply([pool_slice({"a": backend.address})])
    seen = {ratio: Seen() for ratio in RATIOS}
    with ExitStack() as stack:
        sink = stack.enter_context(started(__file__, "sink"))
        url = json.loads(sink.stdout.readline())["url"]
        server = stack.enter_context(started(LOAD, "serve", "8080", namespace=backend.name))
        agents = [stack.enter_context(started(__file__, "follow", str(pins / node.name), url, client.address, backend.address))
                  for node in lab.nodes]
        processes = {"path_us": [server.pid], "telemetry_us": [agent.pid for agent in agents], "collector_us": [sink.pid]}
        for number in range(-1, rounds):  # the first one warms up
            for ratio in RATIOS[number % 3:] + RATIOS[:number % 3]:
                _one(lab.nodes, client, agents, processes, ratio, Seen() if number < 0 else seen[ratio])
    return {ratio: _summary(of, seen["0"]) for ratio, of in seen.items()}


def _one(nodes: list[Node], client: Pod, agents: list[subprocess.Popen], processes: dict[str, list[int]], ratio: str, seen: Seen) -> None:
    """One load at one ratio, until its last span is with the collector."""
    for agent in agents:
        ask(agent, ratio)
    lost = sum(map(_lost, nodes))
    for node in nodes:
        node.bpf.maps["settings"].put(bytes(4), int(ratio != "0").to_bytes(8, "little"))
    before = {what: sum(map(cpu_ns, pids)) for what, pids in processes.items()}
    per_second, client_us = _load(client)
    counts = [ask(agent, "end") for agent in agents]
    took_us = {what: (sum(map(cpu_ns, pids)) - before[what]) / 1000 for what, pids in processes.items()}
    took_us["path_us"] += client_us
    seen.per_second.append(per_second)
    for what, time_us in took_us.items():
        getattr(seen, what).append(time_us / CONNECTIONS)
    seen.spans_exported += sum(count["spans_exported"] for count in counts)
    seen.spans_dropped += sum(count["spans_dropped"] for count in counts)
    seen.events_lost += sum(map(_lost, nodes)) - lost


def _lost(node: Node) -> int:
    return sum(int.from_bytes(cell, "little") for cell in node.bpf.maps["events_lost"].get_per_cpu(bytes(4)))


def _load(client: Pod) -> tuple[float, float]:
    """Connections/s, and the client's microseconds."""
    process = subprocess.Popen(["nsenter", f"--net=/run/netns/{client.name}", sys.executable, LOAD, "connections", VIRTUAL, "80", str(CONNECTIONS)],
                               stdout=subprocess.PIPE, text=True)
    answer = json.loads(process.stdout.read())
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return answer["per_second"], (usage.ru_utime + usage.ru_stime) * 1e6


def _summary(of: Seen, none: Seen) -> dict:
    ratios = [mine / other for mine, other in zip(of.per_second, none.per_second, strict=True)]
    shares = [mine / other for mine, other in zip(of.telemetry_us, none.path_us, strict=True)]
    medians = {what: statistics.median(getattr(of, what)) for what in ("per_second", "path_us", "telemetry_us", "collector_us")}
    return {**medians, "ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios), "share": statistics.median(shares),
            "share_greatest": max(shares), "spans_exported": of.spans_exported, "spans_dropped": of.spans_dropped, "events_lost": of.events_lost}


def follow(pins: str, url: str, client: str, backend: str) -> None:
    """A ratio begins; `end` sends what waits and answers with the counts. At 0 nothing runs, as in an agent."""
    ring, running = _bpf.Ring(_bpf.Map.open(Path(pins, "events"))), None
    for line in sys.stdin:
        if line.strip() != "end":
            running = telemetry.start(telemetry.settings_from({
                "OTEL_EXPORTER_OTLP_ENDPOINT": url if line.strip() != "0" else "", "WHARFINGER_TRACE_KEY": "5a" * 32,
                "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": line.strip()}), "node", "0")
            running.names.update([pool_slice({"a": backend})], [telemetry.PodName(client, "bench/client", "near")])
            if running.wanted:
                running.follow(ring)
            print("{}", flush=True)
        else:
            time.sleep(SETTLE_S)
            running.close(30)
            counts: dict[str, int] = {}
            for (name, _), count in running.counters().items():
                counts[name] = counts.get(name, 0) + count
            print(json.dumps(counts), flush=True)


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_words) -> None:
        """Says nothing."""


def main(arguments: list[str]) -> None:
    match arguments:
        case ["follow", pins, url, client, backend]:
            follow(pins, url, client, backend)
        case ["sink"]:
            server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
            print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
            server.serve_forever()
        case [] | [_]:
            print(json.dumps(measure(int(arguments[0]) if arguments else 9), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])

"""What traces cost connections/s, at shares of traces, and when the collector never answers, in a lab of two nodes.

    python bench/traces.py [ROUNDS]     prints the figures as JSON
    python bench/traces.py follow ...   a node's telemetry, as its agent runs it (started by the former)
    python bench/traces.py sink         a collector that reads and forgets, and one that never answers

Client, server and both nodes' telemetry share one processor, so a connection costs what they take together:

- what the programs' reports cost is in the connections' own time, and the kernel says what programs take. Slices of 100 connections with and
  without them take turns (without, with, with, without): a shared machine's speed moves by a tenth within a second, neighbours in time move together;
- what telemetry's processes take, the kernel says, of a load that is reported from beginning to end, until its last span is with the collector.

The collector is told and not counted as ours: it runs elsewhere.
"""

from __future__ import annotations

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.lab import Lab, Node, Role, bpffs
from support.slices import VIRTUAL, pool_slice
from wharfinger_dataplane import _bpf, telemetry
from wharfinger_dataplane.telemetry._identity import key_of

CASES = {"0.1": ("0.1", "sink"), "1": ("1", "sink"), "0.1, no answer": ("0.1", "silent")}
"""Of each: the share of traces, and which collector has them."""
SLICE, TURNS, LONG = 100, 150, 30_000
"""Connections of a slice; turns of four slices a round; connections of the load by which telemetry is judged, in each round."""
SETTLE_S = 0.5
"""In which the last events come and are read: the ring is looked at five times a second."""
SECRET = "5a" * 32
LOAD = str(Path(__file__).with_name("load.py"))


@dataclass
class Seen:
    """Of one case: microseconds a connection, of each turn without and with reports, and by how much the programs took longer with; of each
    round's telemetry and collector."""

    without_us: list[float] = field(default_factory=list)
    with_us: list[float] = field(default_factory=list)
    reports_us: list[float] = field(default_factory=list)
    telemetry_us: list[float] = field(default_factory=list)
    collector_us: list[float] = field(default_factory=list)
    spans_exported: int = 0
    spans_dropped: int = 0
    events_lost: int = 0


def processor_us(processes: Sequence[subprocess.Popen]) -> float:
    """What the processes took so far, all their threads (clock_getcpuclockid(3))."""
    return sum(time.clock_gettime_ns(~process.pid << 3 | 2) for process in processes) / 1000


@contextmanager
def started(*words: str, namespace: str | None = None, ours: bool = True) -> Iterator[subprocess.Popen]:
    """A process of Python's, in a namespace, with lines to and from it; on our one processor or on the others."""
    first, *others = sorted(os.sched_getaffinity(0))
    place = ["taskset", "-c", ",".join(map(str, [first] if ours or not others else others))]
    enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    with subprocess.Popen([*place, *enter, sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def programs_us(nodes: Sequence[Node]) -> float:
    """What the nodes' programs took so far, by the kernel's account (BPF_ENABLE_STATS)."""
    return sum(program.totals()[0] for node in nodes for program in node.bpf.programs.values()) / 1000


def ask(process: subprocess.Popen, line: str) -> dict:
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"{process.args} ended at {line!r}")
    return json.loads(answer)


def measure(rounds: int) -> dict[str, dict]:
    """Case -> summary."""
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
        report(node, "0")
    # else connect() soon searches 5 ms for a port, most of them being in TIME_WAIT
    client.run(lambda: Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("1"))
    seen = {case: Seen() for case in CASES}
    with ExitStack() as stack:
        sink = stack.enter_context(started(__file__, "sink", ours=False))
        urls = json.loads(sink.stdout.readline())
        stack.enter_context(started(LOAD, "serve", "8080", namespace=backend.name)).stdout.readline()
        load = stack.enter_context(started(LOAD, "turns", VIRTUAL, "80", namespace=client.name))
        agents = [stack.enter_context(started(__file__, "follow", str(pins / node.name), client.address, backend.address))
                  for node in lab.nodes]
        stack.enter_context(_bpf.statistics())
        ask(load, str(LONG))
        for _ in range(rounds):
            for case, (share, collector) in CASES.items():
                _round(lab.nodes, load, agents, sink, share, urls[collector], seen[case])
    return {case: summary(of) for case, of in seen.items()}


def report(node: Node, share: str) -> None:
    """Has the programs report this share of connections."""
    node.trace(key_of(bytes.fromhex(SECRET)), telemetry.Sampling.of_ratio(float(share)).traced)


def _round(nodes: list[Node], load: subprocess.Popen, agents: list[subprocess.Popen], sink: subprocess.Popen, share: str, url: str,
           seen: Seen) -> None:
    """A round of one case, until its last span is with the collector or dropped."""
    for agent in agents:
        ask(agent, f"{share} {url}")
    lost = sum(map(_lost, nodes))
    for _ in range(TURNS):
        took, programs = {False: 0.0, True: 0.0}, {False: 0.0, True: 0.0}
        for wanted in (False, True, True, False):
            for node in nodes:
                report(node, share if wanted else "0")
            before = programs_us(nodes)
            took[wanted] += 1e6 / ask(load, str(SLICE))["per_second"] / 2
            programs[wanted] += (programs_us(nodes) - before) / SLICE / 2
        seen.without_us.append(took[False])
        seen.with_us.append(took[True])
        seen.reports_us.append(programs[True] - programs[False])
    began = processor_us(agents), processor_us([sink])
    for node in nodes:
        report(node, share)
    ask(load, str(LONG))
    counts = [ask(agent, "end") for agent in agents]
    seen.telemetry_us.append((processor_us(agents) - began[0]) / LONG)
    seen.collector_us.append((processor_us([sink]) - began[1]) / LONG)
    seen.spans_exported += sum(count["spans_exported"] for count in counts)
    seen.spans_dropped += sum(count["spans_dropped"] for count in counts)
    seen.events_lost += sum(map(_lost, nodes)) - lost


def _lost(node: Node) -> int:
    return sum(int.from_bytes(cell, "little") for cell in node.bpf.maps["events_lost"].get_per_cpu(bytes(4)))


def summary(of: Seen) -> dict:
    """Medians. `share` is of a connection's time what reports and telemetry take, by the kernel's account; `ratio` is connections/s with both to
    those without, by the clock. Each with its 95 % interval."""
    without_us, telemetry_us, reports_us = map(statistics.median, (of.without_us, of.telemetry_us, of.reports_us))
    ratios = [none / (some + of.telemetry_us[n // TURNS]) for n, (none, some) in enumerate(zip(of.without_us, of.with_us, strict=True))]
    shares = [(reports + of.telemetry_us[n // TURNS]) / without_us for n, reports in enumerate(of.reports_us)]
    return {"without_us": without_us, "reports_us": reports_us, "telemetry_us": telemetry_us,
            "share": statistics.median(shares), "share_interval": interval(shares),
            "ratio": statistics.median(ratios), "ratio_interval": interval(ratios),
            "collector_us": statistics.median(of.collector_us), "spans_exported": of.spans_exported, "spans_dropped": of.spans_dropped,
            "events_lost": of.events_lost}


def interval(values: Sequence[float], draws: int = 1000) -> tuple[float, float]:
    """The 95 % interval of the median, by bootstrap."""
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(draws))
    return medians[draws * 25 // 1000], medians[draws * 975 // 1000]


def follow(pins: str, client: str, backend: str) -> None:
    """A share and a collector begin; `end` sends what waits and answers with the counts."""
    ring, running = _bpf.Ring(_bpf.Map.open(Path(pins, "events"))), None
    for line in sys.stdin:
        if line.strip() != "end":
            share, url = line.split()
            running = telemetry.start(telemetry.settings_from({
                "OTEL_EXPORTER_OTLP_ENDPOINT": url, "WHARFINGER_TRACE_KEY": SECRET,
                "OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}), "node", "0")
            running.names.update([pool_slice({"a": backend})], [telemetry.PodName(client, "bench/client", "near")])
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
        case ["follow", pins, client, backend]:
            follow(pins, client, backend)
        case ["sink"]:
            server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
            with socket.create_server(("127.0.0.1", 0)) as silent:
                print(json.dumps({"sink": f"http://127.0.0.1:{server.server_port}", "silent": f"http://127.0.0.1:{silent.getsockname()[1]}"}),
                      flush=True)
                server.serve_forever()
        case [] | [_]:
            print(json.dumps(measure(int(arguments[0]) if arguments else 9), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])

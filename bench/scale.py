"""`make bench-scale`: the operator at full size, against a real API server: cold start, one change at a time, a burst. Prints a table;
stores bench/results/scale.json.

The operator is the real process. Pods and nodes are objects without kubelets; their statuses, and the Leases and NodeReports of the agents,
are written here (scale_load.py), the reports by the agent's own code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "tests" / "cluster"), str(TOP / "bench")]

from scale_load import SYSTEM, Load, Size  # noqa: E402
from testbed import Cluster  # noqa: E402
from testbed.settings import Settings  # noqa: E402

HEALTH_PORT = 18321
SETTLED_WITHIN_S = 600.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Operator:
    """The operator's process, and what it costs."""

    def __init__(self, cluster: Cluster, log: Path) -> None:
        environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "POD_NAMESPACE": SYSTEM, "POD_NAME": "bench",
                       "WHARFINGER_HEALTH_PORT": str(HEALTH_PORT), "WHARFINGER_LOG_LEVEL": "warning",
                       "WHARFINGER_LEASE_DURATION_S": "60"}  # On a machine that does all the cluster's work, losing it would end the bench.
        self._log = log.open("wb")
        self._process = subprocess.Popen([sys.executable, "-m", "wharfinger_operator"], env=environment, stderr=self._log)

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def peak_mb(self) -> float:
        """The most memory that was resident so far."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

    async def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels; none while it does not answer yet."""
        return await asyncio.to_thread(self._metrics)

    def _metrics(self) -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{HEALTH_PORT}/metrics", timeout=60) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    async def requests(self) -> int:
        """Requests to the API server so far, but for those about its own Lease."""
        return round(sum(value for name, value in (await self.metrics()).items()
                         if name.startswith("wharfinger_operator_requests_total") and 'kind="leases"' not in name))

    async def planned(self) -> None:
        """Returns when it has planned."""
        while not (await self.metrics()).get("wharfinger_operator_plans_total"):
            if self._process.poll() is not None:
                raise RuntimeError(f"the operator ended: {self.last_words()}")
            await asyncio.sleep(0.1)

    def last_words(self) -> str:
        """The end of its log."""
        return Path(self._log.name).read_text()[-2000:]

    def stop(self) -> None:
        if self._process.poll() is not None:
            print(f"the operator ended by itself with {self._process.returncode}; its log ends with:", self.last_words(), sep="\n", file=sys.stderr)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._process.kill()
        self._log.close()


@dataclass
class Change:
    """One change: milliseconds from its request to the slice's write, and until its pool was Programmed again; what it cost."""

    kind: str
    slice_ms: float
    programmed_ms: float


async def cold(load: Load, cluster: Cluster, log: Path) -> tuple[Operator, dict]:
    """Starts the operator; it, and what it took until every pool was Programmed."""
    began = time.monotonic()
    operator = Operator(cluster, log)
    try:
        await operator.planned()
        await load.until(load.all_programmed, SETTLED_WITHIN_S, "every pool Programmed")
    except BaseException:
        operator.stop()
        raise
    took = time.monotonic() - began
    return operator, {"programmed_s": took, "cpu_s": operator.cpu_s(), "requests": await operator.requests(), "peak_mb": operator.peak_mb()}


async def settle(load: Load, operator: Operator) -> None:
    """Until everything is Programmed and the operator has nothing to ask for."""
    while True:
        await load.until(load.all_programmed, SETTLED_WITHIN_S, "every pool Programmed")
        before = await operator.requests()
        await asyncio.sleep(1.0)
        if await operator.requests() == before and load.all_programmed():
            return


async def changes(load: Load, operator: Operator, count: int, first: int = 0) -> dict:
    """One change at a time, each after the last one's end."""
    await settle(load, operator)
    cpu_s, requests, made = operator.cpu_s(), await operator.requests(), []
    for number in range(first, first + count):
        kind, change, pool = load.next_change(number)
        version = load.slice_version(pool)
        began = time.monotonic()
        await change()
        written = await load.until(partial(load.slice_after, pool, version), 60, f"the slices of {pool} after {kind}")
        done = await load.until(partial(load.programmed_after, pool, version), 60, f"{pool} Programmed after {kind}")
        made.append(Change(kind, (written - began) * 1000, (done - began) * 1000))
        await asyncio.sleep(0.05)
    await settle(load, operator)
    return {"changes": len(made), "slice_ms": percentiles([each.slice_ms for each in made]),
            "programmed_ms": percentiles([each.programmed_ms for each in made]),
            "requests_a_change": (await operator.requests() - requests) / len(made), "cpu_ms_a_change": 1000 * (operator.cpu_s() - cpu_s) / len(made),
            "kinds": {kind: medians(each for each in made if each.kind == kind) for kind in dict.fromkeys(each.kind for each in made)}}


async def burst(load: Load, operator: Operator, count: int, within_s: float) -> dict:
    """`count` pods stop being ready and are ready again, spread over `within_s`."""
    await settle(load, operator)
    cpu_s, requests = operator.cpu_s(), await operator.requests()
    began = time.monotonic()
    took = await load.burst(count, within_s)
    asked = time.monotonic()
    done = await load.until(load.all_ready, SETTLED_WITHIN_S, "every pod Ready and every pool Programmed after the burst")
    await settle(load, operator)
    return {"changes": count, "asked_within_s": took, "programmed_after_s": done - asked, "whole_s": done - began,
            "cpu_s": operator.cpu_s() - cpu_s, "requests": await operator.requests() - requests}


def medians(changes: Iterable[Change]) -> dict[str, float]:
    """Of both of their times."""
    slice_ms, programmed_ms = zip(*((each.slice_ms, each.programmed_ms) for each in changes), strict=True)
    return {"slice_ms": statistics.median(slice_ms), "programmed_ms": statistics.median(programmed_ms)}


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p99 (nearest rank) and the greatest."""
    ordered = sorted(values)
    return {"p50": statistics.median(ordered), "p99": ordered[-(-99 * len(ordered) // 100) - 1], "max": ordered[-1]}


async def measure(cluster: Cluster, size: Size, count: int, burst_count: int) -> dict:
    """Everything, on a cluster that has none of our objects yet."""
    async with Load(cluster, size) as load:
        began = time.monotonic()
        say(f"creating {size.pools} pools and {size.pools * size.servers} pods")
        await load.create()
        created_s = time.monotonic() - began
        say("a cold start")
        operator, first = await cold(load, cluster, cluster.settings.logs / "operator.log")
        try:
            result = {"size": asdict(size), "created_s": created_s, "cold": first}
            say(f"{count} changes, one after the other")
            result["change"] = await changes(load, operator, count)
            say(f"{burst_count} pods replaced")
            result["burst"] = await burst(load, operator, burst_count, 10.0 * burst_count / 1000)
            metrics = await operator.metrics()
            result |= {"peak_mb": operator.peak_mb(), "cpu_s": operator.cpu_s(), "operator": {
                name.removeprefix("wharfinger_operator_"): value for name, value in metrics.items()}}
        finally:
            operator.stop()
        say("a restart")
        operator, again = await cold(load, cluster, cluster.settings.logs / "operator-again.log")
        try:
            began = time.monotonic()
            await changes(load, operator, 1, first=5 * count)
            result["restart"] = {**again, "first_change_s": time.monotonic() - began}
        finally:
            operator.stop()
    return result


def say(stage: str) -> None:
    """Tells what is measured now: the whole takes minutes."""
    print(f"{datetime.now(UTC):%H:%M:%S} {stage}", flush=True)


def run(size: Size, count: int, burst_count: int) -> dict:
    """Measures on an API server of its own, which is ended afterwards."""
    settings = Settings.control_plane_only()
    Cluster(settings).down()  # What a run left that was cut short.
    cluster = Cluster.ensure(settings)
    try:
        cluster.kubectl("apply", "--server-side", *(word for path in sorted((TOP / "crds").glob("*.yaml")) for word in ("-f", str(path))))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        return asyncio.run(measure(cluster, size, count, burst_count))
    finally:
        if not os.environ.get("WHARFINGER_BENCH_KEEP"):
            cluster.down()


def show(result: dict) -> str:
    """The result in words."""
    first, change, many = result["cold"], result["change"], result["burst"]
    return "\n".join([
        f"cold: every pool Programmed after {first['programmed_s']:.1f} s, {first['cpu_s']:.1f} s of processor, {first['requests']} requests, "
        f"{first['peak_mb']:.0f} MB at most",
        *(f"a change to {what}: p50 {change[key]['p50']:.0f} ms, p99 {change[key]['p99']:.0f} ms, greatest {change[key]['max']:.0f} ms"
          for what, key in (("the slice's write", "slice_ms"), ("Programmed", "programmed_ms"))),
        f"a change: {change['requests_a_change']:.1f} requests, {change['cpu_ms_a_change']:.0f} ms of the operator's processor",
        f"{many['changes']} changes asked for within {many['asked_within_s']:.1f} s: Programmed {many['programmed_after_s']:.1f} s after the last; "
        f"{many['cpu_s']:.1f} s of processor, {many['requests']} requests",
        f"memory at most {result['peak_mb']:.0f} MB"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=int, default=1000)
    parser.add_argument("--servers", type=int, default=10, help="of each pool")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--changes", type=int, default=120)
    parser.add_argument("--burst", type=int, default=1000)
    parser.add_argument("--store", default="scale.json", help="file name in bench/results")
    given = parser.parse_args()
    began = time.monotonic()
    result = {"taken": datetime.now(UTC).isoformat(timespec="seconds"),
              "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=TOP).stdout.strip(),
              **run(Size(given.pools, given.servers, given.nodes), given.changes, given.burst)}
    result["bench_s"] = time.monotonic() - began
    (TOP / "bench" / "results" / given.store).write_text(json.dumps(result, indent=2) + "\n")
    print(show(result))


if __name__ == "__main__":
    main()

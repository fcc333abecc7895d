"""The operator's health and metrics over HTTP: `/healthz` for the kubelet, `/metrics` in Prometheus's text format for scrapers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

from .snapshot import Snapshot


@dataclass
class Counts:
    """What was done since the start. `plan_s`: seconds spent planning; `requests`: to the API server, by method and plural."""

    plans: int = 0
    plan_s: float = 0.0
    plan_last_s: float = 0.0
    reconciles: int = 0
    incomplete: int = 0
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)

    def planned(self, took_s: float) -> None:
        """A plan was made."""
        self.plans += 1
        self.plan_s += took_s
        self.plan_last_s = took_s


def text(counts: Counts, snapshot: Snapshot) -> str:
    """All metrics, in Prometheus's text format 0.0.4."""
    ports = [pool.status.ports for pool in snapshot.pools.values()]
    prefix = "wharfinger_operator_"
    metrics: list[tuple[str, str, str, dict[str, float]]] = [
        ("plans_total", "counter", "Plans made.", {"": counts.plans}),
        ("plan_seconds_sum", "counter", "Seconds spent planning.", {"": counts.plan_s}),
        ("plan_seconds_last", "gauge", "Seconds that the last plan took.", {"": counts.plan_last_s}),
        ("reconciles_total", "counter", "Reconciles of a pool: its slices written.", {"": counts.reconciles}),
        ("incomplete_total", "counter", "Plans of which not all could be written.", {"": counts.incomplete}),
        ("changes_total", "counter", "Changes seen that a plan could depend on.", {"": snapshot.changes}),
        ("requests_total", "counter", "Requests to the API server, without those of watches.",
         {f'{{method="{method}",kind="{plural}"}}': number for (method, plural), number in sorted(counts.requests.items())}),
        ("pools", "gauge", "Service port pools seen.", {"": len(snapshot.pools)}),
        ("slices", "gauge", "Service port slices seen.", {"": len(snapshot.slices)}),
        ("pods", "gauge", "Pods seen.", {"": len(snapshot.pods)}),
        ("service_ports", "gauge", "Service ports of all pools.", {
            '{state="used"}': sum(each.used for each in ports), '{state="resting"}': sum(each.resting for each in ports),
            '{state="free"}': sum(each.free for each in ports)})]
    lines = []
    for name, kind, what, samples in metrics:
        lines += [f"# HELP {prefix}{name} {what}", f"# TYPE {prefix}{name} {kind}"]
        lines += [f"{prefix}{name}{labels} {value:.10g}" for labels, value in samples.items()]
    return "\n".join(lines) + "\n"


async def served(counts: Counts, snapshot: Snapshot, port: int) -> web.AppRunner:
    """Serves both on all addresses; the caller cleans the runner up. OSError when the port is taken."""
    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=text(counts, snapshot), content_type="text/plain", charset="utf-8")

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
